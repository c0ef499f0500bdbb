"""`Run`: what the protocol's tests do not see because it takes two batches, a stalled reader, or an app gone wild."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from batchproxy import BatchMiddleware, InFlight
from tests.protocol.api import Api, answer, value
from tests.protocol.exchange import JSON, App, Receive, Scope, Send, exchange_of, failure, failures
from tests.protocol.virtual_time import now, until

from .on_virtual_time import on_virtual_time

STREAMED = {"accept": "application/x-ndjson"}


def stuck(cancelled: list[float]) -> App:
    """An app that never answers, and notes when it is cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(now())
            raise

    return app


@on_virtual_time
async def test_an_item_that_waits_for_a_place_counts_once_for_its_cap() -> None:
    """`max_per_batch` counts an item once, however often it has to wait for a place before it starts."""
    api = Api({"/source": value(7), "/slow": answer(takes=5)})
    app = BatchMiddleware(api, in_flight=InFlight(1), max_per_batch={"/users/*": 1})
    items = [{"id": "a", "path": "/source"}, {"path": "/users/{x}", "vars": {"x": "a#/body"}}]
    exchange = exchange_of(app, items)
    other = exchange_of(app, [{"path": "/slow"}, {"path": "/slow"}])
    assert failures(await exchange.finished()) == [None, None]
    assert failures(await other.finished()) == [None, None]


@pytest.mark.parametrize(
    "location",
    ["http:/\t/api.example/x", "http:\n//api.example/x", "http:/\r/", "//\t", "http://[", "http://api.example:\t80/x"],
)
@on_virtual_time
async def test_a_batch_ends_whatever_stands_for_a_path(location: str) -> None:
    """A value that is no path is `reference_failed` or `invalid_path`; whatever it is, the batch ends."""
    api = Api({"/source": value(location)})
    items: list[JSON] = [{"id": "a", "path": "/source"}, {"path": "{x}", "vars": {"x": "a#/body"}}, {"path": "/z"}]
    exchange = exchange_of(BatchMiddleware(api), items)
    await until(1)
    assert exchange.task.done(), "the batch has no end"
    first, second, third = (await exchange.finished()).responses
    assert (first["status"], third["status"]) == (200, 200)
    assert failure(second) in [(424, "reference_failed"), (400, "invalid_path")]
    assert api.targets == ["/source", "/z"]


@on_virtual_time
async def test_a_batch_ends_even_if_an_app_cancels_tasks_that_are_not_its_own() -> None:
    """An item whose task was cancelled by somebody else is answered as well, before it began or after."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wild":
            for task in asyncio.all_tasks() - known - {asyncio.current_task()}:
                task.cancel()
        await answer()(scope, receive, send)

    known = asyncio.all_tasks()
    exchange = exchange_of(BatchMiddleware(app), [{"path": "/wild"}, {"path": "/b"}, {"path": "/c"}])
    known.add(exchange.task)
    await until(100)
    assert exchange.task.done(), "the batch has no end"
    wild, *others = (await exchange.finished()).responses
    assert wild["status"] == 200
    assert len(others) == 2
    # Where tasks are eager (Python 3.12 and later), the others have not begun by then, and are answered by the app.
    assert all(entry["status"] == 200 if sys.version_info >= (3, 12) else entry["status"] >= 500 for entry in others)


@on_virtual_time
async def test_deadlines_hold_while_the_reader_takes_nothing() -> None:
    """An item's deadline holds from the beginning, also if the reader of a stream has not taken a byte yet."""
    cancelled: list[float] = []
    api = Api({"/stuck": stuck(cancelled)})
    app = BatchMiddleware(api, item_timeout=5, batch_timeout=20, write_timeout=1000)
    exchange = exchange_of(app, [{"path": "/quick"}, {"path": "/stuck"}], headers=STREAMED)
    exchange.stop_reading()
    await until(6)
    assert cancelled == [5]
    exchange.read_on()
    records = (await exchange.finished()).lines
    assert [failure(record) for record in records[:-1]] == [None, (504, "timeout")]


@on_virtual_time
async def test_a_client_that_leaves_is_noticed_while_it_takes_nothing() -> None:
    """The client may leave while something is being written to it, from the first byte on."""
    cancelled: list[float] = []
    api = Api({"/stuck": stuck(cancelled)})
    app = BatchMiddleware(api, write_timeout=1000, item_timeout=500, batch_timeout=500)
    exchange = exchange_of(app, [{"path": "/quick"}, {"path": "/stuck"}], headers=STREAMED)
    exchange.stop_reading()
    await until(1)
    exchange.leave()
    await until(2)
    assert cancelled == [1]
    assert exchange.task.done()


@on_virtual_time
async def test_what_is_cancelled_starts_nothing_new() -> None:
    """When the server cancels a batch, items that have not begun never do, and none is left running."""
    cancelled: list[float] = []
    api = Api({f"/{number}": stuck(cancelled) for number in range(8)})
    pool = InFlight()
    app = BatchMiddleware(api, concurrency=2, in_flight=pool)
    exchange = exchange_of(app, [{"path": f"/{number}"} for number in range(8)])
    await until(1)
    exchange.task.cancel()
    await until(2)
    assert exchange.task.cancelled()
    assert api.targets == ["/0", "/1"]
    assert cancelled == [1, 1]
    assert (pool.used, pool.wanted, api.running) == (0, 0, 0)


@on_virtual_time
async def test_what_is_cancelled_in_the_queue_takes_no_place() -> None:
    """A batch that is cancelled while it waits for a place leaves the queue, and no timer of its stream is left."""
    cancelled: list[float] = []
    api = Api({"/stuck": stuck(cancelled)})
    pool = InFlight(1, queue=9)
    app = BatchMiddleware(api, in_flight=pool, item_timeout=20, batch_timeout=50)
    holder = exchange_of(app, [{"path": "/stuck"}])
    await until(1)
    waiting = exchange_of(app, [{"path": "/a"}], headers={"accept": "text/event-stream"})
    await until(2)
    assert repr(pool) == "InFlight(1, queue=9, used=1, waiting=1)"
    waiting.task.cancel()
    await until(3)
    assert repr(pool) == "InFlight(1, queue=9, used=1, waiting=0)"
    assert (await exchange_of(app, [{"path": "/b"}], headers=STREAMED).answered()).status == 200
    assert json.loads((await holder.finished()).body)["responses"][0]["error"] == "timeout"
    assert api.targets == ["/stuck", "/b"]
    assert pool.wanted == 0
