"""Values out of other answers: found as RFC 6901 says, and inert wherever they are put."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from batchproxy import Caller, Failure, Headers, Item, Refusal, Result
from batchproxy.engine.model import Reference, Template
from batchproxy.engine.paths import canonical
from batchproxy.engine.policy import Policy
from batchproxy.engine.references import Values, complete, placeholders_of_body, pointer

CALLER = Caller("r", scheme="https", host="api.example")
JSON_TYPE: Headers = ((b"content-type", b"application/json"),)
REFERENCE_FAILED = Failure.REFERENCE_FAILED

# Texts that mean something to whoever reads a path, a query, a header, JSON, or our own templates.
HOSTILE = st.sampled_from(
    ["", ".", "..", "../../admin", "%2e%2e", "%252e%252e%252f", "a%2fb", "a&b=c", "a=b;c", "?x", "#x", "\r\nY: z", "\n",
     "\x00", "{x}", "{{x}}", '"', '\\"', '"}],"x":[', "\\", "//evil.example", "https://api.example/x", "é", "\u2028",
     "\x85", "😀", " ", "+", ";", "a,b", "\ud7ff", "\uffff", "x" * 300]
)  # fmt: skip
TEXTS = st.text(max_size=40) | HOSTILE | st.lists(HOSTILE | st.text(max_size=3), max_size=3).map("".join)
SCALARS = TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("a/~01.é", max_size=3), inner, max_size=4),
    max_leaves=10,
)


def answer(document: Any, **more: Any) -> Result:
    return Result(0, 200, more.pop("headers", JSON_TYPE), json.dumps(document).encode())


def completed(
    target: str = "/a",
    *,
    answers: Mapping[str, Result],
    at: str = "/body",
    body: bytes = b"",
    headers: Headers = (),
    **settings: Any,
) -> Item | Refusal:
    """An item whose placeholders, each named in `answers`, stand for what is found in that answer."""
    references = tuple(Reference(name, source, pointer(at), f"id-{name}") for source, name in enumerate(answers))
    item = Item(9, "POST", b"", headers=headers, body=body, template=Template(references, target, bool(body)))
    policy = Policy(**settings)
    values = Values([item], policy)
    for source, result in enumerate(answers.values()):
        values.take(msgspec.structs.replace(result, index=source))
    return complete(item, values, CALLER, policy)


def sent(target: str = "/a", **more: Any) -> Item:
    item = completed(target, **more)
    assert isinstance(item, Item), item
    return item


def text_of(scalar: object) -> str:
    return scalar if isinstance(scalar, str) else json.dumps(scalar)


# In a path and a query


@given(SCALARS)
@example("..")
@example("%2e%2e")
@example("")
@example("..;x")
@example("a\\b")
def test_in_a_path_a_value_is_one_segment_or_refused(scalar: Any) -> None:
    """Whatever the value is, the path has the segments that it was written with, and the value is one of them."""
    item = completed("/a/{x}/b", answers={"x": answer(scalar)})
    if isinstance(item, Refusal):
        assert item.failure in (REFERENCE_FAILED, Failure.INVALID_PATH)
        return
    assert not {"/", "\\"} & set(text_of(scalar))
    first, value, last = item.path.decode("ascii")[1:].split("/")
    assert (first, last, item.query) == ("a", "b", b"")
    assert unquote(value) == text_of(scalar)
    assert canonical(item.path.decode("ascii")) == (item.path, b"")


@given(SCALARS)
def test_beside_other_text_in_a_segment_a_value_stays_in_it(scalar: Any) -> None:
    """A value beside dots or text can make no dot segment, no separator, no query and no fragment."""
    for target, before, after in (("/.{x}", ".", ""), ("/{x}.", "", "."), ("/v{x};y", "v", ";y")):
        item = completed(target, answers={"x": answer(scalar)})
        if isinstance(item, Item):
            assert item.path.count(b"/") == 1
            assert unquote(item.path[1:].decode("ascii")) == before + text_of(scalar) + after
            assert item.path not in (b"/.", b"/..")


@given(SCALARS, SCALARS)
@example("a\\b", 1)
def test_in_a_query_a_value_is_one_value_or_refused(first: Any, second: Any) -> None:
    """Whatever the values are, the query has the names that it was written with, and each value stands at its own."""
    answers = {"x": answer(first), "y": answer(second)}
    item = completed("/a?q={x}&r=1&s={y}z", answers=answers)
    if isinstance(item, Refusal):
        assert item.failure in (REFERENCE_FAILED, Failure.INVALID_PATH)
        assert {"/", "\\", "\x00"} & set(text_of(first) + text_of(second))
        return
    assert not {"/", "\\"} & set(text_of(first) + text_of(second))
    assert item.path == b"/a"
    pairs = parse_qsl(item.query.decode("ascii"), keep_blank_values=True, strict_parsing=True, separator="&")
    assert pairs == [("q", text_of(first)), ("r", "1"), ("s", text_of(second) + "z")]


@pytest.mark.parametrize("document", [None, [], {}, [1], {"a": 1}])
@pytest.mark.parametrize("target", ["/{x}", "/a?x={x}", "{x}"])
def test_in_a_path_only_scalars_are_put(document: Any, target: str) -> None:
    """Null, an array or an object cannot stand in a path or a query."""
    item = completed(target, answers={"x": answer(document)})
    assert isinstance(item, Refusal)
    assert item.failure is REFERENCE_FAILED


@given(TEXTS)
@example("https://api.example@evil.example/x")
@example("https://ada@api.example/x")
@example("https://api.example:443/x")
@example("https:/x")
@example("https:///x")
@example("//api.example/x")
@example("/\\evil.example")
@example("https://api.example/../x")
@example("https://api.example?x")
@example("HTTPS://API.EXAMPLE/x")
@example("https://api.example\t/x")
@example("https://api.example\u2044evil.example/x")
def test_a_whole_path_stays_on_the_origin(location: str) -> None:
    """A value that is the whole path gives a canonical path on the caller's own origin, or is refused."""
    item = completed("{x}", answers={"x": answer(location)})
    if isinstance(item, Refusal):
        assert item.failure in (REFERENCE_FAILED, Failure.INVALID_PATH)
        return
    target = (item.path + b"?" + item.query if item.query else item.path).decode("ascii")
    assert canonical(target) == (item.path, item.query)
    assert location.startswith("/") or location.lower().startswith("https://api.example")
    if location.startswith("/"):
        assert canonical(location) == (item.path, item.query)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/api/x", b"/api/x"),
        ("/api", b"/api"),
        ("https://api.example/api/x", b"/api/x"),
        ("/apix", None),
        ("/x", None),
        ("/api%2Fx", None),
        ("https://api.example/", None),
    ],
)
def test_a_whole_path_lies_under_the_base_path(location: str, path: bytes | None) -> None:
    """A whole path has the base path in it already, and must lie under it; inside a path the base comes before."""
    item = completed("{x}", answers={"x": answer(location)}, base_path="/api")
    if path is None:
        assert isinstance(item, Refusal)
        assert item.failure is Failure.INVALID_PATH
    else:
        assert isinstance(item, Item)
        assert item.path == path
    assert sent("/{x}", answers={"x": answer("v")}, base_path="/api").path == b"/api/v"


# In a header


@given(SCALARS)
def test_in_a_header_a_value_is_text_or_refused(scalar: Any) -> None:
    """Whatever the value is, the header has it between what stood around it, in one line, or the item is refused."""
    item = completed(headers=((b"x-a", b"<{x}>"), (b"x-b", b"{y}")), answers={"x": answer(scalar)})
    if isinstance(item, Refusal):
        assert item.failure is REFERENCE_FAILED
        return
    assert item.headers == ((b"x-a", f"<{text_of(scalar)}>".encode("latin-1")), (b"x-b", b"{y}"))
    assert not set(item.headers[0][1]) & {0, 10, 13}


# In a JSON body


@given(DOCUMENTS)
def test_in_a_body_a_whole_string_becomes_the_value(document: Any) -> None:
    """A string that is exactly the placeholder becomes the JSON value; keys and all other bytes stay."""
    value = answer(document)
    item = sent(body=b'{"{x}" :["{x}", "{y}","\\u007bz}" ],"n": 1.10, "n":2}', answers={"x": value})
    assert item.body == b'{"{x}" :[' + value.body + b', "{y}","\\u007bz}" ],"n": 1.10, "n":2}'


@given(SCALARS, TEXTS)
def test_inside_a_longer_string_a_value_is_text(scalar: Any, around: str) -> None:
    """Whatever the value and the text around it are, they are one string with the value at its place."""
    body = json.dumps({"before": 1, "text": f"{around}{{x}}{around}|", "after": [around]}).encode()
    expected = around.replace("{x}", text_of(scalar))
    item = sent(body=body, answers={"x": answer(scalar)}, max_var_bytes=100_000)
    document = json.loads(item.body)
    assert list(document) == ["before", "text", "after"]
    assert document["text"] == f"{expected}{text_of(scalar)}{expected}|"
    assert document["after"] == [scalar if around == "{x}" else expected]


@given(TEXTS)
def test_what_a_value_brings_in_is_not_expanded_again(text: str) -> None:
    """A value that looks like a placeholder stays text, whatever else is declared."""
    answers = {"x": answer(text + "{y}{x}"), "y": answer("SECRET")}
    item = sent(body=b'["{x}", "<{x}>", "{y}"]', headers=((b"x-a", b"{y}"),), answers=answers)
    assert json.loads(item.body) == [text + "{y}{x}", f"<{text}{{y}}{{x}}>", "SECRET"]


def test_a_value_may_not_be_larger_than_allowed() -> None:
    """`max_var_bytes` counts the bytes of the JSON value; the sum of what is put in is bounded as well."""
    value = answer("x" * 98)
    assert sent("/{x}", answers={"x": value}, max_var_bytes=100).path == b"/" + b"x" * 98
    for document in ("x" * 99, list(range(50))):
        item = completed(body=b'"{x}"', answers={"x": answer(document)}, max_var_bytes=100)
        assert isinstance(item, Refusal)
        assert item.failure is REFERENCE_FAILED
        assert "99" not in item.detail
    body = json.dumps(["{x}"] * 1000).encode()
    assert isinstance(completed(body=body, answers={"x": value}, max_item_bytes=99_000), Refusal)
    assert isinstance(completed("/" + "{x}" * 12_000, answers={"x": value}), Refusal)
    assert isinstance(completed(body=json.dumps("{x}" * 12_000).encode(), answers={"x": value}), Refusal)


# What a pointer finds


def looked_up(document: Any, tokens: tuple[str, ...]) -> tuple[bool, Any]:
    """RFC 6901, section 4, on decoded values."""
    for token in tokens:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif (
            isinstance(document, list) and token.isdecimal() and str(int(token)) == token and int(token) < len(document)
        ):
            document = document[int(token)]
        else:
            return False, None
    return True, document


@given(DOCUMENTS, st.lists(st.text("a/~01.é-", max_size=3) | st.sampled_from(["0", "1", "01", "-1", "٣"]), max_size=3))
@example([1, 2], ["01"])
@example([1, 2], ["-1"])
@example([[1, 2]], ["0", "1"])
def test_a_pointer_finds_what_rfc_6901_says(document: Any, tokens: list[str]) -> None:
    """What is found is what walking through the decoded document finds, byte for byte, or nothing."""
    written = "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)
    assert pointer(written) == tuple(tokens)
    item = completed(body=b'["{x}"]', answers={"x": answer(document)}, at="/body" + written)
    exists, value = looked_up(document, tuple(tokens))
    if exists:
        assert isinstance(item, Item)
        assert item.body == b"[" + json.dumps(value).encode() + b"]"
    else:
        assert isinstance(item, Refusal)
        assert item.failure is REFERENCE_FAILED


@pytest.mark.parametrize("text", ["a", "a/b", "~", "/~", "/~2", "/a~", "#/a"])
def test_what_is_no_pointer_is_refused(text: str) -> None:
    """A pointer is empty or begins with a slash; a tilde is followed by 0 or 1."""
    with pytest.raises(ValueError, match="JSON Pointer"):
        pointer(text)


@pytest.mark.parametrize(
    ("at", "found"),
    [
        ("/status", b"201"),
        ("/id", b'"id-x"'),
        ("/headers/location", b'"/a"'),
        ("/headers/set-cookie", b'["a=1","b=2","c=3"]'),
        ("/headers/set-cookie/2", b'"c=3"'),
        ("/headers/x-latin", '"é"'.encode()),
        ("/headers/Location", None),
        ("/index", None),
        ("/error", None),
        ("", None),
    ],
)
def test_a_pointer_looks_into_the_answer_as_it_is_shown(at: str, found: bytes | None) -> None:
    """Beside the body an answer has a status, an id and headers, a repeated one as a list."""
    headers = (
        (b"location", b"/a"),
        *((b"set-cookie", each) for each in (b"a=1", b"b=2", b"c=3")),
        (b"x-latin", b"\xe9"),
    )
    item = completed(body=b'"{x}"', answers={"x": Result(0, 201, headers)}, at=at)
    if found is not None:
        assert isinstance(item, Item)
        assert item.body == found
    elif at:
        assert isinstance(item, Refusal)


@pytest.mark.parametrize(
    ("content_type", "body", "found"),
    [
        (b"application/json", b' {"a" : 1.10 } ', b'{"a" : 1.10 }'),
        (b"application/json", b"nope", b'"nope"'),
        (b"application/json", b'{"a":"\xff"}', b'"eyJhIjoi/yJ9"'),
        (b"text/plain", b"a\nb", b'"a\\nb"'),
        (b"image/png", b"\x89", b'"iQ=="'),
        (b"application/json", b"", None),
    ],
)
def test_a_body_is_the_value_that_the_answer_shows(content_type: bytes, body: bytes, found: bytes | None) -> None:
    """The body of an answer is a JSON document, a string or base64, as the answer has it; without one, no value."""
    item = completed(body=b'"{x}"', answers={"x": Result(0, 200, ((b"content-type", content_type),), body)})
    if found is None:
        assert isinstance(item, Refusal)
    else:
        assert isinstance(item, Item)
        assert item.body == found


def test_deep_documents_and_long_pointers_are_no_burden() -> None:
    """A document as deep as is allowed is followed to its ground; one that is deeper is only text."""
    for depth, found in ((128, b"7"), (129, None)):
        document = Result(0, 200, JSON_TYPE, b"[" * depth + b"7" + b"]" * depth)
        item = completed(body=b'"{x}"', answers={"x": document}, at="/body" + "/0" * depth)
        assert (item.body if isinstance(item, Item) else None) == found


# Placeholders


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'"{a}"', {"a"}),
        (b'{"{a}": "{b}"}', {"b"}),
        (b'["\\u007bc}", "{ d}", "{e f}", "{}", "\\"{g}"]', {"c", "g"}),
        (b'["{a", "}"]', set()),
        (b'{"k" \n: "{a}{b}"}', {"a", "b"}),
        (b"[1, null]", set()),
    ],
)
def test_names_stand_in_strings_that_are_no_keys(body: bytes, names: set[str]) -> None:
    """A name in braces counts in a string, also written with escapes, and not in a key."""
    assert placeholders_of_body(body) == names


def test_an_item_without_values_is_complete() -> None:
    """An item that waits for nothing is passed on as it is."""
    item = Item(0, "GET", b"/a")
    assert complete(item, Values([item], Policy()), CALLER, Policy()) is item


def test_many_pointers_into_one_answer_are_followed_together() -> None:
    """Each distinct value is found, and each missing one is missing, whoever asks, in one walk."""
    document = {"a": {"b": [1, {"c": 2}], "d": "x"}, "e": None}
    pointers = ["/body/a/b/0", "/body/a/b/1/c", "/body/a/b/1", "/body/a/d", "/body/a", "/body/e", "/body", "/body/no"]
    references = [tuple(Reference("x", 0, pointer(at), "s") for _ in range(1)) for at in pointers for _ in range(2)]
    items = [
        Item(number + 1, "POST", b"", body=b'"{x}"', template=Template(each, "/a", True))
        for number, each in enumerate(references)
    ]
    policy = Policy()
    values = Values(items, policy)
    assert set(values.sources) == {0}
    values.take(answer(document))
    assert not values.sources
    bodies = [complete(item, values, CALLER, policy) for item in items[::2]]
    assert [json.loads(each.body) for each in bodies[:-1] if isinstance(each, Item)] == [
        1,
        2,
        {"c": 2},
        "x",
        document["a"],
        None,
        document,
    ]
    assert isinstance(bodies[-1], Refusal)
