"""Whatever moment a batch is ended at, nothing of it is left: no task, no place, no timer, no warning.

A batch of every kind of item is run again and again, and ended at its first step, at its second, and so on to its
last; a step is one callback of the event loop. It is ended in three ways: the server cancels its task, the client
leaves, and `send` fails.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVarTuple, Unpack

import pytest

from batchproxy import BatchMiddleware, InFlight
from tests.protocol.exchange import JSON, App, Message, Receive, Scope, Send, written
from tests.protocol.virtual_time import LIFETIME, VirtualTime, settled

Ending: TypeAlias = Callable[["Visit"], None]
Given = TypeVarTuple("Given")

MODES = ["parallel", "ordered_writes", "sequential"]
FORMS = ["application/json", "application/x-ndjson", "text/event-stream"]
TIME_SPENT_CLEANING = 0.5


# An event loop that counts its steps


class Steps(VirtualTime):
    """Counts the callbacks that it runs, tells `at_step` before each of them, and knows which timers are pending."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.at_step: Callable[[int], None] = lambda _: None
        self.complaints: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._timers: list[asyncio.TimerHandle] = []

    def call_soon(
        self, callback: Callable[[Unpack[Given]], object], *args: *Given, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._step, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Given]], object],
        *args: *Given,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = super().call_at(when, self._step, callback, *args, context=context)
        self._timers.append(timer)
        return timer

    @property
    def pending_timers(self) -> list[asyncio.TimerHandle]:
        return [timer for timer in self._timers if not timer.cancelled() and timer.when() > self.time()]

    def _step(self, callback: Callable[[Unpack[Given]], object], *args: *Given) -> None:
        self.steps += 1
        self.at_step(self.steps)
        callback(*args)


# A batch of every kind of item


@dataclass
class Watched:
    """An app whose items may not begin any more once `closed`; `begun` counts them, `running` are those not ended."""

    begun: int = 0
    running: int = 0
    closed: bool = False
    too_late: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closed:
            self.too_late.append(scope["path"])
        self.begun += 1
        self.running += 1
        try:
            await KINDS[scope["path"].split("/")[1]](scope, receive, send)
        finally:
            self.running -= 1


async def quick(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await respond(send)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(2)
    await quick(scope, receive, send)


async def streaming(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    for _ in range(3):
        await send({"type": "http.response.body", "body": b" ", "more_body": True})
        await asyncio.sleep(0.3)
    await send({"type": "http.response.body", "body": b"1"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.1)
    raise LookupError("the app is broken")


async def cleaning(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await asyncio.sleep(1)
        await quick(scope, receive, send)
    finally:
        await asyncio.sleep(TIME_SPENT_CLEANING)
        await asyncio.sleep(0)


async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
    """Does not end when it is cancelled for the first time."""
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        await asyncio.sleep(TIME_SPENT_CLEANING)
    await quick(scope, receive, send)


async def listening(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers when its client leaves, or in time."""
    await receive()
    left = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((left,), timeout=1.5)
    finally:
        left.cancel()
    await respond(send)


async def busy_afterwards(scope: Scope, receive: Receive, send: Send) -> None:
    await quick(scope, receive, send)
    await asyncio.sleep(1)


KINDS: dict[str, App] = {
    "quick": quick,
    "slow": slow,
    "streaming": streaming,
    "failing": failing,
    "cleaning": cleaning,
    "stubborn": stubborn,
    "listening": listening,
    "busy": busy_afterwards,
}
ITEMS: list[JSON] = [
    {"id": "first", "path": "/quick/1"},
    {"method": "POST", "path": "/slow/1", "body": {}},
    {"path": "/streaming"},
    {"path": "/failing"},
    {"path": "/refused/../item"},
    {"method": "PUT", "path": "/cleaning", "body": 1},
    {"path": "/quick/{id}", "vars": {"id": "first#/body/id"}},
    {"method": "DELETE", "path": "/stubborn"},
    {"method": "POST", "path": "/listening", "id": "second"},
    {"path": "/busy", "depends_on": ["second"]},
    {"path": "/slow/2"},
    {"path": "/quick/3"},
]
STATUSES = [200, 200, 200, 500, 400, 200, 200, 200, 200, 200, 200, 200]


async def start(send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def respond(send: Send) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b'{"id": 7}'})


# One request to the endpoint, whose end is in the test's hands


class SendFailed(OSError):
    """What a server's `send` raises when the connection is gone."""


class Visit:
    """A batch on its way; once it has been told to end, no item of it may begin any more."""

    def __init__(self, app: App, watched: Watched, *, mode: str, accept: str) -> None:
        self.sent: list[Message] = []
        self.fail_at: int | None = None
        self.failed = False
        self._app = app
        self._watched = watched
        self._left = asyncio.Event()
        self._given = False
        self._body = written(ITEMS, {"execution": mode})
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/batch",
            "raw_path": b"/batch",
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", b"api.example"),
                (b"content-type", b"application/json"),
                (b"accept", accept.encode()),
                (b"content-length", b"%d" % len(self._body)),
            ],
            "client": ("203.0.113.9", 4711),
            "server": ("api.example", 80),
        }
        self.task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        self.task.cancel()
        # The task is told in its next step, which is planned now at the latest.
        asyncio.get_running_loop().call_soon(self._close)

    def leave(self) -> None:
        self._left.set()

    def _close(self) -> None:
        self._watched.closed = True

    async def _run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._given:
            self._given = True
            await asyncio.sleep(0)
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        asyncio.get_running_loop().call_soon(self._close)
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if len(self.sent) == self.fail_at:
            self.failed = True
            asyncio.get_running_loop().call_soon(self._close)
            raise SendFailed
        # A reader that takes its time.
        await asyncio.sleep(0.01)
        self.sent.append(message)

    @property
    def statuses(self) -> list[int]:
        """Of the entries, in request order."""
        content = b"".join(message.get("body", b"") for message in self.sent).decode()
        if content.startswith('{"responses'):
            return [entry["status"] for entry in json.loads(content)["responses"]]
        records = [line.removeprefix("data: ") for line in content.split("\n") if '"index":' in line]
        return [entry["status"] for entry in sorted(map(json.loads, records), key=lambda entry: int(entry["index"]))]


# The sweep


@contextmanager
def no_warnings() -> Iterator[None]:
    """Nothing is complained about that nobody waits for: unraisable exceptions, coroutines that were never awaited."""
    complaints: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: complaints.append(f"{unraisable.err_msg}: {unraisable.exc_value!r}")
    try:
        yield
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not complaints


@dataclass(frozen=True)
class Outcome:
    """`reached` says whether the batch was still there at the step at which it was to be ended."""

    reached: bool
    statuses: list[int]


def run_until_step(step: int, ending: Ending, *, mode: str, accept: str, prepare: Ending = lambda _: None) -> Outcome:
    """Runs a batch beside another, ends the first at this step, and looks at what is left."""
    with asyncio.Runner(loop_factory=Steps) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Steps)
        return runner.run(_run_until_step(loop, step, ending, mode, accept, prepare))


async def _run_until_step(loop: Steps, step: int, ending: Ending, mode: str, accept: str, prepare: Ending) -> Outcome:
    watched, neighbours = Watched(), Watched()
    pool = InFlight(4, queue=100)
    settings: dict[str, Any] = {"in_flight": pool, "concurrency": 3, "item_timeout": 20.0, "batch_timeout": 60.0}
    visit = Visit(BatchMiddleware(watched, **settings), watched, mode=mode, accept=accept)
    neighbour = Visit(BatchMiddleware(neighbours, **settings), neighbours, mode="parallel", accept=FORMS[0])
    prepare(visit)
    first = loop.steps
    reached = False

    def at_step(steps: int) -> None:
        nonlocal reached
        if steps == first + step and not visit.task.done():
            reached = True
            ending(visit)

    loop.at_step = at_step
    await asyncio.wait((visit.task,))
    begun, alive = watched.begun, watched.running
    await neighbour.task
    await settled()

    place = f"ended at step {step}"
    assert alive == 0, f"{place}: an item runs on after the batch has returned"
    assert watched.begun == begun, f"{place}: an item began after the batch had returned"
    assert not watched.too_late, f"{place}: {watched.too_late} began although the batch had been ended"
    assert asyncio.all_tasks() == {asyncio.current_task()}, f"{place}: tasks are left: {asyncio.all_tasks()}"
    assert repr(pool) == "InFlight(4, queue=100, used=0, waiting=0)", place
    assert pool.wanted == 0, f"{place}: {pool.wanted} places are still asked for"
    assert not loop.pending_timers, f"{place}: timers are left: {loop.pending_timers}"
    assert not loop.complaints, f"{place}: {loop.complaints}"
    assert neighbour.statuses == STATUSES, f"{place}: the neighbour was not served"
    assert loop.time() < LIFETIME
    if visit.task.cancelled():
        return Outcome(reached, [])
    visit.task.result()
    return Outcome(reached, visit.statuses)


def sweep(ending: Ending, *, mode: str, accept: str) -> int:
    """Ends the batch at each of its steps, each time from the beginning; returns how many steps there were."""
    step = 1
    with no_warnings():
        while run_until_step(step, ending, mode=mode, accept=accept).reached:
            step += 1
    return step - 1


every_way = pytest.mark.parametrize(
    ("mode", "accept"), [(mode, accept) for mode in MODES for accept in FORMS], ids=lambda text: text.split("/")[-1]
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    # The failing item is logged in every run; `tests/test_isolation.py` looks at what is logged.
    caplog.set_level(logging.CRITICAL, "batchproxy")


# Eager tasks take fewer turns of the loop to the same end.
FEWEST_STEPS = 50 if sys.version_info >= (3, 12) else 100


@every_way
def test_a_batch_that_is_left_alone_leaves_nothing(mode: str, accept: str) -> None:
    """A batch that nobody ends answers every item, and leaves no task, place or timer."""
    with no_warnings():
        outcome = run_until_step(0, Visit.cancel, mode=mode, accept=accept)
    assert outcome == Outcome(False, STATUSES)


@every_way
def test_a_cancelled_batch_leaves_nothing(mode: str, accept: str) -> None:
    """Cancelled at any step, a batch starts nothing more, ends its items, and leaves nothing behind."""
    assert sweep(Visit.cancel, mode=mode, accept=accept) > FEWEST_STEPS


@every_way
def test_a_batch_whose_client_leaves_leaves_nothing(mode: str, accept: str) -> None:
    """When the client leaves at any step, nothing new starts, and no task, place, timer or warning is left."""
    assert sweep(Visit.leave, mode=mode, accept=accept) > FEWEST_STEPS


@every_way
def test_a_batch_whose_answer_cannot_be_sent_leaves_nothing(mode: str, accept: str) -> None:
    """When `send` fails at any message, the client has left: nothing new starts, and nothing is left."""
    message = 0
    with no_warnings():
        while fails_at(message, mode=mode, accept=accept):
            message += 1
    assert message > 1


def fails_at(message: int, *, mode: str, accept: str) -> bool:
    """Runs a batch whose `send` fails at this message; whether there was such a message."""
    visits: list[Visit] = []

    def fail(visit: Visit) -> None:
        visit.fail_at = message
        visits.append(visit)

    run_until_step(0, Visit.cancel, mode=mode, accept=accept, prepare=fail)
    return visits[0].failed


def test_a_batch_that_is_cancelled_twice_leaves_nothing() -> None:
    """A second cancellation, while the first one is being obeyed, leaves nothing either."""

    def twice(visit: Visit) -> None:
        visit.cancel()
        again = asyncio.get_running_loop().call_later(TIME_SPENT_CLEANING / 2, visit.task.cancel)
        visit.task.add_done_callback(lambda _: again.cancel())

    assert sweep(twice, mode="parallel", accept="text/event-stream") > FEWEST_STEPS


def test_no_watch_begins_while_a_batch_is_cleaned_up() -> None:
    """An item that takes longer to end than the batch waits before it looks for its client: nobody looks then."""

    async def slow_to_end(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(TIME_SPENT_CLEANING)

    async def check() -> None:
        watched = Watched()
        visit = Visit(BatchMiddleware(slow_to_end), watched, mode="parallel", accept=FORMS[0])
        for _ in range(20):
            await asyncio.sleep(0)
        visit.cancel()
        await asyncio.wait((visit.task,))
        await settled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(check())
