"""Whether an item is tried again, and when: pure decisions.

Knows: what an answer says about it. Must not know: stores, leases, who waits.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from ...engine.errors import Failure
from ...engine.model import SAFE_METHODS, Delivery, Headers, Item, Result
from .settings import WorkSettings

IDEMPOTENT = SAFE_METHODS | {"PUT", "DELETE"}
"""RFC 9110, section 9.2.2."""

_OVERLOADED = frozenset({429, 503})
_PASSING = frozenset({502, 504})
_REFUSALS = frozenset({Failure.UNREACHABLE, Failure.UPSTREAM_OVERLOADED})
_PASSING_FAILURES = _REFUSALS | {Failure.TIMEOUT, Failure.TRUNCATED, Failure.BAD_RESPONSE}
_NOT_SENT = frozenset({"UF", "UO", "UH"})
"""Flags in the notes of a proxy for attempts of which nothing was sent; it may have made others before."""
_DELTA = re.compile(rb"[0-9]{1,9}")


class Ruling(Enum):
    FINAL = "final"
    FAILED = "failed"
    """It may work the next time."""
    REFUSED = "refused"
    """The upstream did nothing, for it wants a rest, or is not there: no failure of the item."""


def is_repeatable(item: Item, delivery: Delivery) -> bool:
    """Whether it may be sent again without knowing what became of it."""
    return (
        item.method in IDEMPOTENT
        or delivery is Delivery.AT_LEAST_ONCE
        or any(name == b"idempotency-key" for name, _ in item.headers)
    )


def ruling(result: Result, notes: Mapping[str, Any], *, repeatable: bool) -> Ruling:
    failure = result.failure
    if failure is None:
        if result.status in _OVERLOADED:
            return Ruling.REFUSED
        return Ruling.FAILED if repeatable and result.status in _PASSING else Ruling.FINAL
    if failure in _REFUSALS and _never_sent(notes):
        return Ruling.REFUSED
    return Ruling.FAILED if repeatable and failure in _PASSING_FAILURES else Ruling.FINAL


def _never_sent(notes: Mapping[str, Any]) -> bool:
    flags = notes.get("flags")
    return isinstance(flags, str) and _NOT_SENT.issuperset(flags.split(","))


def retry_after(headers: Headers) -> float | None:
    """The seconds that the upstream asks for (RFC 9110, section 10.2.3)."""
    values = dict(headers)
    given = values.get(b"retry-after")
    if given is None:
        return None
    if _DELTA.fullmatch(given):
        return float(given)
    until = _time_of(given)
    if until is None:
        return None
    # By the clock of the one who says it, if he tells that.
    now = _time_of(values.get(b"date", b""))
    return max(until - (time.time() if now is None else now), 0.0)


def _time_of(value: bytes) -> float | None:
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, OverflowError):
        return None


def pause(attempt: int, asked: float | None, settings: WorkSettings) -> float:
    """How long to wait after so many attempts: full jitter, on top of what the upstream asked for."""
    most = min(settings.first_backoff * 2 ** min(attempt - 1, 60), settings.longest_backoff)
    drawn = random.uniform(0, most)
    return drawn if asked is None else min(asked, settings.longest_rest) + drawn
