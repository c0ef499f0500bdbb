"""Canonical paths, their two readings, and rules: what holds for any text."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import example, given, strategies as st

from batchproxy import Refusal
from batchproxy.engine import paths
from batchproxy.engine.model import METHODS
from batchproxy.engine.paths import Rule, canonical, component, plain_paths, readings, rule, without_trailing_slash

# Texts that come near the edges: what separates, what hides, what is decoded twice.
PARTS = st.sampled_from(
    [
        "/",
        "//",
        "\\",
        "%2F",
        "%2f",
        "%5c",
        "%255c",
        ".",
        "..",
        "%2e",
        "%2E%2e",
        "%252e",
        "%25252e%25252e",
        "%c0%ae",
        "%C0%AF",
        "%25",
        "%",
        "%zz",
        "%00",
        "#",
        "?",
        ";",
        "..;x",
        "a",
        "admin",
        "é",
        "\u2028",
        " ",
        "\t",
        "\r\n",
        "\x85",
        '"',
        "{x}",
        "😀",
    ]
)
TEXTS = st.text() | st.lists(PARTS | st.text(max_size=2), max_size=8).map(lambda parts: "/" + "".join(parts))


@given(TEXTS, st.booleans())
@example("", False)
@example("/?", False)
@example("/%2e%2e%2f", True)
def test_any_text_is_read_or_refused(text: str, allow_empty: bool) -> None:
    """Whatever the text is, it is refused with a reason, or gives ASCII bytes that need no further encoding."""
    read = canonical(text, allow_empty_segments=allow_empty)
    if isinstance(read, Refusal):
        assert read.detail
        return
    path, query = read
    assert path.startswith(b"/")
    assert not path.startswith((b"//", b"/\\"))
    assert re.fullmatch(rb"[\x21-\x7e]*", path + query)
    assert not re.search(rb'[\\#"<>^`{|}]', path + query)
    assert b"?" not in path
    assert allow_empty or b"//" not in path


@given(TEXTS, st.booleans())
def test_what_is_canonical_stays_as_it_is(text: str, allow_empty: bool) -> None:
    """Reading what was read gives the same bytes: there is one canonical form."""
    read = canonical(text, allow_empty_segments=allow_empty)
    if isinstance(read, Refusal):
        return
    again = b"?".join(read) if read[1] else read[0]
    assert canonical(again.decode("ascii"), allow_empty_segments=allow_empty) == read


@given(TEXTS)
@example("/a/%25252e%25252e/b")
@example("/%25252E")
def test_no_reading_has_a_dot_segment(text: str) -> None:
    """However the path is decoded, up to three times, before or after splitting, there is no `.` or `..` segment."""
    read = canonical(text)
    if isinstance(read, Refusal):
        return
    for reading in readings(read[0]):
        assert not {".", ".."} & set(reading)
        assert "\x00" not in "".join(reading)
    decoded = read[0]
    for _ in range(3):
        decoded = unquote_to_bytes(decoded)
        assert not {b".", b".."} & set(re.split(rb"[/\\]", decoded))
        assert not {b".", b".."} & {segment.partition(b";")[0] for segment in re.split(rb"[/\\]", decoded)}


@given(TEXTS | st.from_regex(paths._PLAIN, fullmatch=True))
def test_the_short_way_says_what_the_long_one_says(text: str) -> None:
    """A path that is plain enough to be taken at a glance would also pass the close look, with the same bytes."""
    assert canonical(text) == paths._look_closely(text, False)


@given(st.lists(TEXTS | st.from_regex(paths._PLAIN, fullmatch=True), min_size=1), st.integers(1, 40))
@example(["/a\n/b"], 40)
@example(["/a\n/b", "/c"], 40)
@example(["/a", "/b/../c"], 40)
@example(["/a", "/b//c"], 40)
@example(["/a", "/?b?c"], 40)
@example(["/a", "/abc"], 3)
def test_many_at_once_say_what_each_says(texts: list[str], longest: int) -> None:
    """Targets that are read together have the bytes that each would have alone; none of them is too long."""
    plain = plain_paths(texts, longest)
    if plain is not None:
        assert list(zip(*plain, strict=True)) == [canonical(text) for text in texts]
        assert max(map(len, texts)) <= longest


def test_plain_targets_are_read_at_once() -> None:
    """Paths of the usual characters need no look of their own, with a query or without."""
    assert plain_paths(["/", "/a/b/", "/a.b"], 5) == ([b"/", b"/a/b/", b"/a.b"], (b"",) * 3)
    assert plain_paths(["/a", "/b?c=/d"], 8) == ([b"/a", b"/b"], [b"", b"c=/d"])


@given(TEXTS)
def test_what_is_encoded_is_the_text(text: str) -> None:
    """Decoded again, a canonical path and query are what was written: nothing is lost or moved."""
    read = canonical(text)
    if isinstance(read, Refusal):
        return
    path, _, query = text.partition("?")
    assert unquote_to_bytes(read[0]) == unquote_to_bytes(path.encode())
    assert unquote_to_bytes(read[1]) == unquote_to_bytes(query.encode())


@given(st.text(max_size=200))
def test_a_component_is_one_component(text: str) -> None:
    """A value that is encoded as a component has nothing in it that separates, and decodes to itself."""
    assert re.fullmatch(r"(?:[A-Za-z0-9\-._~]|%[0-9A-F]{2})*", component(text))
    assert unquote(component(text)) == text


# Readings


@pytest.mark.parametrize(
    ("path", "split_first", "decoded_first"),
    [
        (b"/", ("",), ("",)),
        (b"/a/b", ("a", "b"), ("a", "b")),
        (b"/a/", ("a", ""), ("a", "")),
        (b"/a%2Fb", ("a/b",), ("a", "b")),
        (b"/a%252Fb", ("a%2Fb",), ("a%2Fb",)),
        (b"/%61%20", ("a ",), ("a ",)),
        (b"/a%2F/b", ("a/", "b"), ("a", "", "b")),
        (b"/%C3%A9", ("é",), ("é",)),
    ],
)
def test_a_path_has_two_readings(path: bytes, split_first: paths.Segments, decoded_first: paths.Segments) -> None:
    """Segments decoded after splitting, and the whole path decoded before it is split."""
    assert readings(path) == (split_first, decoded_first)


@pytest.mark.parametrize(
    ("segments", "bare"), [(("a", ""), ("a",)), (("a",), ("a",)), (("",), ("",)), (("a", "", ""), ("a", ""))]
)
def test_one_trailing_slash_is_left_out(segments: paths.Segments, bare: paths.Segments) -> None:
    """A slash at the end is no segment of its own; the root keeps its only one."""
    assert without_trailing_slash(segments) == bare


# Rules


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a", Rule(None, ("a",), False)),
        ("GET /a/b", Rule("GET", ("a", "b"), False)),
        ("/a/**", Rule(None, ("a",), True)),
        ("DELETE /**", Rule("DELETE", (), True)),
        ("/", Rule(None, ("",), False)),
        ("/a/", Rule(None, ("a", ""), False)),
        ("/caf%C3%A9/*", Rule(None, ("café", "*"), False)),
    ],
)
def test_a_rule_is_read(text: str, expected: Rule) -> None:
    """`[METHOD ]/seg/*/seg`, with a final `/**`; segments are kept decoded."""
    assert rule(text, METHODS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b",
        "GET",
        "GET a",
        "get /a",
        " /a",
        "GET  /a",
        "FETCH /a",
        "/a//b",
        "//a",
        "/**/a",
        "/a**",
        "/a/***",
        "/a?x",
        "/a#b",
        "/a b/c",
        "GET /a /b",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    """Anything else is refused with what was expected."""
    with pytest.raises(ValueError, match="expected"):
        rule(text, METHODS)


GLOBS = st.text("ab*.", max_size=6)


@given(GLOBS, st.text("ab.\n", max_size=8))
@example("*", "")
@example("a*a", "a")
@example("*ab*b", "abb")
@example("*b*a*", "ab")
@example("a*ab*b", "aabb")
def test_a_star_stands_for_any_characters(pattern: str, segment: str) -> None:
    """A segment matches as a regular expression with `.*` for each star would; a lone star needs a character."""
    if "**" in pattern:
        return
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), segment, re.DOTALL) is not None
    if pattern == "*":
        expected = segment != ""
    assert Rule(None, (pattern,), False).matches("GET", (segment,)) is expected


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", ""]), max_size=4).map(tuple)


@given(st.lists(st.sampled_from(["a", "b", "*", "a*"]), max_size=3).map(tuple), st.booleans(), SEGMENTS)
def test_a_rule_matches_segment_by_segment(own: tuple[str, ...], below: bool, segments: tuple[str, ...]) -> None:
    """All segments match, and there are no more of them unless the rule is for everything below."""
    each = all(
        Rule(None, (pattern,), False).matches("GET", (seen,)) for pattern, seen in zip(own, segments, strict=False)
    )
    long_enough = len(segments) >= len(own) if below else len(segments) == len(own)
    assert Rule(None, own, below).matches("GET", segments) is (each and long_enough)


@pytest.mark.parametrize(("method", "matches"), [("GET", True), ("HEAD", False), ("get", False), ("", False)])
def test_a_rule_with_a_method_is_for_that_method(method: str, matches: bool) -> None:
    """A rule with a method speaks of no other, not of HEAD for GET either; one without speaks of all."""
    assert rule("GET /a", METHODS).matches(method, ("a",)) is matches
    assert rule("/a", METHODS).matches(method, ("a",))


@pytest.mark.parametrize("count", [20, 2000])
def test_many_stars_are_no_burden(count: int) -> None:
    """A pattern of many stars against a segment that nearly matches is decided without trying all ways."""
    pattern, segment = "a*" * count + "b", "a" * (2 * count)
    assert not Rule(None, (pattern,), False).matches("GET", (segment,))
    assert Rule(None, (pattern,), False).matches("GET", (segment + "b",))
