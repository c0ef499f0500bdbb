"""What is tried again, where, when, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batchproxy.proxy.retrying import Retrying
from batchproxy.proxy.settings import CircuitBreaker, Retry
from batchproxy.proxy.transports import (
    BAD_RESPONSE,
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    FIRST_BYTE_TIMEOUT,
    RESET_BEFORE_RESPONSE,
    TLS_FAILURE,
    TRUNCATED,
    Reason,
    Sent,
)
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.virtual_time import now

from .played import FAILS, Act, always, failure, fault, request, stage, whole

NEVER = CircuitBreaker(consecutive_failures=10_000)
KEYED = [(b"host", b"h"), (b"idempotency-key", b"k")]


async def pieces() -> AsyncIterator[bytes]:
    yield b"once"


@on_virtual_time
async def test_an_idempotent_request_is_tried_again() -> None:
    """What failed before its answer began is sent once more, and the caller sees only the answer."""
    scene = stage(FAILS, Act())
    notes: dict[str, Any] = {}
    assert await whole(scene.live, request(), notes) == (200, b"ok")
    assert scene.attempts == [2]
    assert notes == {
        "upstream": "orders",
        "address": "http://a0",
        "attempts": 2,
        "flags": "UC",
        "detail": "as it was written",
    }
    assert scene.is_idle()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"])
def test_methods_that_may_be_sent_twice(method: str) -> None:
    """RFC 9110, section 9.2.2."""
    assert attempts_of(method=method) == 2


@pytest.mark.parametrize("method", ["POST", "PATCH", "CONNECT", "get", "FOO"])
def test_methods_that_may_not(method: str) -> None:
    """A write that may have arrived is never sent twice."""
    assert attempts_of(method=method) == 1


def test_an_idempotency_key_makes_a_write_repeatable() -> None:
    """Whoever sends `Idempotency-Key` says that twice is once."""
    assert attempts_of(method="POST", headers=KEYED) == 2


def test_a_body_that_is_read_once_is_sent_once() -> None:
    """What came piece by piece is not there any more."""
    assert attempts_of(method="PUT", body=pieces()) == 1


def attempts_of(reason: Reason = RESET_BEFORE_RESPONSE, *, answered: bool = False, **more: Any) -> int:
    """How often a request is sent that always fails like this."""
    settings = more.pop("retry", Retry())
    found = 0

    @on_virtual_time
    async def run() -> None:
        nonlocal found
        scene = stage(Act(fault=fault(reason, answered=answered)), retry=settings)
        assert (await failure(scene.live, request(**more))).reason is reason
        assert scene.is_idle()
        found = scene.attempts[0]

    run()
    return found


def test_nothing_is_tried_again_once_an_answer_began() -> None:
    """As soon as a byte has arrived, it stays with that."""
    assert attempts_of(answered=True) == 1


@pytest.mark.parametrize("reason", [BAD_RESPONSE, TRUNCATED, FIRST_BYTE_TIMEOUT, TLS_FAILURE])
def test_only_what_is_named_is_tried_again(reason: Reason) -> None:
    """By default failed connections and resets; anything else fails at once."""
    assert attempts_of(reason) == 1


@pytest.mark.parametrize(
    ("reason", "on"),
    [
        (CONNECT_FAILURE, "connect-failure"),
        (CONNECT_TIMEOUT, "connect-failure"),
        (TLS_FAILURE, "tls-failure"),
        (RESET_BEFORE_RESPONSE, "reset-before-response"),
        (FIRST_BYTE_TIMEOUT, "first-byte-timeout"),
    ],
)
def test_what_is_named_is_tried_again(reason: Reason, on: str) -> None:
    """Each name of `on` stands for what it says, and for nothing else."""
    assert attempts_of(reason, retry=Retry(on=[on])) == 2
    assert attempts_of(reason, retry=Retry(on=[])) == 1


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_attempts_are_limited(attempts: int) -> None:
    """`attempts` more than the first."""
    assert attempts_of(retry=Retry(attempts=attempts)) == 1 + attempts


@on_virtual_time
async def test_a_retry_goes_to_another_address() -> None:
    """If there is another; its prefix and its `Host` are used then."""
    scene = stage(addresses=["http://a0/one", "http://a1/two"], host="upstream")
    scene.addresses[0].plays(FAILS)
    assert await whole(scene.live, request(target=b"/x?y=1")) == (200, b"ok")
    assert scene.attempts == [1, 1]
    sent = scene.addresses[1].requests[0]
    assert (sent.target, sent.headers[0]) == (b"/two/x?y=1", (b"host", b"a1"))
    assert scene.addresses[0].requests[0].target == b"/one/x?y=1"


@on_virtual_time
async def test_the_pause_has_full_jitter() -> None:
    """Twice as long each time, up to `max_backoff`, and any share of it."""
    settings = Retry(attempts=9, backoff=0.1, max_backoff=1.0)
    for share in (0.0, 0.5, 1.0):
        retrying = Retrying(settings, uniform=always(share))
        found = [retrying.pause(request(), fault(), attempts, 100) for attempts in (1, 2, 3, 4, 5, 9)]
        assert found == pytest.approx([share * each for each in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)])


@on_virtual_time
async def test_no_retry_beyond_the_deadline() -> None:
    """A pause that would end after the deadline is not begun."""
    settings = Retry(attempts=5, backoff=10.0, max_backoff=10.0)
    scene = stage(FAILS, retry=settings)
    scene.live._retrying._uniform = always(1)
    assert (await failure(scene.live, request(deadline=25.0))).reason is RESET_BEFORE_RESPONSE
    assert scene.addresses[0].moments == [0.0, 10.0, 20.0]
    assert now() == 20.0
    assert scene.is_idle()


@on_virtual_time
async def test_the_budget_bounds_retries_that_run() -> None:
    """No more than the share of running requests, but always `min_budget`: an outage does not double the load."""
    scene = stage(FAILS, max_in_flight=100, retry=Retry(budget=0.2, min_budget=3), circuit_breaker=NEVER)
    scene.plays(*[Act(fault=fault(), after=1.0)] * 100)
    await asyncio.gather(*(failure(scene.live, request()) for _ in range(50)))
    assert scene.attempts == [60]
    assert scene.live.state()["retries"] == 10
    assert scene.live.state()["retries_refused"] == 40
    assert scene.is_idle()
    scene = stage(FAILS, retry=Retry(budget=0.0, min_budget=0))
    await failure(scene.live, request())
    assert scene.attempts == [1]


@on_virtual_time
async def test_a_retry_holds_its_share_until_its_answer_ended() -> None:
    """A retry that is still being read counts against the budget."""
    scene = stage(FAILS, Act(), FAILS, Act(), retry=Retry(budget=0.0, min_budget=1))
    answer = await scene.live.send(request())
    await failure(scene.live, request())
    assert scene.attempts == [3]
    answer.close()
    assert scene.is_idle()


@on_virtual_time
async def test_a_single_attempt_may_be_limited() -> None:
    """`per_try_timeout` ends an attempt without a head, which is then tried again; a body may take longer."""
    scene = stage(Act(after=60), Act(after=1), retry=Retry(per_try_timeout=2, backoff=0))
    answer = await scene.live.send(request())
    assert now() == 3.0
    await asyncio.sleep(10)
    assert await answer.read() == b"ok"
    assert await answer.read() == b""
    assert scene.is_idle()
    scene = stage(Act(after=60), retry=Retry(per_try_timeout=2, backoff=0))
    assert (await failure(scene.live, request())).reason is FIRST_BYTE_TIMEOUT
    assert (await failure(scene.live, request("POST"))).sent is Sent.ALL
    assert scene.attempts == [3]
    assert scene.is_idle()


@on_virtual_time
async def test_a_sooner_deadline_is_the_transports() -> None:
    """A deadline before `per_try_timeout` is kept by the transport, and leaves nothing to try again."""
    scene = stage(Act(after=1), retry=Retry(per_try_timeout=5))
    await whole(scene.live, request(deadline=2.0))
    assert scene.addresses[0].requests[0].deadline == 2.0
    assert scene.attempts == [1]
