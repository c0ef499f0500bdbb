"""Section 2, "Time" and "The client leaves": deadlines, late cancellation, background work, disconnects."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from batchproxy import BatchMiddleware, InFlight
from tests.serving import PATIENCE, request, serve

from .api import Api, answer, start
from .exchange import JSON, App, Receive, Scope, Send, exchange_of, failure, failures, send_batch, written
from .virtual_time import now, until

TIMEOUT = (504, "timeout")
BATCH_TIMEOUT = (504, "batch_timeout")
NOT_STARTED = (503, "not_started")


class Diary:
    """What became of an app that sleeps, in order, each with its moment."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        self.lines.append((what, now()))

    def sleeps(self, seconds: float, clean_up: float = 0.0) -> App:
        """An app that answers after some seconds, and needs some more to end when it is cancelled."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                self.note("cancelled")
                await asyncio.sleep(clean_up)
                self.note("ended")
                raise
            await answer()(scope, receive, send)

        return app

    def works_on(self, seconds: float, takes: float = 0.0) -> App:
        """An app that answers and has background work to do."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await answer(takes=takes)(scope, receive, send)
            self.note("answered")
            await asyncio.sleep(seconds)
            self.note("worked")

        return app

    def waits_for_the_client(self, then: float = 0.0) -> App:
        """An app that waits for the disconnect and needs some seconds afterwards."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                while (message := await receive())["type"] == "http.request":
                    pass
                self.note(message["type"])
                await asyncio.sleep(then)
                self.note("ended")
            except asyncio.CancelledError:
                self.note("cancelled")
                raise

        return app


# An item's deadline


async def test_at_its_deadline_an_item_is_answered_and_then_cancelled() -> None:
    """At an item's deadline its answer is settled first (504 `timeout`), then its task is cancelled."""
    diary = Diary()
    api = Api({"/a": diary.sleeps(100, clean_up=4)})
    items = [{"path": "/a", "timeout": 2.5}, {"path": "/b"}]
    reply = await send_batch(BatchMiddleware(api), items)
    assert failures(reply) == [TIMEOUT, None]
    assert reply.at == 2.5
    assert diary.lines == [("cancelled", 2.5), ("ended", 6.5)]


async def test_a_streamed_timeout_is_sent_at_the_deadline() -> None:
    """At an item's deadline its answer is settled: its line is sent then, whatever its task does."""
    api = Api({"/a": Diary().sleeps(100, clean_up=4), "/b": answer(takes=4)})
    items = [{"path": "/a", "timeout": 2}, {"path": "/b"}]
    reply = await send_batch(BatchMiddleware(api), items, headers={"Accept": "application/x-ndjson"})
    assert reply.moment_of(b'"timeout"') == 2
    assert reply.at == 4


async def test_an_answer_in_time_is_no_timeout() -> None:
    """An item that answers before its deadline is answered, and is not cancelled at it."""
    diary = Diary()
    api = Api({"/a": diary.works_on(10, takes=1)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "timeout": 2}])
    assert failures(reply) == [None]
    assert diary.lines == [("answered", 1), ("worked", 11)]


async def test_an_app_that_catches_the_cancellation_changes_nothing() -> None:
    """The answer is settled first: what the app sends after its deadline is dropped."""

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await answer('"late"')(scope, receive, send)

    reply = await send_batch(BatchMiddleware(Api({"/a": stubborn})), [{"path": "/a", "timeout": 1}])
    assert failures(reply) == [TIMEOUT]


async def test_a_half_sent_answer_is_a_timeout() -> None:
    """At its deadline an item that has not ended is answered `timeout`, even if its answer has begun."""

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b'{"a"', "more_body": True})
        await asyncio.sleep(100)

    reply = await send_batch(BatchMiddleware(Api({"/a": half})), [{"path": "/a", "timeout": 1}])
    assert failures(reply) == [TIMEOUT]


async def test_the_detail_of_a_timeout_says_that_a_write_may_have_happened() -> None:
    """504 `timeout`: whether a write took effect is unknown."""
    api = Api({"/a": answer(takes=100)})
    reply = await send_batch(BatchMiddleware(api), [{"method": "POST", "path": "/a", "timeout": 1}])
    assert failure(reply.only) == TIMEOUT
    assert "unknown" in reply.only["body"]["detail"]


@pytest.mark.parametrize(
    ("settings", "wish", "deadline"),
    [
        ({}, None, 15),
        ({}, 3, 3),
        ({}, 0.25, 0.25),
        ({}, 15, 15),
        ({}, 16, 15),
        ({}, 1e9, 15),
        ({"item_timeout": 5}, None, 5),
        ({"item_timeout": 5}, 60, 5),
        ({"item_timeout": 5}, 4, 4),
    ],
)
async def test_an_items_deadline_is_clamped(settings: JSON, wish: float | None, deadline: float) -> None:
    """`timeout`: this item's own deadline; above the server's it is clamped; 15 s by default."""
    api = Api({"/a": answer(takes=1000)})
    item = {"path": "/a"} if wish is None else {"path": "/a", "timeout": wish}
    reply = await send_batch(BatchMiddleware(api, **settings), [item])
    assert (failures(reply), reply.at) == ([TIMEOUT], deadline)


async def test_an_items_deadline_begins_with_the_item() -> None:
    """The deadline is the item's own: waiting for its turn does not count."""
    api = Api({"/a": answer(takes=4), "/b": answer(takes=4), "/c": answer(takes=4)})
    app = BatchMiddleware(api, item_timeout=5, concurrency=1)
    reply = await send_batch(app, [{"path": "/a"}, {"path": "/b"}, {"path": "/c"}])
    assert (failures(reply), reply.at) == ([None, None, None], 12)


async def test_a_place_is_held_until_the_task_has_really_ended() -> None:
    """Its place in the process-wide limit is held until the task has really ended."""
    api = Api({"/a": Diary().sleeps(100, clean_up=5)})
    app = BatchMiddleware(api, in_flight=InFlight(1, queue=1), batch_timeout=60, item_timeout=60)
    first = exchange_of(app, [{"path": "/a", "timeout": 1}])
    assert (await first.answered()).at == 1
    second = exchange_of(app, [{"path": "/b"}])
    await until(2)
    assert api.targets == ["/a"]
    refused = exchange_of(app, [{"path": "/c"}])
    assert (await refused.finished()).refusal[:2] == (503, "overloaded")
    assert (await second.finished()).at == 6
    await first.finished()
    assert api.targets == ["/a", "/b"]


# The batch's deadline


async def test_at_the_batch_deadline_everything_is_answered() -> None:
    """At the batch deadline running items are answered `batch_timeout`, items not begun `not_started`."""
    diary = Diary()
    api = Api({"/a": answer(takes=1), "/b": diary.sleeps(100, clean_up=3), "/c": diary.sleeps(100)})
    app = BatchMiddleware(api, concurrency=2)
    items = [{"path": "/a"}, {"path": "/b"}, {"path": "/c"}, {"path": "/d"}, {"path": "/e"}]
    reply = await send_batch(app, items, options={"timeout": 5})
    assert failures(reply) == [None, BATCH_TIMEOUT, BATCH_TIMEOUT, NOT_STARTED, NOT_STARTED]
    assert reply.at == 5
    assert diary.lines == [("cancelled", 5), ("cancelled", 5), ("ended", 5), ("ended", 8)]
    assert reply.json()["summary"] == {"total": 5, "succeeded": 1, "failed": 4}


async def test_a_streamed_batch_ends_at_its_deadline() -> None:
    """At the batch deadline a stream is completed as well, up to its summary."""
    api = Api({"/a": answer(takes=100)})
    app = BatchMiddleware(api, concurrency=1)
    headers = {"Accept": "application/x-ndjson"}
    reply = await send_batch(app, [{"path": "/a"}, {"path": "/b"}], options={"timeout": 5}, headers=headers)
    assert [line.get("error") for line in reply.lines] == ["batch_timeout", "not_started", None]
    assert reply.at == 5


@pytest.mark.parametrize(
    ("settings", "wish", "deadline"),
    [
        ({}, None, 30),
        ({}, 7, 7),
        ({}, 31, 30),
        ({}, 1e9, 30),
        ({"batch_timeout": 20}, None, 20),
        ({"batch_timeout": 20}, 60, 20),
        ({"batch_timeout": 20}, 19.5, 19.5),
    ],
)
async def test_the_batch_deadline_is_clamped(settings: JSON, wish: float | None, deadline: float) -> None:
    """`timeout`: seconds for the whole batch; above the server's it is clamped; 30 s by default."""
    api = Api({"/a": answer(takes=1000)})
    options = {} if wish is None else {"timeout": wish}
    reply = await send_batch(BatchMiddleware(api, item_timeout=1000, **settings), [{"path": "/a"}], options=options)
    assert (failures(reply), reply.at) == ([BATCH_TIMEOUT], deadline)


async def test_waiting_items_are_not_started_after_the_deadline() -> None:
    """Items not begun at the batch deadline are answered `not_started`, dependants as well, and never reach the API."""
    api = Api({"/a": answer(takes=100)})
    items = [{"id": "a", "path": "/a"}, {"path": "/b", "depends_on": ["a"]}]
    reply = await send_batch(BatchMiddleware(api), items, options={"timeout": 5})
    assert failures(reply) == [BATCH_TIMEOUT, NOT_STARTED]
    assert api.targets == ["/a"]


async def test_a_batch_waiting_for_places_ends_at_its_deadline() -> None:
    """The batch deadline holds for a batch that waits in the queue for a place."""
    api = Api({"/a": answer(takes=20)})
    app = BatchMiddleware(api, in_flight=InFlight(1, queue=10), item_timeout=60)
    first = exchange_of(app, [{"path": "/a"}])
    await until(1)
    reply = await send_batch(app, [{"path": "/b"}], options={"timeout": 4})
    assert (failures(reply), reply.at) == ([NOT_STARTED], 5)
    await first.finished()
    assert api.targets == ["/a"]


@pytest.mark.parametrize(("grace", "deadline"), [(5, 6), (100, 30)])
async def test_shutdown_moves_the_batch_deadline(grace: float, deadline: float) -> None:
    """Shutdown moves the batch deadline to the end of the grace period, and never further away."""
    api = Api({"/a": answer(takes=100), "/b": answer(takes=100)})
    app = BatchMiddleware(api, concurrency=1, item_timeout=100)
    exchange = exchange_of(app, [{"path": "/a"}, {"path": "/b"}])
    await until(1)
    app.drain(grace)
    reply = await exchange.finished()
    assert (failures(reply), reply.at) == ([BATCH_TIMEOUT, NOT_STARTED], deadline)


# Background work


async def test_background_work_delays_nothing_and_is_not_cancelled() -> None:
    """Background work that the API does after its answer delays nothing and is not cancelled, by no deadline."""
    diary = Diary()
    api = Api({"/a": diary.works_on(200), "/b": answer(takes=1)})
    exchange = exchange_of(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}])
    reply = await exchange.finished()
    assert (failures(reply), reply.at) == ([None, None], 1)
    assert diary.lines == [("answered", 0), ("worked", 200)]


async def test_background_work_does_not_delay_items_that_follow() -> None:
    """Background work delays nothing: neither the next item of a sequence nor a dependant."""
    api = Api({"/a": Diary().works_on(10)})
    items = [{"id": "a", "path": "/a"}, {"path": "/b"}, {"path": "/c", "depends_on": ["a"]}]
    app = BatchMiddleware(api, concurrency=1)
    reply = await send_batch(app, items, options={"execution": "sequential"})
    assert reply.at == 0
    assert [arrived.at for arrived in api.arrived] == [0, 0, 0]


async def test_background_work_does_not_delay_other_batches() -> None:
    """Background work delays nothing: its item has given its place in the process-wide limit back."""
    api = Api({"/a": Diary().works_on(10)})
    app = BatchMiddleware(api, in_flight=InFlight(1, queue=0))
    first = exchange_of(app, [{"path": "/a"}])
    await until(1)
    assert failures(await send_batch(app, [{"path": "/b"}])) == [None]
    await first.finished()


async def test_background_work_goes_on_when_the_client_leaves() -> None:
    """Background work is not cancelled when the client leaves, as it would not be alone."""
    diary = Diary()
    api = Api({"/a": diary.works_on(10), "/b": answer(takes=5)})
    exchange = exchange_of(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}])
    await until(1)
    exchange.leave()
    await exchange.task
    assert diary.lines == [("answered", 0), ("worked", 10)]


# The client leaves


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_when_the_client_leaves_nothing_new_starts(accept: str) -> None:
    """The client leaves: nothing new starts."""
    api = Api({f"/{number}": answer(takes=2) for number in range(20)})
    app = BatchMiddleware(api, concurrency=1)
    exchange = exchange_of(app, [{"path": f"/{number}"} for number in range(20)], headers={"Accept": accept})
    await until(3)
    exchange.leave()
    await exchange.task
    assert api.targets == ["/0", "/1"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_each_running_item_sees_the_disconnect(method: str) -> None:
    """Each running item sees `http.disconnect`, as it would alone."""
    diary = Diary()
    api = Api({"/a": diary.waits_for_the_client()})
    exchange = exchange_of(BatchMiddleware(api), [{"path": "/a", "method": method}])
    await until(3)
    exchange.leave()
    await exchange.task
    assert diary.lines[0] == ("http.disconnect", 3)


@pytest.mark.parametrize(
    ("method", "end"),
    [
        ("GET", ("cancelled", 3)),
        ("HEAD", ("cancelled", 3)),
        ("OPTIONS", ("cancelled", 3)),
        ("POST", ("cancelled", 10)),
        ("PUT", ("cancelled", 10)),
        ("PATCH", ("cancelled", 10)),
        ("DELETE", ("cancelled", 10)),
    ],
)
async def test_safe_methods_are_cancelled_others_run_to_their_deadline(method: str, end: tuple[str, float]) -> None:
    """When the client leaves, safe methods are cancelled, others run to their deadline."""
    diary = Diary()
    api = Api({"/a": diary.sleeps(100)})
    exchange = exchange_of(BatchMiddleware(api), [{"path": "/a", "method": method, "timeout": 10}])
    await until(3)
    exchange.leave()
    await exchange.task
    assert diary.lines[0] == end


async def test_a_write_ends_after_the_client_has_left() -> None:
    """When the client leaves, a write that needs less than its deadline is done to its end."""
    done: list[float] = []

    async def writes(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(5)
        done.append(now())
        await answer()(scope, receive, send)

    exchange = exchange_of(BatchMiddleware(Api({"/a": writes})), [{"path": "/a", "method": "POST"}])
    await until(1)
    exchange.leave()
    await exchange.task
    assert done == [5]


async def test_without_a_disconnect_an_item_waits_for_one() -> None:
    """An item whose client is there sees no `http.disconnect` while it runs, and one after its answer, as alone."""
    seen: list[str] = []

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with asyncio.timeout(5):
                seen.append((await receive())["type"])
        except TimeoutError:
            seen.append("nothing")
        await answer()(scope, receive, send)
        seen.append((await receive())["type"])

    reply = await send_batch(BatchMiddleware(Api({"/a": listens})), [{"path": "/a"}])
    assert (reply.only["status"], seen) == (200, ["nothing", "http.disconnect"])


async def test_a_place_is_given_back_when_the_client_leaves() -> None:
    """When the client leaves, the places of its items are free for others."""
    api = Api({"/a": answer(takes=10)})
    app = BatchMiddleware(api, in_flight=InFlight(1, queue=1))
    exchange = exchange_of(app, [{"path": "/a"}, {"path": "/a"}])
    await until(1)
    exchange.leave()
    await exchange.task
    reply = await send_batch(app, [{"path": "/b"}])
    assert (failures(reply), reply.at) == ([None], 1)


@pytest.mark.parametrize("leave_at", [0, 1])
async def test_a_client_that_leaves_early_starts_nothing(leave_at: int) -> None:
    """A client that leaves before its batch has arrived starts nothing, and is not answered."""
    api = Api()
    exchange = exchange_of(BatchMiddleware(api), b'{"requests": [{"path": "/a"}', complete=False)
    await until(leave_at)
    exchange.leave()
    await exchange.task
    assert (api.arrived, exchange.sent) == ([], [])


async def test_a_server_that_cancels_leaves_nothing_behind() -> None:
    """When the server itself ends the batch, its items end with it and leave no task."""
    diary = Diary()
    api = Api({"/a": diary.sleeps(100)})
    exchange = exchange_of(BatchMiddleware(api), [{"path": "/a"}, {"path": "/a"}])
    await until(1)
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.task
    assert [what for what, _ in diary.lines] == ["cancelled", "cancelled", "ended", "ended"]


def test_over_a_socket_an_item_sees_that_the_client_has_left() -> None:
    """The client leaves: over a real connection as well, a running item sees it, and nothing new starts."""
    begun, seen = threading.Event(), threading.Event()
    paths: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        seen.set()

    document = written(
        [{"path": "/a", "method": "POST"}, {"path": "/b", "method": "POST"}], {"execution": "sequential"}
    )
    asked = request("POST", "/batch", [("Content-Type", "application/json")], document)
    with serve(BatchMiddleware(app), lifespan="off") as server:
        with socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection:
            connection.sendall(asked)
            assert begun.wait(PATIENCE)
        assert seen.wait(PATIENCE)
    assert paths == ["/a"]
