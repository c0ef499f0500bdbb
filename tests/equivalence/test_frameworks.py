"""The catalogue against apps of six frameworks: alone and in a batch, everything is the same."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from batchproxy import BatchMiddleware
from tests.equivalence import django_app, falcon_app, fastapi_app, litestar_app, quart_app, starlette_app
from tests.equivalence.catalogue import SEQUENCES, write_files
from tests.equivalence.comparing import (
    IN_ORDER,
    NDJSON,
    PARALLEL,
    WAYS,
    Case,
    Mask,
    alone,
    differences,
    in_batch,
    json,
    names,
)
from tests.serving import PATIENCE, App, Server, serve

SETTINGS: dict[str, Any] = {"path": "/batch", "max_items": 1000, "trusted_origins": ["https://shop.example"]}


class Framework(NamedTuple):
    build: Callable[[Path], App]
    cases: tuple[Case, ...]
    without: str = ""
    drawn: tuple[Mask, ...] = ()

    def asked(self, case: Case) -> Case:
        """The case, with masks for what the framework draws anew for every answer."""
        return replace(case, masks=(*case.masks, *self.drawn))


def added(build: Callable[..., App]) -> Callable[[Path], App]:
    """The app adds the middleware itself, between its others."""
    return lambda files: build(files, lambda app: app.add_middleware(BatchMiddleware, **SETTINGS))


def wrapped(build: Callable[[Path], App]) -> Callable[[Path], App]:
    return lambda files: BatchMiddleware(build(files), **SETTINGS)


# A session's cookie carries the time, or an identifier without a meaning.
DJANGO = (("session=([^:;]*)[^;]*", r"session=\1"), ("expires=[^;]*", "expires"))
LITESTAR = (("session=[0-9a-f]+", "session"),)

FRAMEWORKS = {
    "starlette-added": Framework(added(starlette_app.build), starlette_app.CASES),
    "starlette-wrapped": Framework(wrapped(starlette_app.build), starlette_app.CASES),
    "fastapi-added": Framework(added(fastapi_app.build), fastapi_app.CASES),
    "fastapi-wrapped": Framework(wrapped(fastapi_app.build), fastapi_app.CASES),
    "django": Framework(wrapped(django_app.build), django_app.CASES, without="a background task", drawn=DJANGO),
    "litestar": Framework(wrapped(litestar_app.build), litestar_app.CASES, drawn=LITESTAR),
    "quart": Framework(wrapped(quart_app.build), quart_app.CASES),
    "falcon": Framework(wrapped(falcon_app.build), falcon_app.CASES, without="a session"),
}
WITH_SESSIONS = [name for name, framework in FRAMEWORKS.items() if framework.without != "a session"]

KEYED = ("key-[0-9]+", "key")


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Serves a framework's app from its first use to the end of the module."""
    files = tmp_path_factory.mktemp("files")
    write_files(files)
    with ExitStack() as running:

        @cache
        def served(name: str) -> Server:
            return running.enter_context(serve(FRAMEWORKS[name].build(files), lifespan="auto", access_log=False))

        yield served


@pytest.fixture
def server(name: str, serving: Callable[[str], Server]) -> Server:
    return serving(name)


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, framework.asked(case), id=f"{name}-{case.name}")
        for name, framework in FRAMEWORKS.items()
        for case in framework.cases
    ],
)
def test_an_item_is_answered_as_the_request_alone(server: Server, case: Case) -> None:
    """Status, headers and body of an item are those of the request alone."""
    ways = WAYS if case.inherited else (PARALLEL, NDJSON)  # the batch of all that share an outer request goes each way
    assert differences(server, [case], ways=ways) == []


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_many_items_are_answered_as_the_requests_alone(server: Server, name: str) -> None:
    """Each of many items in one batch, in any order of execution, is answered as alone, whatever its neighbours do."""
    framework = FRAMEWORKS[name]
    assert differences(server, [framework.asked(case) for case in framework.cases if not case.inherited]) == []


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        pytest.param(name, [framework.asked(case) for case in sequence], id=f"{name}-{title}")
        for name, framework in FRAMEWORKS.items()
        for title, sequence in SEQUENCES.items()
        if title != framework.without
    ],
)
def test_a_sequence_of_items_has_the_effects_of_the_requests_alone(server: Server, cases: list[Case]) -> None:
    """Items that run one after another see what the items before them did, background tasks included."""
    assert differences(server, [replace(case, masks=(*case.masks, KEYED)) for case in cases], ways=IN_ORDER) == []


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_a_session_made_alone_is_known_in_a_batch(server: Server) -> None:
    """The cookie of a session opens it in a batch, as an item's own header and as an inherited one."""
    cookie = {"Cookie": _session(alone(server, MAKE_SESSION).values("set-cookie"))}
    own, inherited = replace(READ_SESSION, headers=cookie), replace(READ_SESSION, inherited=cookie)
    assert msgspec.json.decode(alone(server, own).body) == {"name": "Ada"}
    assert differences(server, [own]) == []
    assert differences(server, [inherited]) == []


@pytest.mark.parametrize("name", WITH_SESSIONS)
def test_a_session_made_in_a_batch_is_known_alone(server: Server) -> None:
    """The cookie that an entry carries opens the session for a request alone."""
    for way in WAYS:
        [entry] = in_batch(server, way, [MAKE_SESSION])
        cookie = _session(entry.values("set-cookie"))
        answer = alone(server, replace(READ_SESSION, headers={"Cookie": cookie}))
        assert msgspec.json.decode(answer.body) == {"name": "Ada"}


MAKE_SESSION = Case("make a session", "POST", "/session", body=json('{"name": "Ada"}'))
READ_SESSION = Case(
    "read a session", "GET", "/session", masks=(("session=[^;]*", "session"), ("expires=[^;]*", "expires"))
)


def _session(cookies: list[str]) -> str:
    [cookie] = [cookie for cookie in cookies if cookie.startswith("session=")]
    return cookie.partition(";")[0]


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize(
    "condition", ["If-None-Match", "If-Match", "If-Range", "If-Modified-Since", "If-Unmodified-Since"]
)
def test_validators_of_an_answer_alone_hold_in_a_batch(server: Server, name: str, condition: str) -> None:
    """A conditional request made from an answer's validators is answered in a batch as alone."""
    answer = alone(server, Case("a file", "GET", "/static/hello.txt"))
    validator = answer.header("last-modified" if condition.endswith("Since") else "etag")
    headers = {condition: validator or '"none"', "Range": "bytes=0-4"}
    case = Case(condition, "GET", "/static/hello.txt", None, headers=headers)
    assert differences(server, [FRAMEWORKS[name].asked(case)]) == []


@pytest.mark.parametrize("name", ["starlette-added", "starlette-wrapped"])
def test_items_have_the_client_address_of_their_connection(server: Server) -> None:
    """The app sees the caller's address and port for an item as for a request on the same connection."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/peer")
        answer = connection.getresponse().read()
        batch = msgspec.json.encode({"requests": [{"path": "/peer"}]})
        connection.request("POST", "/batch", batch, {"Content-Type": "application/json"})
        entry = msgspec.json.decode(connection.getresponse().read())["responses"][0]
    finally:
        connection.close()
    assert entry["body"] == msgspec.json.decode(answer)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_requests_have_names_of_their_own(name: str) -> None:
    """A failure names one request."""
    titles = names(FRAMEWORKS[name].cases)
    assert len(set(titles)) == len(titles)
