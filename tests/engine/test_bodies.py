"""Bodies as JSON values: whatever the bytes are, what is put into the answer is one valid JSON value."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from batchproxy.engine.bodies import Kind, as_json, is_deeper, kind_of
from tests.protocol.exchange import strict_json

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.text('[]{}"\\/\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\a', max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
# Bytes that are nearly JSON: documents that are cut, joined, or spoiled at one place.
NEARLY_JSON = st.builds(
    lambda document, other, start, end, spoil: (json.dumps(document)[start:end] + spoil + json.dumps(other)).encode(),
    JSON_VALUES,
    JSON_VALUES,
    st.integers(0, 3),
    st.integers(3, 30),
    st.sampled_from(["", ",", "]", "}", "],", '"', "\\", "\n", "\u2028", "\x00", "NaN", "}],"]),
)
BODIES = (
    st.binary(max_size=30)
    | st.text(max_size=30).map(str.encode)
    | JSON_VALUES.map(json.dumps).map(str.encode)
    | NEARLY_JSON
)

# What envelopes have been broken with.
EVIL = {
    "envelope injection": b'{"a":1}],"x":[{"y":2',
    "a closing brace too many": b'{"a":1}}',
    "trailing garbage": b'{"a":1} x',
    "two documents": b"1 2",
    "two lines": b'{"a":1}\n{"b":2}',
    "a comma behind": b"1,",
    "nothing": b"",
    "blanks": b" \t\r\n",
    "NaN": b"NaN",
    "Infinity": b"[-Infinity]",
    "mark": b"\xef\xbb\xbf1",
    "UTF-16": "[1]".encode("utf-16"),
    "UTF-32": "[1]".encode("utf-32-le"),
    "invalid UTF-8 in a string": b'"\xff"',
    "invalid UTF-8 in a key": b'{"\xc3\x28":1}',
    "surrogate in UTF-8": b'"\xed\xa0\x80"',
    "overlong": b'"\xc0\xaf"',
    "lone surrogate": b'"\\ud800"',
    "lone low surrogate": b'["\\udc00x"]',
    "swapped surrogates": b'"\\udc00\\ud800"',
    "control character": b'"\x01"',
    "line break in a string": b'"\n"',
    "NUL": b"1\x00",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep and open": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "ten megabytes of digits": b"1" * 10_000_000,
    "huge exponent": b"1e999999",
    "half an escape": b'"\\u12"',
    "backslash at the end": b'"\\',
}
EVIL_THAT_IS_JSON = {"ten megabytes of digits", "huge exponent"}


def check_one_value(kind: Kind, body: bytes, max_depth: int = 128) -> None:
    """What is written stands in a document as one value, and the body can be read out of it again."""
    written, encoding = as_json(kind, body, max_depth)
    before, value, after = strict_json(b'["before",' + written + b',"after"]')
    assert (before, after) == ("before", "after")
    if encoding == "base64":
        assert base64.b64decode(value, validate=True) == body
    elif encoding == "text" or kind is not Kind.JSON:
        assert value.encode() == body
    else:
        assert written == body


@given(BODIES, st.sampled_from(Kind))
def test_any_bytes_become_one_json_value(body: bytes, kind: Kind) -> None:
    """Whatever the bytes and the media type are, one strictly valid value is written, and nothing is lost."""
    check_one_value(kind, body)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", Kind)
def test_no_body_breaks_out(name: str, kind: Kind) -> None:
    """What pretends to be JSON, or would break a document, is written as a string."""
    body = EVIL[name]
    written, encoding = as_json(kind, body, 128)
    if kind is Kind.JSON and name in EVIL_THAT_IS_JSON:
        assert (written, encoding) in [(body, None), (b'"%b"' % body, "text")]
        return
    assert written.startswith(b'"')
    check_one_value(kind, body)


@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_a_document_stays_as_it_is(document: Any, ascii_only: bool, indent: int | None) -> None:
    """One valid document is passed on byte for byte, with its blanks and escapes, and with blanks around it."""
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    for body in (text.encode(), f" \r\n{text}\t".encode()):
        assert as_json(Kind.JSON, body, 128) == (body, None)


@pytest.mark.parametrize(
    ("kind", "body", "written", "encoding"),
    [
        (Kind.JSON, b"nope", b'"nope"', "text"),
        (Kind.JSON, b"\xff", b'"/w=="', "base64"),
        (Kind.TEXT, "é\n".encode(), '"é\\n"'.encode(), None),
        (Kind.TEXT, b"\xe9", b'"6Q=="', "base64"),
        (Kind.ASCII_TEXT, b"a", b'"a"', None),
        (Kind.ASCII_TEXT, "é".encode(), b'"w6k="', "base64"),
        (Kind.BINARY, b"a", b'"YQ=="', "base64"),
        (Kind.BINARY, b"{}", b'"e30="', "base64"),
    ],
)
def test_the_kind_decides_how_a_body_is_written(kind: Kind, body: bytes, written: bytes, encoding: str | None) -> None:
    """JSON as it is, else as text; text as a string; what is neither as base64."""
    assert as_json(kind, body, 128) == (written, encoding)


# Depth


def depth_of(document: Any) -> int:
    if isinstance(document, dict | list):
        inner = document.values() if isinstance(document, dict) else document
        return 1 + max(map(depth_of, inner), default=0)
    return 0


@given(JSON_VALUES, st.integers(1, 6), st.sampled_from([None, 0, 2]), st.booleans())
@example(["\\"], 1, None, True)
@example([["\\"], "[[[["], 1, None, True)
@example(['\\"[[[['], 1, None, True)
def test_depth_is_that_of_the_values(document: Any, max_depth: int, indent: int | None, ascii_only: bool) -> None:
    """Counted on the bytes, the depth is what walking through the values gives; brackets in strings do not count."""
    written = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    assert is_deeper(written, max_depth) is (depth_of(document) > max_depth)


@pytest.mark.parametrize("opened", [b"[", b'{"a":', b'{"a":[', b'{"]":'])
def test_the_limit_itself_is_not_too_deep(opened: bytes) -> None:
    """As deep as the limit is accepted, one more is not, for arrays and objects alike."""
    levels = opened.count(b"[") + opened.count(b"{")
    closed = {b"[": b"]", b'{"a":': b"}", b'{"a":[': b"]}", b'{"]":': b"}"}[opened]
    document = opened * 30 + b"1" + closed * 30
    assert not is_deeper(document, 30 * levels)
    assert is_deeper(document, 30 * levels - 1)
    assert as_json(Kind.JSON, document, 30 * levels) == (document, None)
    assert as_json(Kind.JSON, document, 30 * levels - 1)[1] == "text"


def test_wide_is_not_deep() -> None:
    """A document with thousands of brackets side by side is not deep."""
    assert not is_deeper(b"[" + b",".join([b"[{}]"] * 10_000) + b"]", 3)
    assert is_deeper(b"[" + b",".join([b"[{}]"] * 10_000) + b"]", 2)


# Kinds


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        (b"application/json", Kind.JSON),
        (b"Application/JSON ; charset=latin-1", Kind.JSON),
        (b"text/json", Kind.JSON),
        (b"application/problem+json", Kind.JSON),
        (b"application/jsonp", Kind.BINARY),
        (b"application/json-seq", Kind.BINARY),
        (b"application/x-json", Kind.BINARY),
        (b"text/plain", Kind.TEXT),
        (b"text/event-stream", Kind.TEXT),
        (b'text/html;a=b; CharSet="UTF-8"', Kind.TEXT),
        (b"text/html; charset=utf8", Kind.TEXT),
        (b"text/html; charset=us-ascii", Kind.ASCII_TEXT),
        (b"text/html; charset=latin-1", Kind.BINARY),
        (b"text/html; charset=utf-16", Kind.BINARY),
        (b"image/svg+xml", Kind.TEXT),
        (b"application/xml", Kind.TEXT),
        (b"application/x-ndjson", Kind.TEXT),
        (b"image/png", Kind.BINARY),
        (b"\xff", Kind.BINARY),
        (b"", Kind.BINARY),
    ],
)
def test_a_media_type_says_what_a_body_is(content_type: bytes, kind: Kind) -> None:
    """JSON, text that can be read as UTF-8, or neither."""
    assert kind_of(((b"content-type", content_type),)) is kind


@pytest.mark.parametrize(("coding", "kind"), [(b"gzip", Kind.BINARY), (b"br", Kind.BINARY), (b"Identity", Kind.JSON)])
def test_what_is_encoded_is_binary(coding: bytes, kind: Kind) -> None:
    """A body with a content coding is bytes, whatever its media type says."""
    assert kind_of(((b"content-encoding", coding), (b"content-type", b"application/json"))) is kind


def test_without_a_type_a_body_is_binary() -> None:
    """A body whose answer has no media type is not guessed at."""
    assert kind_of(()) is Kind.BINARY
