"""`AppTarget`: one item's conversation with an app, message by message, as the ASGI specification has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest

from batchproxy import Batch, Caller, Failure, Headers, Item, Result
from batchproxy.engine.target import AppTarget, Budget, Entry, Exchange
from tests.protocol.exchange import App, Message, Receive, Scope, Send
from tests.protocol.virtual_time import settled

from .on_virtual_time import on_virtual_time

OUTER: Scope = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "https",
    "path": "/batch",
    "raw_path": b"/batch",
    "query_string": b"outer",
    "root_path": "",
    "headers": [(b"host", b"api.example"), (b"content-length", b"99")],
    "client": ("203.0.113.9", 4711),
    "server": ("api.example", 443),
}


def start(status: Any = 200, *headers: tuple[Any, Any]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(content: Any = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def length(size: int) -> tuple[bytes, bytes]:
    return b"content-length", str(size).encode()


@dataclass
class Conversation:
    """An exchange with an app, its result once there is one, and what the app's `send` raised."""

    exchange: Exchange
    budget: Budget
    results: list[Result] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)

    @property
    def result(self) -> Result:
        (result,) = self.results
        return result

    @property
    def outcome(self) -> Failure | tuple[int, bytes]:
        return self.result.failure or (self.result.status, self.result.body)


def conversation(
    app: App,
    item: Item | None = None,
    *,
    outer: Scope = OUTER,
    entry: Entry | None = None,
    inherited: Headers = (),
    most: int = 1000,
    budget: int = 1000,
) -> Conversation:
    item = item or Item(0, "GET", b"/a")
    batch = Batch("b1", "native", (item,), Caller("r", inherited=inherited))
    kept = Budget(budget, final=True)
    target = AppTarget(entry or Entry(app, "", None), outer, batch, max_response_bytes=most, budget=kept)
    talk: Conversation
    exchange = Exchange(item, target, lambda _, result: talk.results.append(result))
    talk = Conversation(exchange, kept)
    return talk


def sending(talk: Callable[[], Conversation], *messages: Any) -> App:
    """An app that sends these whatever is raised, and notes what is."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            try:
                await send(message)
            except Exception as fault:
                talk().raised.append(type(fault).__name__)

    return app


async def idle(scope: Scope, receive: Receive, send: Send) -> None:
    """For conversations in which the test says what the app would."""


async def told(*messages: Any, method: str = "GET", **more: Any) -> Conversation:
    """What comes of an app that sends these messages and returns."""
    talk = conversation(sending(lambda: talk, *messages), Item(0, method, b"/a"), **more)
    await talk.exchange.call()
    talk.exchange.finish()
    return talk


@on_virtual_time
async def test_the_order_of_messages_is_that_of_asgi() -> None:
    """One start, then bodies until one that is the last."""
    for messages, content in (
        ([start(201), body(b"x")], b"x"),
        ([start(201), body(b"x", more=True), body(b"y")], b"xy"),
        ([start(201), body(b"", more=True), body(b"x", more=True), body()], b"x"),
        ([start(201), {"type": "http.response.body"}], b""),
        ([{"type": "http.response.start", "status": 201}, body()], b""),
        ([start(201), {"type": "http.response.body", "body": b"x", "other": 1}], b"x"),
    ):
        talk = await told(*messages)
        assert (talk.outcome, talk.raised) == ((201, content), [])


WRONG: dict[str, tuple[list[Any], Failure, list[str]]] = {
    "nothing": ([], Failure.APP_ERROR, []),
    "only a start": ([start()], Failure.TRUNCATED, []),
    "no end": ([start(), body(b"x", more=True)], Failure.TRUNCATED, []),
    "a body first": ([body(b"x")], Failure.APP_ERROR, ["RuntimeError"]),
    "two starts": ([start(), start()], Failure.APP_ERROR, ["RuntimeError"]),
    "a start between bodies": ([start(), body(b"x", more=True), start()], Failure.APP_ERROR, ["RuntimeError"]),
    "an unknown type": ([{"type": "http.response.trailers"}], Failure.APP_ERROR, ["RuntimeError"]),
    "an unknown type later": ([start(), {"type": "http.response.push"}], Failure.APP_ERROR, ["RuntimeError"]),
    "a file to send": ([start(), {"type": "http.response.pathsend", "path": "/"}], Failure.APP_ERROR, ["RuntimeError"]),
    "a websocket": ([{"type": "websocket.accept"}], Failure.APP_ERROR, ["RuntimeError"]),
    "no type": ([{}], Failure.APP_ERROR, ["KeyError"]),
    "no message": ([None], Failure.APP_ERROR, ["TypeError"]),
    "no status": ([{"type": "http.response.start"}], Failure.APP_ERROR, ["KeyError"]),
    "headers of text": ([start(200, ("a", "b"))], Failure.APP_ERROR, ["TypeError"]),
    "a status of text": ([start("200"), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "no number as a status": ([start(None), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "a broken status": ([start(200.0), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "true as a status": ([start(True), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "a status too low": ([start(199), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "a status too high": ([start(600), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "a negative status": ([start(-200), body()], Failure.BAD_RESPONSE, ["OSError"]),
    "an early answer": ([start(103), start(200), body()], Failure.BAD_RESPONSE, ["OSError", "OSError"]),
    "an upgrade": ([start(101), body()], Failure.UNBATCHABLE_RESPONSE, ["OSError"]),
    "shorter than declared": ([start(200, length(2)), body(b"x")], Failure.TRUNCATED, []),
    "nothing where something is declared": ([start(200, length(2)), body()], Failure.TRUNCATED, []),
    "longer than declared": ([start(200, length(2)), body(b"xyz")], Failure.APP_ERROR, ["RuntimeError"]),
    "longer than declared, in pieces": (
        [start(200, length(2)), body(b"xy", more=True), body(b"z")],
        Failure.APP_ERROR,
        ["RuntimeError"],
    ),
    "too large": ([start(), body(b"x" * 1001)], Failure.RESPONSE_TOO_LARGE, []),
    "too large, in pieces": (
        [start(), body(b"x" * 600, more=True), body(b"x" * 600, more=True), body(b"x")],
        Failure.RESPONSE_TOO_LARGE,
        ["OSError"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_message_fails_the_item_and_is_raised_where_it_was_sent(name: str) -> None:
    """Each wrong message ends in a failure of the item; the app learns of it as from a server, and of a late one."""
    messages, failure, raised = WRONG[name]

    @on_virtual_time
    async def scenario() -> None:
        talk = await told(*messages)
        assert (talk.outcome, talk.raised) == (failure, raised)

    scenario()


@pytest.mark.parametrize("wrong", [start(500), {"type": "http.nonsense"}])
@on_virtual_time
async def test_an_app_may_go_on_after_a_wrong_message(wrong: Message) -> None:
    """As with a server, a wrong message that the app survives does not spoil its answer."""
    talk = await told(start(200), body(b"x", more=True), wrong, body(b"y"))
    assert (talk.outcome, talk.raised) == ((200, b"xy"), ["RuntimeError"])


@pytest.mark.parametrize("late", [start(500), body(b"y"), {"type": "http.nonsense"}])
@on_virtual_time
async def test_after_the_end_nothing_changes_the_answer(late: Message) -> None:
    """What is sent after the last body is an error of the app, and the answer stands."""
    talk = await told(start(200), body(b"x"), late, late)
    assert (talk.outcome, talk.raised) == ((200, b"x"), ["RuntimeError"] * 2)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@on_virtual_time
async def test_where_no_content_can_be_there_is_none(method: str, status: int) -> None:
    """To HEAD, and with 204 and 304, whatever body is sent is dropped, and no length is compared."""
    for messages in ([body(b"x" * 5000)], [body(b"xyz", more=True), body(b"x")], [body()]):
        talk = await told(start(status, length(7)), *messages, method=method)
        assert (talk.outcome, talk.raised) == ((status, b""), [])
        assert talk.budget.left == talk.budget.most


@pytest.mark.parametrize(("content", "fits"), [(b"x" * 1000, True), (b"x" * 1001, False)])
@on_virtual_time
async def test_an_answer_may_be_as_large_as_allowed(content: bytes, fits: bool) -> None:
    """`max_response_bytes` is what is still allowed, whatever length is declared."""
    for headers in ((), (length(len(content)),)):
        talk = await told(start(200, *headers), body(content), budget=10_000)
        assert talk.outcome == ((200, content) if fits else Failure.RESPONSE_TOO_LARGE)


@on_virtual_time
async def test_what_failed_gives_its_part_of_the_budget_back() -> None:
    """Only answers that are kept count; an answer that broke off gives back what it had taken."""
    for messages, left in (
        ([start(), body(b"x" * 100)], 900),
        ([start(), body(b"x" * 100, more=True)], 1000),
        ([start(200, length(200)), body(b"x" * 100)], 1000),
        ([start(), body(b"x" * 100, more=True), body(b"x" * 2000)], 1000),
    ):
        assert (await told(*messages, most=1500)).budget.left == left


@on_virtual_time
async def test_the_budget_of_all_answers_is_exhausted_by_the_one_that_exceeds_it() -> None:
    """An answer that is not too large itself, but too large with the others, exhausts the budget."""
    talk = await told(start(), body(b"x" * 50, more=True), body(b"x" * 51), budget=100)
    assert (talk.outcome, talk.budget.exhausted) == (Failure.RESPONSE_TOO_LARGE, True)
    talk = await told(start(), body(b"x" * 100), budget=100)
    assert (talk.result.failure, talk.budget.exhausted) == (None, False)


@on_virtual_time
async def test_buffers_that_the_app_uses_again_are_copied() -> None:
    """A `bytearray` or `memoryview` in a message may be changed by the app as soon as `send` has returned."""
    for kind in (bytearray, lambda content: memoryview(bytearray(content))):

        async def app(scope: Scope, receive: Receive, send: Send, kind: Callable[[bytes], Any] = kind) -> None:
            await send(start())
            first, last = kind(b"one"), kind(b"two")
            await send(body(first, more=True))
            first[:] = b"XXX"
            await send(body(last))
            last[:] = b"XXX"

        talk = conversation(app)
        await talk.exchange.call()
        assert talk.outcome == (200, b"onetwo")
        assert type(talk.result.body) is bytes


@on_virtual_time
async def test_a_status_may_be_an_http_status() -> None:
    """A status is an integer of any kind, and becomes a plain one."""
    talk = await told(start(HTTPStatus.CREATED), body())
    assert type(talk.result.status) is int
    assert talk.result.status == 201


# What the app receives


async def waiting(receive: Receive) -> asyncio.Task[Message]:
    async def once() -> Message:
        return await receive()

    task = asyncio.get_running_loop().create_task(once())
    await settled()
    return task


@on_virtual_time
async def test_the_body_comes_once_and_whole() -> None:
    """The first `receive` gives the whole body, also an empty one; the next waits."""
    for content in (b"", b"x" * 100_000):
        talk = conversation(idle, Item(0, "POST", b"/a", body=content))
        assert await talk.exchange.receive() == {"type": "http.request", "body": content, "more_body": False}
        second = await waiting(talk.exchange.receive)
        assert not second.done()
        talk.exchange.disconnect()
        assert await second == {"type": "http.disconnect"}


Ending = Callable[[Conversation], Coroutine[Any, Any, None]]


async def by_its_answer(talk: Conversation) -> None:
    await talk.exchange.send(start())
    await talk.exchange.send(body())


async def by_a_failure(talk: Conversation) -> None:
    talk.exchange.fail(Failure.TIMEOUT, "late")


async def by_its_client(talk: Conversation) -> None:
    talk.exchange.disconnect()


@pytest.mark.parametrize("end", [by_its_answer, by_a_failure, by_its_client])
@on_virtual_time
async def test_the_end_wakes_everyone_who_receives(end: Ending) -> None:
    """After the answer, a failure or the client's leaving, each `receive` gives `http.disconnect`, again and again."""
    talk = conversation(idle)
    await talk.exchange.receive()
    tasks = [await waiting(talk.exchange.receive) for _ in range(3)]
    assert not any(task.done() for task in tasks)
    await end(talk)
    assert [await task for task in tasks] == [{"type": "http.disconnect"}] * 3
    assert await talk.exchange.receive() == await talk.exchange.receive() == {"type": "http.disconnect"}


@on_virtual_time
async def test_what_has_left_still_gets_its_body_first() -> None:
    """An app that begins to read after the client has left gets the body, and then the disconnect."""
    talk = conversation(idle, Item(0, "POST", b"/a", body=b"x"))
    talk.exchange.disconnect()
    assert (await talk.exchange.receive())["body"] == b"x"
    assert (await talk.exchange.receive())["type"] == "http.disconnect"
    await by_its_answer(talk)
    assert talk.outcome == (200, b"")


# Ends


@on_virtual_time
async def test_an_item_ends_once() -> None:
    """Whichever end comes first stands: later answers, failures, deadlines and endings are ignored."""
    endings: list[Callable[[Conversation], None]] = [
        lambda talk: talk.exchange.fail(Failure.NOT_STARTED, ""),
        lambda talk: talk.exchange.time_out(Failure.TIMEOUT, ""),
        lambda talk: talk.exchange.finish(),
    ]
    for first in endings:
        talk = conversation(idle)
        first(talk)
        outcome = talk.outcome
        for other in endings:
            other(talk)
        with pytest.raises(OSError, match="nobody reads"):
            await talk.exchange.send(start())
        assert talk.outcome == outcome
    talk = conversation(idle)
    await by_its_answer(talk)
    for other in endings:
        other(talk)
    assert talk.outcome == (200, b"")


@pytest.mark.parametrize(
    ("content_type", "failure"),
    [
        (b"text/event-stream", Failure.UNBATCHABLE_RESPONSE),
        (b"Text/Event-Stream; charset=utf-8", Failure.UNBATCHABLE_RESPONSE),
        (b"text/plain", Failure.TIMEOUT),
    ],
)
@on_virtual_time
async def test_an_event_stream_at_its_deadline_is_called_what_it_is(content_type: bytes, failure: Failure) -> None:
    """A stream of events that has not ended at the deadline does not fit into a batch; anything else is late."""
    talk = conversation(idle)
    await talk.exchange.send(start(200, (b"Content-Type", content_type)))
    talk.exchange.time_out(Failure.TIMEOUT, "late")
    assert talk.outcome is failure


@on_virtual_time
async def test_a_report_stands_for_the_answer() -> None:
    """An app that stands for another server says why there is no answer, and may answer or just end."""
    for messages in ([start(502), body(b"x")], [start(502)], []):

        async def app(scope: Scope, receive: Receive, send: Send, messages: list[Message] = messages) -> None:
            scope["extensions"]["batchproxy"]["report"](Failure.UNREACHABLE, "refused")
            for message in messages:
                await send(message)

        talk = conversation(app)
        await talk.exchange.call()
        talk.exchange.finish()
        assert (talk.result.failure, talk.result.detail) == (Failure.UNREACHABLE, "refused")


@on_virtual_time
async def test_an_exchange_shows_where_it_is() -> None:
    """Its repr tells the item, how far it is, and how much of the answer there is."""
    talk = conversation(idle, Item(3, "PUT", b"/a"))
    assert repr(talk.exchange) == "Exchange(3, PUT, new, status=0, size=0)"
    await talk.exchange.send(start(201))
    await talk.exchange.send(body(b"xy", more=True))
    talk.exchange.begun = True
    assert repr(talk.exchange) == "Exchange(3, PUT, begun, status=201, size=2)"
    await talk.exchange.send(body())
    assert repr(talk.exchange).startswith("Exchange(3, PUT, done")


# The scope


def scope_of(item: Item, **more: Any) -> dict[str, Any]:
    """The scope that an item's app is called with."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(dict(scope))

    @on_virtual_time
    async def scenario() -> None:
        talk = conversation(app, item, **{"entry": Entry(app, "", None), **more})
        await talk.exchange.call()

    scenario()
    (scope,) = seen
    return scope


def test_a_scope_is_made_of_the_connection_and_the_item() -> None:
    """The connection's keys are the outer ones, the request's are the item's, and there are no others."""
    outer = {**OUTER, "user": 1, "session": {}, "auth": 1, "app": 1, "endpoint": 1, "route": 1, "path_params": {"a": 1}}
    scope = scope_of(Item(0, "PUT", b"/a%2Fb/%C3%A9", b"x=%20"), outer=outer, inherited=((b"host", b"h"),))
    mark = scope.pop("extensions").pop("batchproxy")
    assert (mark["batch"], mark["index"], mark["count"], callable(mark["report"])) == ("b1", 0, 1, True)
    assert scope == {
        **{key: OUTER[key] for key in ("type", "asgi", "http_version", "scheme", "client", "server", "root_path")},
        "method": "PUT",
        "path": "/a/b/é",
        "raw_path": b"/a%2Fb/%C3%A9",
        "query_string": b"x=%20",
        "headers": [(b"host", b"h"), (b"content-length", b"0")],
    }


@pytest.mark.parametrize(
    ("method", "content", "declared"),
    [("GET", b"", None), ("GET", b"x", b"1"), ("POST", b"", b"0"), ("PUT", b"", b"0"), ("PATCH", b"xy", b"2"),
     ("DELETE", b"", None), ("OPTIONS", b"", None), ("HEAD", b"", None)],
)  # fmt: skip
def test_a_length_is_declared_where_a_client_declares_one(method: str, content: bytes, declared: bytes | None) -> None:
    """An item with a body, or of a method that has one, says how long it is; others say nothing."""
    headers = scope_of(Item(0, method, b"/a", body=content))["headers"]
    assert headers == ([] if declared is None else [(b"content-length", declared)])


def test_the_extensions_of_the_server_are_not_the_items() -> None:
    """Of the server's extensions an item has only `tls`: nobody would read what it sends by the others."""
    outer = {**OUTER, "extensions": {"tls": {"version": 1}, "http.response.pathsend": {}, "http.response.trailers": {}}}
    assert set(scope_of(Item(0, "GET", b"/a"), outer=outer)["extensions"]) == {"batchproxy", "tls"}
    assert set(scope_of(Item(0, "GET", b"/a"), outer={**OUTER, "extensions": None})["extensions"]) == {"batchproxy"}


def test_the_state_of_the_entry_is_given_as_a_copy() -> None:
    """`scope["state"]` is a shallow copy of the entry's state: its objects are shared, its keys are not."""
    pool = object()
    state = {"pool": pool}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["own"] = 1
        assert scope["state"]["pool"] is pool

    @on_virtual_time
    async def scenario() -> None:
        await conversation(app, entry=Entry(app, "", state)).exchange.call()

    scenario()
    assert state == {"pool": pool}
