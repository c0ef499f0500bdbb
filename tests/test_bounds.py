"""What is bounded: memory, places, and what a client can leave behind. Each is brought to its bound and measured."""

from __future__ import annotations

import asyncio
import gc
import queue
import socket
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from batchproxy import BatchMiddleware, InFlight
from batchproxy.engine.in_flight import Share
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import Api, answer, start
from tests.protocol.exchange import (
    JSON,
    App,
    Exchange,
    Message,
    Receive,
    Scope,
    Send,
    exchange_of,
    failure,
    failures,
    send_batch,
    written,
)
from tests.protocol.virtual_time import now, until
from tests.serving import PATIENCE, Response, Server, ask, parse, request, serve

MiB = 1024 * 1024
JSON_BODY = [("Content-Type", "application/json")]
STREAMED = {"accept": "application/x-ndjson", "content-type": "application/json"}
FORMS = ["application/json", "application/x-ndjson", "text/event-stream"]


class Growth:
    """How many bytes more than at the beginning Python held at most, in all threads."""

    peak = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            yield
            self.peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()


@contextmanager
def grows_less_than(most: float) -> Iterator[None]:
    growth = Growth()
    with growth.measured():
        yield
    assert growth.peak < most, f"{growth.peak / MiB:.1f} MiB more"


# Large answers


def fresh(media_type: str, number: int) -> bytes:
    """A body of 1 MiB that no other answer has in common."""
    letters = bytes([97 + number % 26]) * (MiB - 2)
    return b'"' + letters + b'"' if media_type == "application/json" else letters + b"\n\n"


def large_answers(media_type: str, *, takes: float | None = None) -> tuple[App, list[str]]:
    """An app that answers in its first step, or else after a while, and the paths that have come to it."""
    begun: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        if takes is not None:
            await asyncio.sleep(takes)
        await start(send, headers=[("content-type", media_type)])
        await send({"type": "http.response.body", "body": fresh(media_type, len(begun))})

    return app, begun


class Reading(Exchange):
    """A client that takes the answer at its pace, and keeps only how much and how many lines there were."""

    def __init__(self, app: App, *, pace: float, **request: Any) -> None:
        super().__init__(app, **request)
        self.size = 0
        self.lines = 0
        self.end = b""
        self._pace = pace

    async def _send(self, message: Message) -> None:
        await asyncio.sleep(self._pace)
        content = message.get("body", b"")
        self.size += len(content)
        self.lines += content.count(b"\n")
        if content:
            self.end = content[-200:]


HUNDRED = written([{"path": f"/{number}"} for number in range(100)])


@pytest.mark.parametrize("media_type", ["application/json", "text/plain", "image/png"])
@pytest.mark.parametrize("pace", [0.0, 1.0], ids=["a consuming reader", "a slow reader"])
@on_virtual_time
async def test_streamed_answers_of_100_mib_take_a_few(media_type: str, pace: float) -> None:
    """A hundred answers of 1 MiB that are there at once take no more memory than a few, whatever the reader does."""
    app, begun = large_answers(media_type)
    batch = BatchMiddleware(app, batch_timeout=1000)
    with grows_less_than(6 * MiB):
        reading = Reading(batch, pace=pace, chunks=[HUNDRED], headers=STREAMED)
        await reading.task
    assert len(begun) == 100
    assert reading.size > 100 * MiB
    assert reading.lines == 101
    assert reading.end.endswith(b'{"summary":{"total":100,"succeeded":100,"failed":0}}\n')


@pytest.mark.parametrize("pace", [0.0, 1.0], ids=["a consuming reader", "a slow reader"])
@on_virtual_time
async def test_streamed_answers_that_take_a_while_are_as_many_as_run(pace: float) -> None:
    """Answers that come together after a while are no more than run at once; none is held for long."""
    app, begun = large_answers("application/json", takes=0.5)
    with grows_less_than(4 * MiB + 4 * MiB):
        reading = Reading(
            BatchMiddleware(app, concurrency=4, batch_timeout=1000), pace=pace, chunks=[HUNDRED], headers=STREAMED
        )
        await reading.task
    assert (len(begun), reading.lines) == (100, 101)


@on_virtual_time
async def test_what_runs_when_a_reader_stops_is_all_there_is() -> None:
    """A reader that takes nothing any more holds as many answers as items ran, and nothing new starts."""
    app, begun = large_answers("application/json", takes=1.0)
    batch = BatchMiddleware(app, concurrency=4, write_timeout=20)
    with grows_less_than(4 * MiB + 6 * MiB):
        reading = Reading(batch, pace=1e3, chunks=[HUNDRED], headers=STREAMED)
        await reading.task
    assert len(begun) == 4
    assert reading.size == 0


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_over_a_socket_streamed_answers_are_not_held(http: str) -> None:
    """Over a real connection as well: a hundred answers of 1 MiB grow the server and its client by less than 8 MiB."""
    app, begun = large_answers("application/json")
    asked = request("POST", "/batch", [*JSON_BODY, ("Accept", "application/x-ndjson")], HUNDRED)
    with (
        serve(BatchMiddleware(app), lifespan="off", http=http) as server,
        connected(server) as connection,
        grows_less_than(8 * MiB),
    ):
        connection.sendall(asked)
        size, end = 0, b""
        while received := connection.recv(256 * 1024):
            size += len(received)
            end = (end + received)[-200:]
    assert len(begun) == 100
    assert size > 100 * MiB
    assert b'{"summary":{"total":100,"succeeded":100,"failed":0}}\n' in end


@pytest.mark.parametrize("accept", FORMS)
@on_virtual_time
async def test_endless_answers_are_cut_off_together(accept: str) -> None:
    """Fifty endless answers hold no more than all answers may together, and every app is stopped."""
    running = 0

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal running
        running += 1
        try:
            await start(send)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            running -= 1

    batch = BatchMiddleware(endless, max_response_bytes=MiB, max_total_response_bytes=4 * MiB)
    items = [{"path": "/a"}] * 50
    with grows_less_than(4 * MiB + 3 * MiB):
        reply = await send_batch(batch, items, headers={"accept": accept})
    assert running == 0
    assert b"response_too_large" in reply.body


@on_virtual_time
async def test_a_buffered_batch_holds_what_all_answers_may_have_together() -> None:
    """A buffered batch of large answers ends at the sum of what is allowed, and does not hold them twice."""
    app, begun = large_answers("application/json")
    batch = BatchMiddleware(app, max_total_response_bytes=8 * MiB)
    with grows_less_than(8 * MiB + 6 * MiB):
        reading = Reading(batch, pace=0.0, chunks=[HUNDRED], headers={"content-type": "application/json"})
        await reading.task
    assert 8 * MiB < reading.size < 9 * MiB
    assert len(begun) < 30


# Large requests


def chunked(head: bytes, chunk: bytes, count: int) -> Iterator[bytes]:
    yield head
    framed = b"%x\r\n%b\r\n" % (len(chunk), chunk)
    for _ in range(count):
        yield framed
    yield b"0\r\n\r\n"


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection:
        yield connection


def received_from(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    with suppress(ConnectionError):
        while data := connection.recv(65536):
            parts.append(data)
    return b"".join(parts)


def send_as_far_as_it_goes(server: Server, pieces: Iterable[bytes]) -> tuple[Response, int]:
    """Sends until the server closes; the answer, and how many bytes were sent."""
    sent = 0
    with connected(server) as connection:
        with suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        return parse(received_from(connection)), sent


HEAD = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_body_of_a_gibibyte_is_refused_early(http: str) -> None:
    """A chunked body of 1 GiB is answered 413 when it reaches the limit; the rest is neither read nor kept."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    with serve(BatchMiddleware(Api(), max_batch_bytes=2 * MiB), lifespan="off", http=http) as server:
        with grows_less_than(2 * MiB + 6 * MiB):
            response, sent = send_as_far_as_it_goes(server, chunked(head, b" " * 65536, 16384))
        assert (response.status, response.json()["code"]) == (413, "batch_too_large")
        assert response.header("connection") == "close"
        # What the kernels on both sides hold is sent, but not read.
        assert sent < 256 * MiB
        assert ask(server, "POST", "/batch", JSON_BODY, written([{"path": "/a"}])).status == 200


def test_a_declared_gibibyte_is_refused_unread() -> None:
    """A body that is declared too large is answered before a byte of it has come."""
    with serve(BatchMiddleware(Api()), lifespan="off") as server:
        response, _ = send_as_far_as_it_goes(server, [HEAD + b"Content-Length: 1073741824\r\n\r\n"])
    assert (response.status, response.json()["code"]) == (413, "batch_too_large")
    assert "1073741824" in response.json()["detail"]


@pytest.mark.parametrize("digits", [8, 20, 5000])
@on_virtual_time
async def test_a_declared_length_may_have_any_number_of_digits(digits: int) -> None:
    """A length that is larger than any number is too large; it is not counted, but refused."""
    headers = {"content-type": "application/json", "content-length": "9" * digits}
    reply = await Exchange(BatchMiddleware(Api()), headers=headers).finished()
    assert reply.refusal[:2] == (413, "batch_too_large")


@on_virtual_time
async def test_a_body_in_very_many_pieces_is_read() -> None:
    """A body that comes byte by byte costs not much more than its bytes."""
    body = written([{"path": "/a", "method": "POST", "body": "x" * 10_000}])
    pieces = [body[index : index + 1] for index in range(len(body))]
    with grows_less_than(4 * MiB):
        exchange = Exchange(BatchMiddleware(Api()), chunks=pieces, headers={"content-type": "application/json"})
        assert failures(await exchange.finished()) == [None]


@pytest.mark.parametrize("count", [101, 10_000, 99_999])
@pytest.mark.parametrize("item", [b"{}", b'{"a":[]}'])
@on_virtual_time
async def test_very_many_items_are_counted_and_refused(item: bytes, count: int) -> None:
    """A batch of very many tiny items is refused with their number, and costs little more than its own bytes."""
    body = b'{"requests":[' + b",".join([item] * count) + b"]}"
    with grows_less_than(4 * MiB):
        reply = await send_batch(BatchMiddleware(Api()), body)
    assert reply.refusal[:2] == (413, "too_many_items")
    assert f"The batch has {count} items; the limit is 100." in reply.problem["detail"]


@on_virtual_time
async def test_a_million_items_are_counted_and_refused() -> None:
    """However many items there are, the refusal says the limit and the actual value, at no cost."""
    body = b'{"requests":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
    with grows_less_than(4 * MiB):
        reply = await send_batch(BatchMiddleware(Api()), body)
    assert reply.refusal[:2] == (413, "too_many_items")
    assert "1000000 items; the limit is 100." in reply.problem["detail"]


@on_virtual_time
async def test_what_is_huge_in_other_ways_is_refused_without_cost() -> None:
    """A hundred thousand headers, ids or nestings cost little more than their own bytes."""
    many = ",".join(f'"x{number}":"1"' for number in range(100_000)).encode()
    bodies: list[bytes] = [
        b'{"requests":[{"path":"/a","headers":{' + many + b"}}]}",
        b'{"requests":[{"path":"/a","depends_on":[' + b",".join([b'"a"'] * 100_000) + b"]}]}",
        b'{"requests":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b'{"requests":[{"path":"/a","body":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}]}",
    ]
    for body in bodies:
        with grows_less_than(48 * MiB):
            reply = await send_batch(BatchMiddleware(Api()), body)
        assert reply.status in (400, 413) or failure(reply.only) is not None


# Places


class Doorman(InFlight):
    """An `InFlight` that tells when a batch has come."""

    def __init__(self, limit: int, *, queue: int) -> None:
        super().__init__(limit, queue=queue)
        self.came = threading.Semaphore(0)

    def join(self, places: int, granted: Callable[[], None]) -> Share:
        share = super().join(places, granted)
        self.came.release()
        return share

    def wait_for(self, batches: int) -> None:
        for _ in range(batches):
            assert self.came.acquire(timeout=PATIENCE)


class Gate:
    """An app that holds each request until the test lets one go on; `begun` gives their paths as they come."""

    def __init__(self) -> None:
        self.begun: queue.Queue[str] = queue.Queue()
        self.running = 0
        self.most_at_once = 0
        self._held: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            event = asyncio.Event()
            self._held.put((asyncio.get_running_loop(), event))
            self.begun.put(scope["path"])
            await event.wait()
            await answer()(scope, receive, send)
        finally:
            self.running -= 1

    def wait_for(self, count: int) -> list[str]:
        return [self.begun.get(timeout=PATIENCE) for _ in range(count)]

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            loop, event = self._held.get(timeout=PATIENCE)
            loop.call_soon_threadsafe(event.set)


class Clients:
    """Batches that are sent at once, each by a thread of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._sent: list[Future[Response]] = []

    def send(self, items: list[JSON]) -> None:
        future: Future[Response] = Future()

        def work() -> None:
            try:
                future.set_result(ask(self._server, "POST", "/batch", JSON_BODY, written(items)))
            except BaseException as fault:
                future.set_exception(fault)

        threading.Thread(target=work, daemon=True).start()
        self._sent.append(future)

    def answers(self) -> list[list[int]]:
        responses = [future.result(PATIENCE) for future in self._sent]
        assert {response.status for response in responses} == {200}
        return [[entry["status"] for entry in response.json()["responses"]] for response in responses]


def test_very_many_batches_are_bounded_and_the_rest_is_shed() -> None:
    """As many items run as there are places, as many wait as the queue has; the next batch gets 503 and may retry."""
    pool = Doorman(4, queue=8)
    gate = Gate()
    with serve(BatchMiddleware(gate, in_flight=pool), lifespan="off") as server:
        clients = Clients(server)
        for number in range(12):
            clients.send([{"path": f"/{number}"}])
        pool.wait_for(12)
        gate.wait_for(4)
        for _ in range(3):
            refused = ask(server, "POST", "/batch", JSON_BODY, written([{"path": "/13"}]))
            assert (refused.status, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.header("retry-after") or 0) >= 1
        assert repr(pool) == "InFlight(4, queue=8, used=4, waiting=8)"
        gate.let_go(12)
        assert clients.answers() == [[200]] * 12
        assert gate.most_at_once == 4
        clients.send([{"path": "/14"}])
        gate.wait_for(9)
        gate.let_go()
        clients.answers()
    assert (pool.used, pool.wanted) == (0, 0)


def test_a_large_batch_does_not_keep_small_ones_waiting() -> None:
    """Places that become free go round between the batches that wait, whichever came first and however large."""
    pool = Doorman(2, queue=100)
    gate = Gate()
    with serve(BatchMiddleware(gate, in_flight=pool), lifespan="off") as server:
        clients = Clients(server)
        clients.send([{"path": f"/large/{number}"} for number in range(16)])
        pool.wait_for(1)
        assert gate.wait_for(2) == ["/large/0", "/large/1"]
        for name in ("one", "two"):
            clients.send([{"path": f"/{name}/{number}"} for number in range(2)])
            pool.wait_for(1)
        order: list[str] = []
        for _ in range(18):
            gate.let_go()
            order += gate.wait_for(1)
        gate.let_go(2)
        assert [len(statuses) for statuses in clients.answers()] == [16, 2, 2]
    # Each of the three gets every third place, until the small ones have all of theirs.
    assert [path.split("/")[1] for path in order[:7]] == ["large", "one", "two", "large", "one", "two", "large"]
    assert [path for path in order if "large" in path] == [f"/large/{number}" for number in range(2, 16)]


@on_virtual_time
async def test_apps_that_hang_hold_their_places_and_no_others() -> None:
    """Items that never end are answered at their deadline; those that cannot be stopped keep only their places."""
    stopped = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/a":
            await answer()(scope, receive, send)
            return
        while not stopped.is_set():
            with suppress(asyncio.CancelledError):
                await stopped.wait()

    pool = InFlight(3, queue=3)
    batch = BatchMiddleware(app, in_flight=pool, item_timeout=5, batch_timeout=20)
    hanging = exchange_of(batch, [{"path": "/hangs"}] * 2)
    await until(1)
    assert failures(await send_batch(batch, [{"path": "/a"}] * 3)) == [None] * 3
    assert failures(await hanging.answered()) == [(504, "timeout")] * 2
    assert (now(), pool.used) == (5, 2)
    more = exchange_of(batch, [{"path": "/hangs"}] * 2)
    # Its second item finds no place until the batch's end.
    assert failures(await more.answered()) == [(504, "timeout"), (503, "not_started")]
    assert (now(), pool.used) == (25, 3)
    assert failures(await send_batch(batch, [{"path": "/a"}])) == [(503, "not_started")]
    stopped.set()
    await hanging.finished()
    await more.finished()
    assert failures(await send_batch(batch, [{"path": "/a"}] * 3)) == [None] * 3
    assert (pool.used, pool.wanted) == (0, 0)


# Clients that leave


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close_half(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


class Witness:
    """Around the middleware: what tasks a batch has left behind when it returns."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.left: queue.Queue[set[str]] = queue.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        before = asyncio.all_tasks()
        try:
            await self.app(scope, receive, send)
        finally:
            self.left.put({repr(task) for task in asyncio.all_tasks() - before})


@pytest.mark.parametrize("leave", [close, reset, close_half])
@pytest.mark.parametrize(("method", "accept"), [("GET", FORMS[0]), ("POST", FORMS[1])])
def test_over_a_socket_nothing_is_left_of_a_client_that_leaves(
    leave: Callable[[socket.socket], None], method: str, accept: str
) -> None:
    """When the connection ends nothing new starts; reads are cancelled, writes told; no task and no place is left."""
    begun: queue.Queue[str] = queue.Queue()
    ended: queue.Queue[str] = queue.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/after":
            await answer()(scope, receive, send)
            return
        begun.put(scope["path"])
        try:
            if method == "GET":
                await asyncio.Event().wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            await asyncio.sleep(0)
            ended.put(scope["path"])
        except asyncio.CancelledError:
            ended.put(f"{scope['path']} cancelled")
            raise

    pool = InFlight(2)
    # Only the client's leaving can end an item.
    batch = BatchMiddleware(app, in_flight=pool, concurrency=2, item_timeout=600, batch_timeout=600)
    witness = Witness(batch)
    items = written([{"method": method, "path": f"/{number}"} for number in range(20)])
    with serve(witness, lifespan="off") as server:
        with connected(server) as connection:
            connection.sendall(request("POST", "/batch", [*JSON_BODY, ("Accept", accept)], items))
            assert {begun.get(timeout=PATIENCE) for _ in range(2)} == {"/0", "/1"}
            leave(connection)
            assert witness.left.get(timeout=PATIENCE) == set()
        told = " cancelled" if method == "GET" else ""
        assert sorted(ended.get_nowait() for _ in range(2)) == [f"/0{told}", f"/1{told}"]
        assert begun.empty()
        assert (pool.used, pool.wanted) == (0, 0)
        assert ask(server, "POST", "/batch", JSON_BODY, written([{"path": "/after"}])).status == 200


@pytest.mark.parametrize(
    ("leave", "sent"), [(close, 0.0), (close, 0.99), (reset, 0.3), (close_half, 0.0), (close_half, 0.3)]
)
def test_over_a_socket_half_a_batch_runs_nothing(leave: Callable[[socket.socket], None], sent: float) -> None:
    """A client that leaves before its batch is complete has run nothing, and leaves nothing."""
    api = Api()
    pool = InFlight(1)
    witness = Witness(BatchMiddleware(api, in_flight=pool))
    asked = request("POST", "/batch", JSON_BODY, written([{"path": "/a"}] * 20))
    head = asked.index(b"\r\n\r\n") + 4
    with serve(witness, lifespan="off") as server:
        with connected(server) as connection:
            connection.sendall(asked[: head + int(sent * (len(asked) - head))])
            leave(connection)
        assert ask(server, "POST", "/batch", JSON_BODY, written([{"path": "/b"}])).status == 200
    assert api.targets == ["/b"]
    assert (pool.used, pool.wanted) == (0, 0)


def test_over_a_socket_a_batch_may_come_byte_by_byte() -> None:
    """A client that writes single bytes is served as any other."""
    asked = request("POST", "/batch", JSON_BODY, written([{"path": "/a"}]))
    with serve(BatchMiddleware(Api()), lifespan="off") as server, connected(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(asked)):
            connection.sendall(asked[index : index + 1])
        assert parse(received_from(connection)).json()["summary"]["succeeded"] == 1
