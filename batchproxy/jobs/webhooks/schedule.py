"""When a message is tried again: ten tries within about three days, as the specification suggests."""

from __future__ import annotations

from collections.abc import Callable

_MINUTE, _HOUR = 60.0, 3600.0

DELAYS = (
    5.0,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""The seconds from each failed try to the next; after the last there is none."""
JITTER = 0.1
"""By which share of it a delay is shorter or longer at most: what failed together does not come together again."""
LONGEST_WISH = 24 * _HOUR
"""How long a `Retry-After` is respected."""


def delay(failed: int, random: Callable[[], float], retry_after: float | None = None) -> float | None:
    """The seconds until the next try after so many that failed; None if there is none."""
    if failed > len(DELAYS):
        return None
    scheduled = DELAYS[failed - 1] * (1 + JITTER * (2 * random() - 1))
    return max(scheduled, min(retry_after or 0.0, LONGEST_WISH))
