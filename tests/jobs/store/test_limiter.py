"""What all workers together may ask of an upstream."""

from __future__ import annotations

import asyncio

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.store import Limits
from tests.proxy.on_a_loop import on_a_loop

from ..place import LEASE, Place, rows

DAY = 86_400


@on_a_loop
async def test_without_limits_all_is_given(place: Place) -> None:
    """At once."""
    async with place.opened() as store:
        given = await store.limiter.take("u", "w", Limits(), items=1000, places=50)
        assert (given.items, given.places, given.wait) == (1000, 50, 0.0)


@on_a_loop
async def test_tokens_are_shared_and_grow_back(place: Place) -> None:
    """Of so many in a second, whoever asks; never more than the burst."""
    limits = Limits(rate=10, burst=20)
    async with place.opened() as store:
        taken = await asyncio.gather(*(store.limiter.take("u", f"w{n}", limits, items=3, places=3) for n in range(10)))
        assert sum(each.items for each in taken) == 20
        assert all(each.wait > 0 for each in taken if each.items < 3)
        place.clock.now += 0.5
        given = await store.limiter.take("u", "w", limits, items=100, places=100)
        assert given.items == 5
        assert given.wait == pytest.approx(0.1)
        place.clock.now += 3600
        assert (await store.limiter.take("u", "w", limits, items=100, places=100)).items == 20
        assert (await store.limiter.take("other", "w", limits, items=100, places=100)).items == 20


@on_a_loop
async def test_what_was_begun_without_a_rate_is_no_debt(place: Place) -> None:
    """An upstream that gets a rate later is asked as often as that says, from the first second on."""
    limits = Limits(rate=10)
    async with place.opened() as store:
        for _ in range(3):
            await store.limiter.take("u", "w", Limits(max_in_flight=1000), items=1000, places=1000)
        assert (await store.limiter.take("u", "w", limits, items=5, places=5)).items == 0
        place.clock.now += 0.5
        given = await store.limiter.take("u", "w", limits, items=100, places=100)
        assert given.items == 5
        assert given.wait == pytest.approx(0.1)


@on_a_loop
async def test_places_are_shared_and_lapse(place: Place) -> None:
    """Those of a worker that is not heard of are free after its lease; given back, they are free at once."""
    limits = Limits(max_in_flight=10)
    async with place.opened() as store:
        assert (await store.limiter.take("u", "w1", limits, items=8, places=8)).places == 8
        second = await store.limiter.take("u", "w2", limits, items=8, places=8)
        assert (second.items, second.places, second.wait) == (2, 2, 1.0)
        place.clock.now += LEASE / 2
        assert (await store.limiter.take("u", "w2", limits, items=0, places=2)).places == 2
        place.clock.now += LEASE / 2
        assert (await store.limiter.take("u", "w2", limits, items=9, places=9)).places == 9
        await store.limiter.give_back("u", "w2")
        assert (await store.limiter.take("u", "w3", limits, items=10, places=10)).places == 10


@on_a_loop
async def test_an_overloaded_upstream_is_left_alone_by_all(place: Place) -> None:
    """For as long as it asks; then with half of the places, which grow back."""
    limits = Limits(max_in_flight=10)
    async with place.opened() as store:
        await store.limiter.take("u", "w1", limits, items=4, places=4)
        await store.limiter.block("u", limits, delay=7)
        await store.limiter.block("u", limits, delay=5)
        given = await store.limiter.take("u", "w2", limits, items=1, places=1)
        assert (given.items, given.wait) == (0, 7.0)
        assert (await store.limiter.take("u", "w1", limits, items=0, places=4)).places == 4
        place.clock.now += 7
        given = await store.limiter.take("u", "w2", limits, items=9, places=9)
        assert 1 <= given.items < 6
        await store.limiter.give_back("u", "w1")
        place.clock.now += 20
        assert (await store.limiter.take("u", "w2", limits, items=10, places=10)).items == 10


@on_a_loop
async def test_tokens_grow_back_until_a_rest_as_well(place: Place) -> None:
    """That an upstream wants a rest takes nothing from what may be sent to it afterwards."""
    limits = Limits(rate=1, burst=10)
    async with place.opened() as store:
        assert (await store.limiter.take("u", "w", limits, items=10, places=10)).items == 10
        place.clock.now += 5
        await store.limiter.block("u", limits, delay=1)
        place.clock.now += 1
        assert (await store.limiter.take("u", "w", limits, items=10, places=10)).items == 6


@on_a_loop
async def test_an_upstream_that_is_not_used_any_more_is_forgotten(place: Place) -> None:
    """After a time in which whatever it owed is full again; not one that still rests, nor one that is in use."""
    limits = Limits(rate=1)
    async with place.opened() as store:
        for name in ("gone", "resting", "used"):
            await store.limiter.take(name, "w", limits, items=1, places=1)
        place.clock.now += 99 * DAY
        await store.retention.sweep()
        assert (await rows(place))["batchproxy_limiter"] == 3
        await store.limiter.take("used", "w", limits, items=1, places=1)
        place.clock.now += 2 * DAY
        await store.retention.sweep()
        assert (await rows(place))["batchproxy_limiter"] == 1
        await store.limiter.block("resting", limits, delay=150 * DAY)
        await store.limiter.take("used", "w", limits, items=1, places=1)
        place.clock.now += 101 * DAY
        await store.retention.sweep()
        assert (await store.limiter.take("resting", "w", limits, items=1, places=1)).items == 0
        assert (await rows(place))["batchproxy_limiter"] == 1


def test_limits_are_checked() -> None:
    """A rate of nothing would be a job without an end."""
    with pytest.raises(SettingError, match="rate"):
        Limits(rate=0)
