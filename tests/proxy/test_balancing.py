"""`Balancer`: round robin, and who is out; it is told what time it is."""

from __future__ import annotations

from typing import Any

from hypothesis import given, strategies as st

from batchproxy.proxy.addresses import located
from batchproxy.proxy.balancing import Address, Balancer
from batchproxy.proxy.settings import OutlierDetection

from .played import Played


def balancer(count: int, **settings: Any) -> Balancer:
    addresses = [Address(located(f"http://a{number}"), Played(f"http://a{number}")) for number in range(count)]
    return Balancer(addresses, OutlierDetection(**{"consecutive_5xx": 2, **settings}))


def picked(turns: Balancer, times: int, now: float = 0.0) -> str:
    """The numbers of the addresses that come next; `-` for none."""
    found = [turns.pick(now) for _ in range(times)]
    return "".join("-" if each is None else str(turns.addresses.index(each)) for each in found)


def fail(turns: Balancer, number: int, times: int = 2, now: float = 0.0) -> bool:
    return [turns.failed(turns.addresses[number], now) for _ in range(times)][-1]


def test_addresses_come_in_turn() -> None:
    """Each address gets the same share."""
    assert picked(balancer(3), 7) == "0120120"
    assert picked(balancer(1), 3) == "000"


def test_a_retry_goes_elsewhere() -> None:
    """An address that has been tried is taken only if there is no other."""
    turns = balancer(2)
    first, second = turns.addresses
    assert turns.pick(0.0, [first]) is second
    assert turns.pick(0.0, [second]) is first
    assert turns.pick(0.0, [first, second]) is not None


def test_failures_in_a_row_eject() -> None:
    """After `consecutive_5xx` failures an address is out for `base_ejection_time`."""
    turns = balancer(3, base_ejection_time=30)
    assert not fail(turns, 1, times=1)
    assert fail(turns, 1, times=1)
    assert picked(turns, 4, now=29.9) == "0202"
    assert picked(turns, 3, now=30.0) == "012"


def test_an_answer_between_begins_anew() -> None:
    """Only failures in a row count."""
    turns = balancer(2)
    fail(turns, 0, times=1)
    turns.addresses[0].streak = 0
    assert not fail(turns, 0, times=1)


def test_each_further_ejection_is_longer() -> None:
    """`base_ejection_time` times how often it happened, up to `max_ejection_time`."""
    turns = balancer(2, base_ejection_time=10, max_ejection_time=25)
    now, lengths = 0.0, []
    for _ in range(4):
        fail(turns, 0, now=now)
        lengths.append(turns.addresses[0].ejected_until - now)
        now = turns.addresses[0].ejected_until
    assert lengths == [10, 20, 25, 25]


def test_good_behaviour_is_remembered() -> None:
    """For every `base_ejection_time` without an ejection one is forgiven."""
    turns = balancer(2, base_ejection_time=10)
    fail(turns, 0, now=0.0)
    fail(turns, 0, now=10.0)
    fail(turns, 0, now=50.0)
    assert turns.addresses[0].ejected_until == 60.0


def test_no_more_than_the_share_is_ejected() -> None:
    """`max_ejection_percent` of the addresses, rounded down."""
    turns = balancer(4, max_ejection_percent=50)
    assert [fail(turns, number) for number in range(4)] == [True, True, False, False]
    assert picked(turns, 4) == "2323"
    turns = balancer(3, max_ejection_percent=33)
    assert [fail(turns, number) for number in range(3)] == [False, False, False]


def test_the_only_address_is_never_ejected() -> None:
    """There would be nobody left."""
    turns = balancer(1, max_ejection_percent=100)
    assert not fail(turns, 0, times=9)
    assert picked(turns, 1) == "0"


def test_when_all_are_out_ejection_is_ignored() -> None:
    """Then every healthy address is as good as any other."""
    turns = balancer(2, max_ejection_percent=100)
    assert fail(turns, 0)
    assert fail(turns, 1)
    assert picked(turns, 3) == "010"


def test_unhealthy_addresses_are_left_out() -> None:
    """What a health check found bad gets nothing, not even when nothing else is there."""
    turns = balancer(3)
    turns.addresses[1].health.note(False)
    assert picked(turns, 4) == "0202"
    fail(turns, 0)
    assert picked(turns, 2) == "22"
    turns.addresses[2].health.note(False)
    assert picked(turns, 2) == "00"
    turns.addresses[0].health.note(False)
    assert picked(turns, 1) == "-"


def test_a_recovered_address_is_back_at_once() -> None:
    """A passed health check ends an ejection."""
    turns = balancer(2)
    fail(turns, 0)
    turns.recovered(turns.addresses[0])
    assert picked(turns, 2) == "01"


@given(st.integers(2, 6), st.integers(0, 100), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20))))
def test_the_share_holds_whatever_fails(count: int, percent: int, failures: list[tuple[int, int]]) -> None:
    """At no time are more than `max_ejection_percent` out, and there is always somebody to ask."""
    turns = balancer(count, consecutive_5xx=1, base_ejection_time=10, max_ejection_percent=percent)
    now = 0.0
    for number, pause in failures:
        now += pause
        turns.failed(turns.addresses[number % count], now)
        out = [each for each in turns.addresses if each.is_ejected(now)]
        assert len(out) * 100 <= count * percent
        assert turns.pick(now) is not None
