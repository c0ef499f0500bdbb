"""What requests ask for in their headers: preferences, keys, versions."""

from __future__ import annotations

import pytest

from batchproxy.jobs.resources.wishes import Preferences, idempotency_key, is_known, preferences


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("", Preferences(False, None, False)),
        ("respond-async", Preferences(True, None, False)),
        ("Respond-Async", Preferences(True, None, False)),
        ("respond-async; foo=bar", Preferences(True, None, False)),
        ("respond-async, wait=10", Preferences(True, 10, False)),
        ('wait = "10" , respond-async', Preferences(True, 10, False)),
        ("wait=10, wait=20", Preferences(False, 10, False)),
        ("wait=-1", Preferences(False, None, False)),
        ("wait=x, wait=5", Preferences(False, None, False)),
        ("wait", Preferences(False, None, False)),
        ("wait=99999999999", Preferences(False, None, False)),
        ("return=minimal", Preferences(False, None, True)),
        ("return=representation, return=minimal", Preferences(False, None, False)),
        ('x="a, respond-async", wait=1', Preferences(False, 1, False)),
        (',,; ="', Preferences(False, None, False)),
        ("respond-asynchronously", Preferences(False, None, False)),
    ],
)
def test_preferences_are_read(prefer: str, expected: Preferences) -> None:
    """RFC 7240, section 2: case does not matter, of two the first counts, what is not known is ignored."""
    assert preferences({b"prefer": prefer.encode()}) == expected


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ('"a"', "a"),
        ("a", "a"),
        ('"a b"', "a b"),
        (r'"a\"\\b"', 'a"\\b'),
        (" 8e03978e-40d5 ", "8e03978e-40d5"),
    ],
)
def test_a_key_is_the_same_quoted_or_not(given: str, key: str) -> None:
    """RFC 8941, section 3.3.3, and what clients send instead."""
    assert idempotency_key({b"idempotency-key": given.encode()}) == key
    assert idempotency_key({}) is None


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ('"1"', True),
        ('W/"1"', True),
        ('"2", W/"1"', True),
        ("*", True),
        ('"2"', False),
        ("1", False),
        ("", False),
        ('"11"', False),
    ],
)
def test_versions_are_compared_weakly(given: str, known: bool) -> None:
    """RFC 9110, section 13.1.2."""
    assert is_known({b"if-none-match": given.encode()}, 'W/"1"') is known
    assert is_known({b"if-none-match": given.encode()}, '"1"') is known
