"""`LiveUpstream`: places and the queue, deadlines, what an address gets, what counts against it, and that whatever was
taken is given back on every way out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batchproxy.proxy.settings import CircuitBreaker, HealthCheck, OutlierDetection, Retry, Timeouts
from batchproxy.proxy.transports import (
    CONNECT_FAILURE,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    OVERLOADED,
    RESET_BEFORE_RESPONSE,
    TOO_LARGE,
    TOTAL_TIMEOUT,
    TRUNCATED,
    Outgoing,
    Reason,
    Sent,
    UpstreamError,
)
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.virtual_time import now, settled, until

from .played import FAILS, Act, failure, fault, request, stage, whole

NO_RETRY = Retry(attempts=0)


# What an address gets


@on_virtual_time
async def test_one_address_without_a_prefix_gets_the_request_itself() -> None:
    """Nothing is changed, so nothing is copied."""
    scene = stage()
    outgoing = request()
    assert await whole(scene.live, outgoing) == (200, b"ok")
    assert scene.addresses[0].requests[0] is outgoing


@pytest.mark.parametrize(
    ("url", "target", "expected"),
    [
        ("http://h/api", b"/x?y", b"/api/x?y"),
        ("http://h/api/", b"/", b"/api/"),
        ("http://h/", b"/x", b"/x"),
        ("http://h/a%2Fb/c", b"/../x", b"/a%2Fb/c/../x"),
        ("http://h", b"*", b"*"),
    ],
)
def test_the_prefix_goes_before_the_target(url: str, target: bytes, expected: bytes) -> None:
    """Byte by byte; nothing of the target is read."""
    assert sent(url, "preserve", target=target).target == expected


@on_virtual_time
async def test_a_target_cannot_lead_beside_the_prefix() -> None:
    """`/api` and `v2` would be `/apiv2`: refused before anything is sent."""
    for target in (b"v2", b"@evil", b"*", b""):
        scene = stage(addresses=["http://h/api"])
        with pytest.raises(ValueError, match="slash"):
            await scene.live.send(request(target=target))
        assert scene.attempts == [0]
        assert scene.is_idle()


@pytest.mark.parametrize(
    ("url", "policy", "host"),
    [
        ("http://up:81", "auto", b"client.example"),
        ("https://up:81", "auto", b"up:81"),
        ("https://up:443", "auto", b"up"),
        ("unix:/run/up.sock", "auto", b"client.example"),
        ("http://up:81", "preserve", b"client.example"),
        ("https://up", "preserve", b"client.example"),
        ("http://up:80/api", "upstream", b"up"),
        ("http://[::1]:8000", "upstream", b"[::1]:8000"),
        ("unix:/run/up.sock", "upstream", b"localhost"),
        ("http://up", "api.example.com:8443", b"api.example.com:8443"),
    ],
)
def test_host_is_set_by_the_policy(url: str, policy: str, host: bytes) -> None:
    """Exactly one `Host`, whatever the policy; all other fields stay in order."""
    fields = [(b"accept", b"*/*"), (b"host", b"client.example"), (b"x", b"1"), (b"x", b"2")]
    found = sent(url, policy, headers=fields).headers
    assert [value for name, value in found if name == b"host"] == [host]
    assert [pair for pair in found if pair[0] != b"host"] == [fields[0], *fields[2:]]


def test_a_request_without_host_gets_one() -> None:
    """HTTP/1.0 allows none, HTTP/1.1 does not."""
    for fields in ([], [(b"accept", b"*/*")]):
        assert [*sent("http://up:81", "preserve", headers=fields).headers] == [(b"host", b"up:81"), *fields]


@on_virtual_time
async def test_a_request_that_cannot_be_sent_takes_nothing() -> None:
    """A mistake of ours, found before anything is sent, costs neither a place nor the trial of a half-open breaker."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=5)
    scene = stage(FAILS, Act(), addresses=["http://a/prefix"], circuit_breaker=breaker)
    await failure(scene.live, request())
    await asyncio.sleep(6)
    with pytest.raises(ValueError, match="slash"):
        await scene.live.send(request(target=b"*"))
    assert scene.live.state()["in_flight"] == 0
    assert await whole(scene.live, request()) == (200, b"ok")


def sent(url: str, policy: str, **more: Any) -> Outgoing:
    """What an address gets of a request."""
    found: list[Outgoing] = []

    @on_virtual_time
    async def run() -> None:
        scene = stage(addresses=[url], host=policy)
        await whole(scene.live, request(**more))
        found.extend(scene.addresses[0].requests)

    run()
    return found[0]


@on_virtual_time
async def test_addresses_take_turns() -> None:
    """Round robin, one request each."""
    scene = stage(addresses=3)
    for _ in range(7):
        await whole(scene.live, request())
    assert scene.attempts == [3, 2, 2]


# Places


@on_virtual_time
async def test_no_more_run_than_there_are_places() -> None:
    """The others wait in order of arrival, and each gets its turn."""
    scene = stage(Act(after=1), max_in_flight=2)
    order: list[int] = []

    async def one(number: int) -> None:
        await whole(scene.live, request())
        order.append(number)

    await asyncio.gather(*map(one, range(6)))
    assert scene.addresses[0].most == 2
    assert order == list(range(6))
    assert now() == 3.0
    assert scene.is_idle()


@on_virtual_time
async def test_beyond_the_queue_requests_are_refused() -> None:
    """At once, before anything is sent."""
    scene = stage(Act(after=1), max_in_flight=1, max_queue=2)
    running = [asyncio.create_task(whole(scene.live, request())) for _ in range(3)]
    await settled()
    notes: dict[str, Any] = {}
    error = await failure(scene.live, request(), notes)
    assert (error.reason, error.sent, now()) == (OVERLOADED, Sent.NOTHING, 0.0)
    assert notes["flags"] == "UO"
    assert "attempts" not in notes
    assert scene.live.state()["queued"] == 2
    await asyncio.gather(*running)
    assert scene.is_idle()


@on_virtual_time
async def test_an_upstream_without_a_queue_refuses_at_once() -> None:
    """`max_queue` may be 0."""
    scene = stage(Act(after=1), max_in_flight=1, max_queue=0)
    running = asyncio.create_task(whole(scene.live, request()))
    await settled()
    assert (await failure(scene.live, request())).reason is OVERLOADED
    await running


@on_virtual_time
async def test_a_place_is_held_until_the_answer_ended() -> None:
    """Read to its end, or closed; closing twice gives nothing back twice."""
    scene = stage(max_in_flight=1, max_queue=0)
    answer = await scene.live.send(request())
    assert (await failure(scene.live, request())).reason is OVERLOADED
    while await answer.read():
        pass
    assert scene.is_idle()
    second = await scene.live.send(request())
    answer.close()
    assert (await failure(scene.live, request())).reason is OVERLOADED
    second.close()
    second.close()
    assert scene.is_idle()
    assert await whole(scene.live, request()) == (200, b"ok")


# Deadlines


@on_virtual_time
async def test_waiting_counts_against_the_deadline() -> None:
    """A request whose deadline passes in the queue is never sent."""
    scene = stage(Act(after=10), max_in_flight=1)
    running = asyncio.create_task(whole(scene.live, request()))
    await settled()
    error = await failure(scene.live, request(deadline=3.0))
    assert (error.reason, error.sent, now()) == (TOTAL_TIMEOUT, Sent.NOTHING, 3.0)
    await running
    assert scene.attempts == [1]
    assert scene.is_idle()


@on_virtual_time
async def test_the_total_of_the_upstream_bounds_the_deadline() -> None:
    """The sooner of the two, counted from when the request came; the queue and all attempts included."""
    scene = stage(Act(after=4), max_in_flight=1, timeouts=Timeouts(total=9))
    await asyncio.gather(
        whole(scene.live, request()), whole(scene.live, request()), whole(scene.live, request(deadline=8.5))
    )
    assert [each.deadline for each in scene.addresses[0].requests] == [9.0, 9.0, 8.5]
    assert scene.addresses[0].moments == [0.0, 4.0, 8.0]


# What counts against an address


@on_virtual_time
async def test_failing_addresses_are_ejected(caplog: pytest.LogCaptureFixture) -> None:
    """After `consecutive_5xx` answers or failures an address gets nothing for a while."""
    scene = stage(addresses=3, outlier_detection=OutlierDetection(consecutive_5xx=2), retry=NO_RETRY)
    scene.addresses[0].plays(Act(status=500), FAILS)
    with caplog.at_level(logging.WARNING, "batchproxy"):
        for _ in range(12):
            await asyncio.gather(whole(scene.live, request()), return_exceptions=True)
    assert scene.attempts[0] == 2
    assert [each["ejected"] for each in scene.live.state()["addresses"]] == [True, False, False]
    assert [each.getMessage() for each in caplog.records] == ["upstream.ejected: upstream=orders address=http://a0"]
    await until(31)
    for _ in range(3):
        await asyncio.gather(whole(scene.live, request()), return_exceptions=True)
    assert scene.attempts[0] == 3


@on_virtual_time
async def test_a_5xx_answer_is_an_answer() -> None:
    """It is passed on, never tried again, and does not open the breaker."""
    scene = stage(Act(status=503), circuit_breaker=CircuitBreaker(consecutive_failures=1))
    for _ in range(5):
        assert (await whole(scene.live, request()))[0] == 503
    assert scene.attempts == [5]
    assert scene.live.state()["breaker"] == "closed"


@on_virtual_time
async def test_the_breaker_refuses_and_tries_again() -> None:
    """Refused at once while open; then one request is let through and decides."""
    scene = stage(FAILS, circuit_breaker=CircuitBreaker(consecutive_failures=3, open_for=5), retry=NO_RETRY)
    for _ in range(3):
        await failure(scene.live, request())
    notes: dict[str, Any] = {}
    error = await failure(scene.live, request(), notes)
    assert (error.reason, scene.attempts) == (OVERLOADED, [3])
    assert notes["flags"] == "UO"
    await until(5)
    scene.plays(Act(after=1))
    first, second = await asyncio.gather(
        whole(scene.live, request()), whole(scene.live, request()), return_exceptions=True
    )
    assert first == (200, b"ok")
    assert isinstance(second, UpstreamError)
    assert second.reason is OVERLOADED
    assert scene.live.state()["breaker"] == "closed"
    assert scene.is_idle()


@on_virtual_time
async def test_an_open_breaker_ends_the_attempts() -> None:
    """What opened it is what the caller gets, without a pause."""
    scene = stage(FAILS, circuit_breaker=CircuitBreaker(consecutive_failures=2), retry=Retry(attempts=9))
    assert (await failure(scene.live, request())).reason is RESET_BEFORE_RESPONSE
    assert scene.attempts == [2]


@on_virtual_time
async def test_the_answer_of_the_one_let_through_is_enough() -> None:
    """Its body may go on for hours; the others need not wait for it."""
    scene = stage(FAILS, Act(), circuit_breaker=CircuitBreaker(consecutive_failures=1, open_for=5), retry=NO_RETRY)
    await failure(scene.live, request())
    await until(5)
    answer = await scene.live.send(request())
    assert await whole(scene.live, request()) == (200, b"ok")
    answer.close()
    assert scene.is_idle()


@on_virtual_time
async def test_what_began_before_the_breaker_opened_decides_nothing() -> None:
    """Neither its late answer nor its late end closes the breaker."""
    scene = stage(
        Act(after=3), FAILS, circuit_breaker=CircuitBreaker(consecutive_failures=1, open_for=10), retry=NO_RETRY
    )
    old = asyncio.create_task(scene.live.send(request()))
    await settled()
    await failure(scene.live, request())
    answer = await old
    assert scene.live.state()["breaker"] == "open"
    await until(10)
    scene.plays(Act(after=5))
    probe = asyncio.create_task(whole(scene.live, request()))
    await settled()
    answer.close()
    assert scene.live.state()["breaker"] == "half-open"
    assert await probe == (200, b"ok")
    assert scene.live.state()["breaker"] == "closed"
    assert scene.is_idle()


@on_virtual_time
async def test_an_answer_that_breaks_off_is_a_failure() -> None:
    """Beginnings alone do not keep an upstream in service."""
    broken = Act(fault_inside=fault(TRUNCATED, answered=True))
    scene = stage(broken, circuit_breaker=CircuitBreaker(consecutive_failures=3))
    notes: dict[str, Any] = {}
    for _ in range(3):
        assert (await failure(scene.live, request(), notes)).reason is TRUNCATED
    assert notes["flags"] == "TR,TR,TR"
    assert scene.live.state()["breaker"] == "open"
    assert scene.is_idle()


@pytest.mark.parametrize(
    "error",
    [
        fault(TOTAL_TIMEOUT, sent=Sent.NOTHING),
        fault(TOTAL_TIMEOUT, sent=Sent.PARTLY),
        fault(TOTAL_TIMEOUT, answered=True),
        fault(IDLE_TIMEOUT, sent=Sent.PARTLY),
        fault(TOO_LARGE, answered=True),
        fault(OVERLOADED, sent=Sent.NOTHING),
    ],
)
def test_what_a_client_can_cause_counts_against_nobody(error: UpstreamError) -> None:
    """A slow upload, a slow reader or a large answer of one client closes the way for no other."""
    assert breaker_after(error) == "closed"


@pytest.mark.parametrize("reason", [TOTAL_TIMEOUT, IDLE_TIMEOUT, FIRST_BYTE_TIMEOUT, CONNECT_FAILURE, TRUNCATED])
def test_what_the_upstream_causes_counts(reason: Reason) -> None:
    """No connection, no answer in time, a broken one."""
    assert breaker_after(fault(reason)) == "open"


def test_a_slow_upload_takes_the_time_of_its_answer() -> None:
    """A body that came piece by piece may have left too little of it."""
    assert breaker_after(fault(TOTAL_TIMEOUT), body=pieces()) == "closed"


async def pieces() -> AsyncIterator[bytes]:
    yield b"x"


@on_virtual_time
async def test_a_queue_takes_the_time_of_the_answer() -> None:
    """What waited longer than it was tried says nothing: a crowd opens no breaker."""
    scene = stage(Act(after=6), max_in_flight=1, circuit_breaker=CircuitBreaker(consecutive_failures=1), retry=NO_RETRY)
    running = asyncio.create_task(whole(scene.live, request()))
    await settled()
    scene.plays(Act(after=4, fault=fault(TOTAL_TIMEOUT)))
    await asyncio.gather(running, failure(scene.live, request()))
    assert scene.live.state()["breaker"] == "closed"
    await failure(scene.live, request())
    assert scene.live.state()["breaker"] == "open"


def breaker_after(error: UpstreamError, **more: Any) -> str:
    found = ""

    @on_virtual_time
    async def run() -> None:
        nonlocal found
        scene = stage(Act(fault=error), circuit_breaker=CircuitBreaker(consecutive_failures=1), retry=NO_RETRY)
        assert (await failure(scene.live, request(**more))).reason is error.reason
        found = scene.live.state()["breaker"]

    run()
    return found


# Cancellation


WAYS: dict[str, tuple[dict[str, Any], tuple[Act, ...]]] = {
    "an answer": ({}, (Act(steps=2, pieces=(b"a", b"b", b"c")),)),
    "a retry": ({"retry": Retry(backoff=0)}, (Act(fault=FAILS.fault, steps=2), Act(steps=2))),
    "another address": ({"retry": Retry(backoff=0), "addresses": 2}, (Act(fault=FAILS.fault, steps=2), Act(steps=2))),
    "a limited attempt": ({"retry": Retry(per_try_timeout=5)}, (Act(steps=3),)),
    "a broken answer": ({}, (Act(steps=1, fault_inside=fault(TRUNCATED, answered=True)),)),
    "a half-open breaker": ({"circuit_breaker": CircuitBreaker(consecutive_failures=1)}, (Act(steps=3),)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("waits", [False, True])
def test_cancelled_at_any_step_it_holds_nothing(way: str, waits: bool) -> None:
    """No place, no turn in the queue, no answer, no part of the budget, and the next request goes through."""
    steps = 0
    while cancelled_at(steps, way, waits):
        steps += 1
    assert steps > 3


def cancelled_at(steps: int, way: str, waits: bool) -> bool:
    """Whether there was still something to cancel after so many steps."""
    settings, acts = WAYS[way]
    was_running = False

    @on_virtual_time
    async def run() -> None:
        nonlocal was_running
        scene = stage(max_in_flight=1, **settings)
        if way == "a half-open breaker":
            scene.plays(FAILS)
            await failure(scene.live, request("POST"))
            await asyncio.sleep(10)
        before = [asyncio.create_task(whole(scene.live, request()))] if waits else []
        scene.plays(Act(steps=3), *acts) if waits else scene.plays(*acts)
        await asyncio.sleep(0)
        task = asyncio.create_task(whole(scene.live, request()))
        behind = asyncio.create_task(whole(scene.live, request(deadline=now() + 30)))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_running = not task.done()
        task.cancel()
        await asyncio.gather(task, behind, *before, return_exceptions=True)
        assert scene.is_idle(), (scene.live, scene.addresses)
        scene.plays(Act())
        await asyncio.sleep(10)
        assert await whole(scene.live, request()) == (200, b"ok")
        await scene.live.aclose()

    run()
    return was_running


@on_virtual_time
async def test_a_place_is_not_lost_between_two() -> None:
    """One that is granted a place and cancelled in the same moment passes it on."""
    scene = stage(Act(after=1), max_in_flight=1)
    first = await scene.live.send(request())
    waiting = [asyncio.create_task(whole(scene.live, request())) for _ in range(3)]
    await settled()
    first.close()
    waiting[0].cancel()
    waiting[1].cancel()
    assert await waiting[2] == (200, b"ok")
    assert scene.is_idle()


@on_virtual_time
async def test_cancelled_in_its_pause_it_holds_nothing() -> None:
    """Nor is anything sent afterwards."""
    scene = stage(FAILS, retry=Retry(backoff=10, max_backoff=10))
    scene.live._retrying._uniform = lambda low, high: high
    task = asyncio.create_task(whole(scene.live, request()))
    await until(5)
    task.cancel()
    await asyncio.wait([task])
    assert scene.is_idle()
    await until(30)
    assert scene.attempts == [1]


# Life


@on_virtual_time
async def test_websockets_take_their_turn_too() -> None:
    """An address with its place, for whoever connects to it; none if none is healthy."""
    scene = stage(addresses=2)
    found = [scene.live.address_for_websocket() for _ in range(3)]
    assert [each.url for each in found] == ["http://a0", "http://a1", "http://a0"]
    assert found[0].ssl_context is None
    for address in scene.live.addresses:
        address.health.note(False)
    with pytest.raises(UpstreamError, match="no-healthy-address"):
        scene.live.address_for_websocket()


@on_virtual_time
async def test_the_connections_of_https_have_a_context() -> None:
    """It is made once, by the settings of this upstream."""
    scene = stage(addresses=["https://a0"])
    address = scene.live.address_for_websocket()
    assert address.ssl_context is not None
    assert address.ssl_context is scene.live.address_for_websocket().ssl_context
    assert address.ssl_context.check_hostname


@on_virtual_time
async def test_close_closes_every_address() -> None:
    """And ends the health checks."""
    scene = stage(addresses=2, health_check=HealthCheck())
    scene.live.start()
    await scene.live.aclose()
    assert [each.is_closed for each in scene.addresses] == [True, True]


@on_virtual_time
async def test_the_state_tells_how_it_is() -> None:
    """What the admin view shows, in plain values."""
    scene = stage(Act(after=1), addresses=2, max_in_flight=1, required=True)
    running = [asyncio.create_task(whole(scene.live, request())) for _ in range(2)]
    await settled()
    state = scene.live.state()
    addresses = state.pop("addresses")
    assert state == {
        "name": "orders",
        "available": True,
        "required": True,
        "breaker": "closed",
        "failures": 0,
        "in_flight": 1,
        "max_in_flight": 1,
        "queued": 1,
        "retries": 0,
        "retries_refused": 0,
    }
    assert addresses[0] == {
        "url": "http://a0",
        "healthy": True,
        "checked": False,
        "ejected": False,
        "ejections": 0,
        "in_flight": 1,
        "connections": None,
        "idle_connections": None,
    }
    assert repr(scene.live) == (
        "LiveUpstream(orders, Places(1, queue=1024, used=1, waiting=1), Breaker(closed, failures=0))"
    )
    await asyncio.gather(*running)
