"""Health checks: thresholds, when they come, over which connections, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from batchproxy.proxy.health import PROBES_AT_ONCE, Health, HealthChecks
from batchproxy.proxy.settings import HealthCheck
from batchproxy.proxy.transports import NO_HEALTHY
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.virtual_time import until

from .played import FAILS, Act, Stage, always, failure, request, stage, whole


def after(health: Health, checks: str) -> str:
    """What is believed after each check: `+` passed or good, `-` failed or bad."""
    found = ""
    for check in checks:
        health.note(check == "+")
        found += "+" if health.is_good else "-"
    return found


def checked(*acts: Act, addresses: int = 1, **settings: float | str) -> Stage:
    check = HealthCheck(**{"path": "/health", "interval": 10, "timeout": 2, "healthy": 2, "unhealthy": 3, **settings})  # type: ignore[arg-type]
    return stage(*acts, addresses=addresses, health_check=check)


def test_the_first_check_decides_alone() -> None:
    """Until then an address is taken to be well; then what is found is believed at once."""
    assert Health(2, 3).is_good
    assert after(Health(2, 3), "-") == "-"
    assert after(Health(2, 3), "+") == "+"


def test_thresholds_count_checks_in_a_row() -> None:
    """`unhealthy` failures in a row, then `healthy` passes in a row, change what is believed."""
    assert after(Health(2, 3), "+--+---+-++") == "++++++---" + "-+"


@on_virtual_time
async def test_an_address_that_fails_gets_nothing() -> None:
    """Requests go to the healthy ones; when there is none, they fail at once with 503."""
    scene = checked(addresses=2)
    first, second = scene.addresses
    first.plays(Act(status=503))
    scene.live.start()
    await until(2)
    for _ in range(4):
        await whole(scene.live, request())
    assert [each.target for each in first.requests] == [b"/health"]
    assert scene.live.is_available
    second.plays(FAILS)
    await until(40)
    notes: dict[str, object] = {}
    assert (await failure(scene.live, request(), notes)).reason is NO_HEALTHY
    assert notes["flags"] == "UH"
    assert not scene.live.is_available
    await scene.live.aclose()
    assert scene.is_idle()


@on_virtual_time
async def test_an_address_comes_back() -> None:
    """After `healthy` passed checks it gets requests again, and an ejection is over."""
    scene = checked(Act(status=500))
    scene.live.start()
    await until(5)
    assert not scene.live.is_available
    scene.plays(Act(status=204, pieces=()))
    await until(30)
    assert scene.live.is_available
    assert (await whole(scene.live, request()))[0] == 204
    await scene.live.aclose()


@on_virtual_time
async def test_checks_come_every_interval_with_jitter() -> None:
    """Never all at the same moment, never far from the interval."""
    scene = checked(addresses=3)
    scene.live.start()
    await until(200)
    moments = [each.moments for each in scene.addresses]
    assert all(each[0] <= 1 for each in moments)
    assert all(9 <= later - earlier <= 11 for each in moments for earlier, later in pairwise(each))
    assert len({tuple(each) for each in moments}) == 3
    await scene.live.aclose()


@on_virtual_time
async def test_a_check_has_a_deadline_of_its_own() -> None:
    """The transport is told by when the whole answer must be there."""
    scene = checked(timeout=3)
    scene.live.start()
    await until(2)
    (played,) = scene.addresses
    assert played.requests[0].deadline == played.moments[0] + 3
    assert played.requests[0].headers[0] == (b"host", b"a0")
    await scene.live.aclose()


@on_virtual_time
async def test_only_so_many_run_at_once() -> None:
    """Many addresses are not asked all at the same time."""
    running, most = 0, 0

    async def probe() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    checks = HealthChecks(HealthCheck(interval=10), [probe] * 20, uniform=always(0))
    checks.start()
    await until(30)
    assert most == PROBES_AT_ONCE
    await checks.aclose()


@on_virtual_time
async def test_checks_take_no_place() -> None:
    """An upstream that is full is still asked how it is."""
    scene = checked(Act(after=50))
    scene.live.start()
    await until(2)
    assert scene.live.state()["in_flight"] == 0
    await scene.live.aclose()
    assert scene.is_idle()


@on_virtual_time
async def test_close_ends_a_running_check() -> None:
    """Nothing of a check goes on after `aclose`, wherever it was."""
    for moment in (0.0, 0.5, 2.0, 15.0):
        scene = checked(Act(after=1000))
        scene.live.start()
        await asyncio.sleep(moment)
        await scene.live.aclose()
        assert scene.is_idle()


@on_virtual_time
async def test_a_drained_upstream_asks_no_more() -> None:
    """The next generation asks for itself."""
    scene = checked()
    scene.live.start()
    await until(2)
    scene.live.drain()
    await until(100)
    assert scene.attempts == [1]
    assert scene.addresses[0].is_expired
    await scene.live.aclose()


@on_virtual_time
async def test_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One line when an address goes, one when it comes back."""
    caplog.set_level(logging.INFO, "batchproxy")
    scene = checked(Act(status=500))
    scene.live.start()
    await until(25)
    scene.plays(Act())
    await until(60)
    await scene.live.aclose()
    assert [each.getMessage() for each in caplog.records] == [
        "upstream.unhealthy: upstream=orders address=http://a0",
        "upstream.healthy: upstream=orders address=http://a0",
    ]
