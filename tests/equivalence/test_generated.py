"""Requests that hypothesis makes up: whatever is asked alone and in a batch, the answers are the same."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from json import dumps
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import Phase, given, settings, strategies as st

from batchproxy import BatchMiddleware
from tests.equivalence import starlette_app
from tests.equivalence.catalogue import KINDS, MULTIPART_TYPE, PRIVATE_TOKEN, write_files
from tests.equivalence.comparing import Body, Case, Scalar, Values, binary, differences, json, text
from tests.equivalence.echo_app import HEADER, Answer, echo
from tests.serving import Server, serve

bounded = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink]
)

# Paths and queries

PLAIN = string.ascii_letters + string.digits + "-._~"
MARKS = "!$&'()*+,;=:@[]"
A_BROWSER_ENCODES = ' "<>^`{|}'
SEVERAL_ENCODINGS = 3


def _has_dot_segment(path: str) -> bool:
    for _ in range(SEVERAL_ENCODINGS):
        segments = path.replace("\\", "/").split("/")
        if any(segment.partition(";")[0] in (".", "..") for segment in segments):
            return True
        path = unquote(path, "latin-1")
    return False


unicode = st.characters(min_codepoint=0xA0, exclude_categories=["Cs"])
triplets = st.integers(1, 255).flatmap(lambda byte: st.sampled_from([f"%{byte:02X}", f"%{byte:02x}"]))
segments = st.lists(
    st.one_of(st.sampled_from(PLAIN), st.sampled_from(MARKS), st.sampled_from(A_BROWSER_ENCODES), unicode, triplets),
    min_size=1,
    max_size=6,
).map("".join)
endings = st.sampled_from(["", "/"])
paths = st.builds(
    lambda parts, ending: "/" + "/".join(parts) + ending, st.lists(segments, min_size=1, max_size=3), endings
).filter(lambda path: not _has_dot_segment(path))
queries = st.lists(
    st.one_of(st.sampled_from(PLAIN + MARKS + "/?&=" + A_BROWSER_ENCODES), unicode, triplets), max_size=10
).map("".join)
targets = st.builds(lambda path, query: f"/g{path}?{query}" if query else f"/g{path}", paths, queries)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars: st.SearchStrategy[Scalar] = st.one_of(texts, st.integers(-(2**53), 2**53), st.booleans())
members: st.SearchStrategy[Mapping[str, Scalar | list[Scalar]]] = st.dictionaries(
    texts.filter(bool), st.one_of(scalars, st.lists(scalars, min_size=1, max_size=3)), max_size=2
)

# Headers

values = st.lists(st.sampled_from(string.printable[:94] + "  \xa3\xe9\xff"), max_size=12).map("".join).map(str.strip)
names = st.text(string.ascii_letters + string.digits + "-!#$%&'*+.^`|~", min_size=1, max_size=8)
KNOWN_HEADERS: dict[str, st.SearchStrategy[str]] = {
    "Accept": st.sampled_from(["*/*", "text/html, application/json;q=0.5"]),
    "Accept-Encoding": st.sampled_from(["gzip", "br, gzip;q=0"]),
    "Accept-Language": st.sampled_from(["de", "en-GB, en;q=0.5"]),
    "Authorization": st.sampled_from([f"Bearer {PRIVATE_TOKEN}", "Bearer wrong", "Basic YTpi"]),
    "Cookie": st.sampled_from(["a=1", 'a=1; b="2"; a=3', "broken", "session=x.y.z"]),
    "Idempotency-Key": values,
    "If-None-Match": st.sampled_from(['"1"', "*", 'W/"1", "2"']),
    "Prefer": st.just("return=minimal"),
    "Range": st.sampled_from(["bytes=0-1", "bytes=-3", "nonsense"]),
    "Referer": st.just("https://elsewhere.example/"),
    "User-Agent": values,
    "X-Request-ID": values,
}
made_up = st.dictionaries(
    names.map(lambda name: f"X-G-{name}"), st.one_of(values, st.lists(values, min_size=1, max_size=3)), max_size=3
)
known = st.fixed_dictionaries({}, optional=KNOWN_HEADERS)


def _unlike_in_case(headers: dict[str, Values]) -> dict[str, Values]:
    return {name: headers[name] for name in {name.lower(): name for name in headers}.values()}


item_headers = st.builds(lambda one, other: _unlike_in_case({**one, **other}), made_up, known)
INHERITED = ("Accept-Language", "Authorization", "Cookie", "Referer", "User-Agent")
inherited_headers = st.builds(
    lambda one, other: _unlike_in_case({**one, **other}),
    made_up,
    st.fixed_dictionaries({}, optional={name: KNOWN_HEADERS[name] for name in INHERITED}),
)

# Bodies

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
layouts = st.sampled_from(
    [
        partial(dumps, ensure_ascii=False),
        partial(dumps, indent=2),
        partial(dumps, separators=(" ,\r\n", "\t:\n")),
        partial(dumps, separators=(",", ":")),
    ]
)
json_texts = st.builds(lambda document, layout: layout(document), documents, layouts)
bodies: st.SearchStrategy[Body | None] = st.one_of(
    st.none(), json_texts.map(json), texts.map(text), st.binary(max_size=40).map(binary)
)

# Answers

media_types = st.sampled_from(["", *sorted({media_type for media_type, _ in KINDS.values()})])
contents = st.one_of(
    json_texts.map(str.encode),
    texts.map(str.encode),
    st.binary(max_size=40),
    st.sampled_from([content for _, content in KINDS.values() if len(content) < 1000]),
)
response_headers = st.lists(
    st.one_of(
        st.tuples(names.map(lambda name: f"X-G-{name}"), values),
        st.tuples(st.just("Set-Cookie"), values),
        st.tuples(st.sampled_from(["Cache-Control", "Vary", "Link", "WWW-Authenticate", "Location", "ETag"]), values),
    ),
    max_size=5,
)
BODILESS = (204, 304)
statuses = st.one_of(st.sampled_from([200, 201, 400, 404, 500]), st.integers(200, 599))


def _answer(
    status: int, headers: list[tuple[str, str]], media_type: str, content: bytes, cut: int, declares: bool
) -> Answer:
    chunks = [] if status in BODILESS else [content[:cut], content[cut:]]
    if media_type:
        headers = [*headers, ("Content-Type", media_type)]
    if declares and chunks:
        headers = [*headers, ("Content-Length", str(len(content)))]
    return Answer(status=status, headers=headers, chunks=chunks)


answers = st.builds(_answer, statuses, response_headers, media_types, contents, st.integers(0, 20), st.booleans())


# Requests


methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])


@st.composite
def echoed(draw: st.DrawFn) -> Case:
    return Case(
        "echoed", draw(methods), draw(targets), headers=draw(item_headers), query=draw(members), body=draw(bodies)
    )


@st.composite
def answered(draw: st.DrawFn) -> Case:
    answer = draw(answers)
    return Case("answered", draw(methods), draw(targets), answer.status, headers={HEADER: answer.written()})


@st.composite
def routed(draw: st.DrawFn) -> Case:
    """A request that a route of the Starlette app may understand."""
    path = draw(st.one_of(st.sampled_from(ROUTES), paths.map("/path{}".format), paths.map("/static{}".format), targets))
    headers = draw(item_headers)
    body = draw(bodies)
    if draw(st.booleans()):
        headers["Content-Type"] = draw(st.sampled_from([MULTIPART_TYPE, "application/x-www-form-urlencoded", "text/x"]))
    return Case("routed", draw(methods), path, None, headers=headers, query=draw(members), body=body, masks=(DRAWN,))


ROUTES = [
    *(f"/kinds/{kind}" for kind in ("json", "broken", "latin", "binary")),
    *("/bytes", "/cookies", "/cookies/set", "/client", "/file", "/form", "/headers", "/headers/kinds", "/items/1"),
    *("/items/1?teapot", "/json", "/methods", "/mounted/path/a", "/private", "/raises/known", "/session", "/slash"),
    *("/static/hello.txt", "/status/204", "/status/304", "/stream/lines", "/stream/pieces", "/text", "/upload"),
]
DRAWN = ("[0-9a-f]{26}", "boundary")


def batches(cases: st.SearchStrategy[Case]) -> st.SearchStrategy[list[Case]]:
    return st.builds(_sharing, st.lists(cases, min_size=1, max_size=5), inherited_headers)


def _sharing(cases: list[Case], inherited: dict[str, Values]) -> list[Case]:
    """The requests, with the inherited headers of their common outer request."""

    return [replace(case, inherited=inherited) for case in cases]


@pytest.fixture(scope="module", params=["h11", "httptools"])
def echoing(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(BatchMiddleware(echo), http=request.param, access_log=False) as server:
        yield server


@pytest.fixture(scope="module")
def routing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files: Path = tmp_path_factory.mktemp("files")
    write_files(files)
    app = starlette_app.build(files, lambda app: app.add_middleware(BatchMiddleware))
    with serve(app, access_log=False) as server:
        yield server


@bounded
@given(cases=batches(echoed()))
def test_whatever_is_asked_reaches_the_app_as_alone(echoing: Server, cases: list[Any]) -> None:
    """Method, path, query, headers and body of an item reach the app as those of the request alone."""
    assert differences(echoing, cases) == []


@bounded
@given(cases=batches(answered()))
def test_whatever_the_app_answers_reaches_the_client_as_alone(echoing: Server, cases: list[Case]) -> None:
    """Status, headers and body of an app's answer are in the entry as in the answer alone."""
    assert differences(echoing, cases) == []


@bounded
@given(cases=batches(routed()))
def test_whatever_is_asked_of_an_app_is_answered_as_alone(routing: Server, cases: list[Case]) -> None:
    """An app with routes and middlewares answers any request as an item as it does alone."""
    assert differences(routing, cases) == []
