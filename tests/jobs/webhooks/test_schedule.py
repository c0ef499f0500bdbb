"""When a message is tried again."""

from __future__ import annotations

from batchproxy.jobs.webhooks.schedule import DELAYS, delay

HOUR = 3600


def test_ten_tries_within_about_three_days() -> None:
    """The nine delays between them grow, and with the least and the most chance it is about three days."""
    assert [delay(failed, lambda: 0.5) for failed in range(1, 10)] == list(DELAYS)
    assert delay(10, lambda: 0.5) is None
    assert sorted(DELAYS) == list(DELAYS)
    for chance in (0.0, 1.0):
        total = sum(delay(failed, lambda chance=chance: chance) or 0 for failed in range(1, 10))  # type: ignore[misc]
        assert 2.8 * 24 * HOUR < total < 3.5 * 24 * HOUR


def test_delays_are_spread() -> None:
    """Each is a tenth shorter or longer at most."""
    for failed, expected in enumerate(DELAYS, 1):
        assert delay(failed, lambda: 0.0) == expected * 0.9
        assert delay(failed, lambda: 1.0) == expected * 1.1


def test_a_wish_for_later_is_respected() -> None:
    """Within a day; one for earlier is not."""
    assert delay(1, lambda: 0.5, 120.0) == 120
    assert delay(1, lambda: 0.5, 0.0) == 5
    assert delay(2, lambda: 0.5, 10.0) == 300
    assert delay(1, lambda: 0.5, 10.0**9) == 24 * HOUR
