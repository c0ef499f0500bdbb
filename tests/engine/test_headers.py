"""Header fields: what an item may say, what it takes over, and what of an answer concerns its reader."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, strategies as st

from batchproxy import Failure, Refusal
from batchproxy.engine import headers as remembering
from batchproxy.engine.headers import (
    HOP_BY_HOP,
    REMOVED,
    connection_options,
    field_value,
    head_of_answer,
    inherited,
    is_token,
    merged,
    normalised,
    of_answer,
    own,
    refused_by_setting,
)
from batchproxy.engine.model import Headers

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
NAMES = st.sampled_from(["x-a", "X-A", "x_a", "X-B", "accept-encoding", "host", "x\r\n", "", "é"]) | st.text(max_size=8)
VALUES = st.text(max_size=12) | st.lists(st.text(max_size=6), max_size=3)


# An item's own


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_whatever_an_item_says_no_line_is_broken(given: Mapping[str, str | list[str]]) -> None:
    """Whatever names and values an item gives, it is refused, or every name is a token and no value has a control."""
    headers = own(given)
    if isinstance(headers, Refusal):
        assert headers.failure in (Failure.INVALID_HEADER, Failure.HEADER_REFUSED)
        return
    for name, value in headers:
        assert TOKEN.fullmatch(name)
        assert value is REMOVED or not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)
        assert value == value.strip(b" \t")
    assert {name.decode() for name, _ in headers} == {name.lower() for name in given} - {"accept-encoding"}


@given(st.text(max_size=40))
def test_a_value_is_itself_or_nothing(text: str) -> None:
    """A field value is the latin-1 of its text, without the blanks around it, or refused; it is never changed."""
    value = field_value(text)
    if value is None:
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]", text)
    else:
        assert value.decode("latin-1") == text.strip(" \t")


@given(st.sampled_from(["Host", "Content-Length", "X-Forwarded-For", "X-Real-IP", "Sec-Fetch-Site"]), st.data())
def test_no_spelling_of_a_refused_name_passes(name: str, data: st.DataObject) -> None:
    """In any letter case, and with any of its hyphens as underscores, a refused name is refused."""
    change: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
        [str.upper, str.lower, lambda each: each.replace("-", "_")]
    )
    spelled = "".join(data.draw(change)(each) for each in name)
    refusal = own({spelled: "1"})
    assert isinstance(refusal, Refusal)
    assert refusal.failure is Failure.HEADER_REFUSED
    assert normalised(spelled) == name.lower()


@pytest.mark.parametrize(("length", "accepted"), [(1, True), (256, True), (257, False)])
def test_a_name_has_a_length(length: int, accepted: bool) -> None:
    """A name has one to 256 characters."""
    assert isinstance(own({"x" * length: "1"}), tuple) is accepted


def test_an_empty_list_is_kept_as_a_removal() -> None:
    """An empty list of values stands for the removal of the header; no value that an item writes can."""
    assert own({"X-A": [], "X-B": ["1", " 2 "]}) == ((b"x-a", REMOVED), (b"x-b", b"1"), (b"x-b", b"2"))
    assert isinstance(own({"X-A": REMOVED.decode()}), Refusal)


@pytest.mark.parametrize(
    ("name", "found"),
    [("x-user", "x-user"), ("X_User", "x_user"), ("x-users", None), ("user", None)],
)
def test_protected_names_are_compared_as_servers_see_them(name: str, found: str | None) -> None:
    """A protected header is found in any case and with underscores, and named as the item wrote it."""
    headers = own({"accept": "*/*", name: "1"})
    assert isinstance(headers, tuple)
    assert refused_by_setting(headers, {"x-user", "x-role"}) == found


# Effective headers

PAIRS = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"1", b"2", b"3"])), max_size=5)


@given(PAIRS.map(tuple), PAIRS.map(tuple), st.sets(st.sampled_from([b"a", b"b", b"c"])))
def test_own_headers_replace_inherited_ones_name_by_name(caller: Headers, item: Headers, removed: set[bytes]) -> None:
    """Of each name the item's values alone, if it gives any or removes it, else the caller's; in their order."""
    item = tuple(pair for pair in item if pair[0] not in removed) + tuple((name, REMOVED) for name in removed)
    effective = merged(caller, item)
    for name in (b"a", b"b", b"c"):
        from_caller = [value for each, value in caller if each == name]
        from_item = [value for each, value in item if each == name]
        expected = [value for value in from_item if value != REMOVED] if from_item else from_caller
        assert [value for each, value in effective if each == name] == expected
    effective.append((b"d", b"4"))
    assert (b"d", b"4") not in (*caller, *item)


def test_what_connection_lists_is_not_inherited_wherever_it_stands() -> None:
    """Every `Connection` field counts, also one that comes after the header which it lists."""
    outer = [
        (b"x-hop", b"1"),
        (b"connection", b"close, X-Hop"),
        (b"x-end", b"2"),
        (b"connection", b" x-other ,"),
        (b"x-other", b"3"),
    ]
    assert inherited(outer) == ((b"x-end", b"2"),)


def test_headers_may_come_as_an_iterator() -> None:
    """The outer headers are read once into a list: ASGI allows any iterable."""
    assert inherited(iter([(b"a", b"1"), (b"connection", b"b"), (b"b", b"2")])) == ((b"a", b"1"),)


@pytest.mark.parametrize(
    ("value", "options"),
    [(b"close", {b"close"}), (b"Keep-Alive,X", {b"keep-alive", b"x"}), (b"", {b""}), (b" a , ,b", {b"a", b"", b"b"})],
)
def test_connection_lists_names(value: bytes, options: set[bytes]) -> None:
    """The options of `Connection` are names in any letter case, with blanks around them."""
    assert connection_options([(b"connection", value)]) == options


@pytest.mark.parametrize(
    ("text", "is_one"), [("x", True), ("X-A_b.1", True), ("", False), ("a b", False), ("a:", False)]
)
def test_a_token_is_a_token(text: str, is_one: bool) -> None:
    """Names are tokens in the sense of RFC 9110."""
    assert is_token(text) is is_one


# Of an answer


@pytest.mark.parametrize(
    ("headers", "keep_length", "kept", "length"),
    [
        ([(b"Content-Type", b"a/b")], False, ((b"content-type", b"a/b"),), None),
        ([(b"Content-Length", b"12")], False, (), 12),
        ([(b"content-length", b"12")], True, ((b"content-length", b"12"),), 12),
        ([(b"content-length", b"-1")], False, (), None),
        ([(b"content-length", b"1e3")], False, (), None),
        ([(b"content-length", b"")], False, (), None),
        ([(b"X", b"1"), (b"Connection", b"x, close"), (b"x", b"2"), (b"y", b"3")], False, ((b"y", b"3"),), None),
        ([(b"set-cookie", b"a"), (b"set-cookie", b"b")], False, ((b"set-cookie", b"a"), (b"set-cookie", b"b")), None),
        ([(b"Transfer-Encoding", b"chunked"), (b"Keep-Alive", b"5"), (b"TE", b"x")], False, (), None),
        ([(b"x", b" \ta b\t ")], False, ((b"x", b"a b"),), None),
        ([], False, (), None),
    ],
)
def test_of_an_answer_the_end_to_end_headers_are_kept(
    headers: list[tuple[bytes, bytes]], keep_length: bool, kept: Headers, length: int | None
) -> None:
    """Names in lower case, hop-by-hop fields and what `Connection` lists left out, the declared length read."""
    assert of_answer(headers, keep_length=keep_length) == (kept, length)


@given(st.lists(st.tuples(st.sampled_from([b"Content-Length", b"x-a", b"Connection"]), st.binary(max_size=2))))
def test_a_head_that_comes_again_is_read_the_same(headers: list[tuple[bytes, bytes]]) -> None:
    """However often an answer begins with the same headers, they are what they are the first time."""
    expected = of_answer(headers, keep_length=False)
    assert [head_of_answer(headers) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize("made", [lambda buffer: [[b"x", buffer]], lambda buffer: [(b"x", memoryview(buffer))]])
def test_a_head_made_of_lists_or_buffers_is_read_anew(made: Callable[[bytearray], Any]) -> None:
    """What may be another thing the next time is not taken for what it was."""
    buffer = bytearray(b"first")
    headers = made(buffer)
    for text in (b"first", b"first", b"other"):
        buffer[:] = text
        assert head_of_answer(headers) == (((b"x", text),), None)


def test_heads_with_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is looked up by a hash, and compared."""
    first, second = [(b"x", b"1")], [(b"x", b"2")]
    head_of_answer(first), head_of_answer(first)
    monkeypatch.setattr(
        remembering, "_heads", dict.fromkeys([hash(tuple(second))], remembering._heads[hash(tuple(first))])
    )
    assert head_of_answer(second) == (((b"x", b"2"),), None)


def test_headers_of_an_answer_are_bytes_of_their_own() -> None:
    """A value in a buffer that the app uses again is copied."""
    buffer = bytearray(b"first")
    headers: list[tuple[Any, Any]] = [(b"x", buffer), (b"y", memoryview(buffer)), (b"content-length", memoryview(b"5"))]
    kept, length = of_answer(headers, keep_length=False)
    buffer[:] = b"other"
    assert (kept, length) == (((b"x", b"first"), (b"y", b"first")), 5)
    assert {type(value) for _, value in kept} == {bytes}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*sorted(HOP_BY_HOP), b"Content-Length", b"x-a", b"X-B", b"UPGRADE"]),
            st.sampled_from([b"5", b"x-a", b"close", b"x-b, te"]),
        )
    )
)
def test_no_header_of_the_connection_is_kept(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever an answer says, no hop-by-hop field and nothing that `Connection` lists is passed on."""
    kept, _ = of_answer(headers, keep_length=False)
    names = {name for name, _ in kept}
    listed = connection_options((name.lower(), value) for name, value in headers)
    assert names == {name.lower() for name, _ in headers} - HOP_BY_HOP - listed - {b"content-length"}
