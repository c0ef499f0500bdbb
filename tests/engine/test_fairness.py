"""Nobody waits for the whole of another's batch: neither a request that is no batch, nor a smaller batch.

What is compared is the order in which requests reach the app, and virtual time; never a clock.
"""

from __future__ import annotations

import pytest

from batchproxy import BatchMiddleware, InFlight
from tests.protocol.api import Api, answer
from tests.protocol.exchange import JSON, Exchange, Receive, Scope, Send, exchange_of, failures
from tests.protocol.virtual_time import now, until

from .on_virtual_time import on_virtual_time

CONCURRENCY = 16
STREAMED = {"accept": "application/x-ndjson"}


def many(name: str, count: int = 100) -> list[JSON]:
    return [{"path": f"/{name}/{number}"} for number in range(count)]


def counted(targets: list[str], name: str) -> int:
    return sum(target.startswith(f"/{name}/") for target in targets)


# Items that never wait share the loop


async def quick(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a turn of the loop, so that only we can give others theirs."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.mark.parametrize("headers", [{}, STREAMED])
@on_virtual_time
async def test_a_request_that_is_no_batch_waits_for_few_items(headers: dict[str, str]) -> None:
    """One that comes in the middle of a batch is served within two turns of the loop, however long the batch is."""
    reached: list[str] = []
    lone: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        if scope["path"] == "/big/40":
            lone.append(Exchange(batching, method="GET", path="/lone"))
        await quick(scope, receive, send)

    batching = BatchMiddleware(app, concurrency=CONCURRENCY)
    await exchange_of(batching, many("big"), headers=headers).finished()
    await lone[0].finished()
    # The rest of the turn in which it came, and one in which the batch may have been before it.
    assert reached.index("/lone") - reached.index("/big/40") <= 2 * CONCURRENCY


@on_virtual_time
async def test_batches_of_quick_items_take_turns() -> None:
    """Of two batches that begin together, none is further ahead than by what may run at once in both."""
    reached: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await quick(scope, receive, send)

    batching = BatchMiddleware(app, concurrency=CONCURRENCY)
    both = [exchange_of(batching, many(name)) for name in ("one", "two")]
    for each in both:
        await each.finished()
    leads = [counted(reached[:end], "one") - counted(reached[:end], "two") for end in range(len(reached))]
    assert max(map(abs, leads)) <= 2 * CONCURRENCY


# Items that wait share the places


def waiting(*names: str) -> Api:
    """An API in which every item takes a second."""
    return Api({item["path"]: answer(takes=1) for name in names for item in many(name)})


@on_virtual_time
async def test_a_small_batch_does_not_wait_behind_large_ones() -> None:
    """Places that become free together go round between the batches that wait: five items take one round more."""
    api = waiting("small", "one", "two", "three")
    app = BatchMiddleware(api, concurrency=CONCURRENCY, in_flight=InFlight(CONCURRENCY))
    rivals = [exchange_of(app, many(name)) for name in ("one", "two", "three")]
    await until(0.5)
    small = exchange_of(app, many("small", 5))
    reply = await small.finished()
    assert failures(reply) == [None] * 5
    assert reply.at <= 3
    for rival in rivals:
        assert failures(await rival.finished()) == [None] * 100
    # 305 items of a second, sixteen at once: no place was idle meanwhile.
    assert now() == pytest.approx(20)


@on_virtual_time
async def test_places_that_were_granted_are_kept_over_the_turns_of_a_start() -> None:
    """A batch that starts a few items a turn loses the rest of its places to nobody who comes meanwhile."""
    reached: list[str] = []
    late: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"].split("/")[1])
        if scope["path"] == "/second/0":
            late.append(exchange_of(batching, many("late", CONCURRENCY)))
        await answer(takes=1)(scope, receive, send)

    batching = BatchMiddleware(app, concurrency=CONCURRENCY, in_flight=InFlight(CONCURRENCY))
    first = exchange_of(batching, many("first", CONCURRENCY))
    await until(0.5)
    second = exchange_of(batching, many("second", CONCURRENCY))
    for each in (first, second):
        await each.finished()
    await late[0].finished()
    assert reached == ["first"] * CONCURRENCY + ["second"] * CONCURRENCY + ["late"] * CONCURRENCY


@on_virtual_time
async def test_large_batches_get_equal_shares() -> None:
    """Four batches that wait for the same two places advance together, whoever came first."""
    names = ("one", "two", "three", "four")
    api = waiting(*names)
    app = BatchMiddleware(api, concurrency=CONCURRENCY, in_flight=InFlight(2), batch_timeout=100)
    batches = [exchange_of(app, many(name, 40)) for name in names]
    await until(20.5)
    shares = [counted(api.targets, name) for name in names]
    assert sum(shares) == 2 * 21
    assert max(shares) - min(shares) <= 2
    for batch in batches:
        assert failures(await batch.finished()) == [None] * 40
