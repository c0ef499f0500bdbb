"""Sends one item into an ASGI app of this process, as a server would.

Knows: the ASGI protocol from the server's side (asgiref.readthedocs.io, HTTP connection scope 2.5). Must not know:
order, deadlines, other items.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from .errors import Failure
from .events import NO_NOTES
from .headers import head_of_answer, merged, of_answer
from .model import ASGIApp, Batch, Headers, Item, Message, Result, Scope, failed

EXTENSION = "batchproxy"
"""In `scope["extensions"]` of an item: `batch` (its id), `index`, `count` and `report`.

`report(failure, detail)` lets an app that stands for another server say that there was no answer to pass on.
"""

_PERCENT = ord("%")  # a byte is found sooner than bytes: measured, 2,000 instructions less

# The keys of the outer scope that describe the connection; all others belong to whoever handled the outer request.
_OF_THE_CONNECTION = ("type", "http_version", "scheme", "client", "server", "app_root_path")
_OF_THE_ITEM = ("asgi", "method", "path", "raw_path", "query_string", "headers", "extensions")
_BLANK: dict[str, Any] = dict.fromkeys((*_OF_THE_CONNECTION, "root_path", *_OF_THE_ITEM))
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})


Call: TypeAlias = "Callable[[], Awaitable[None]]"
Take: TypeAlias = "Callable[[Exchange, Callable[[Exchange, Call], None]], bool]"
"""An app of this package may have a method `take_batch_item(exchange, go_on)` of this type.

It takes an item on without being called, if nothing has to be waited for but one thing, and answers with
`Exchange.answer` when that comes. What has to be waited for then is handed to `go_on`, which makes a task of it.
It sets `untasked` and `begun`, and decides at once: False if the app is to be called.
"""


class Entry(NamedTuple):
    """Where items enter: an app, and the `root_path` that it is called with.

    Each item gets a shallow copy of `state` as `scope["state"]`.
    """

    app: ASGIApp
    root_path: str
    state: dict[str, Any] | None


class Budget:
    """How many bytes of answers may be held at once, for all items of a batch together.

    Where nothing is given back before the end (a buffered batch), going over it ends the batch: `exhausted`.
    """

    __slots__ = ("_final", "exhausted", "left", "most")

    def __init__(self, most: int, *, final: bool) -> None:
        self.most = most
        self.left = most
        self.exhausted = False
        self._final = final

    def overdraw(self) -> None:
        self.exhausted = self._final


class AppTarget:
    """Makes the exchanges of one batch with `app`; their scopes are copies of one template."""

    __slots__ = (
        "_asgi",
        "_has_more",
        "_inherited",
        "_mark",
        "_path_params",
        "_state",
        "_template",
        "_tls",
        "app",
        "batch_id",
        "budget",
        "max_response_bytes",
        "root_path",
        "take",
    )

    def __init__(
        self,
        entry: Entry,
        outer: Scope,
        batch: Batch,
        *,
        max_response_bytes: int,
        budget: Budget,
    ) -> None:
        self.app = entry.app
        self.batch_id = batch.id
        self.root_path = entry.root_path
        # Of its class: whatever passes on the attributes of an app that it wraps wants to be called.
        take = getattr(type(entry.app), "take_batch_item", None)
        self.take: Take | None = None if take is None else take.__get__(entry.app)
        self.max_response_bytes = max_response_bytes
        self.budget = budget
        self._inherited = batch.caller.inherited
        self._mark: dict[str, Any] = {"batch": batch.id, "count": len(batch.items)}
        template = self._template = _BLANK.copy()
        for key in _OF_THE_CONNECTION:
            if key in outer:
                template[key] = outer[key]
            else:
                del template[key]
        for key in ("client", "server"):
            # Some servers give lists.
            if template.get(key) is not None:
                template[key] = tuple(template[key])
        template["root_path"] = entry.root_path
        self._asgi = dict(outer.get("asgi", ()))
        self._tls = (outer.get("extensions") or {}).get("tls")
        self._path_params: dict[str, Any] | None = None
        if entry.root_path and entry.root_path == outer.get("root_path"):
            # Under a mount these are of the app that mounts us, for no router of ours has run.
            self._path_params = outer.get("path_params")
            if "router" in outer:
                self._template["router"] = outer["router"]
        self._state = entry.state
        self._has_more = self._tls is not None or self._path_params is not None

    def headers(self, item: Item) -> Sequence[tuple[bytes, bytes]]:
        """Those that an item is sent with, but for its length; the same tuple for all that have none of their own."""
        return merged(self._inherited, item.headers) if item.headers else self._inherited

    def scope(self, exchange: Exchange) -> dict[str, Any]:
        """A scope that shares nothing with another item's that either could change."""
        item = exchange.item
        path = item.path
        headers = merged(self._inherited, item.headers) if item.headers else [*self._inherited]
        if item.body or item.method in _WITH_CONTENT:
            headers.append((b"content-length", b"%d" % len(item.body)))
        # The template has every key, so that its copy never grows: measured, half the cost of a literal.
        scope = self._template.copy()
        scope["asgi"] = self._asgi.copy()
        scope["method"] = item.method
        scope["path"] = unquote(path.decode("ascii")) if _PERCENT in path else path.decode("ascii")
        scope["raw_path"] = path
        scope["query_string"] = item.query
        scope["headers"] = headers
        mark = self._mark.copy()
        mark["index"] = item.index
        mark["report"] = exchange.report
        scope["extensions"] = {EXTENSION: mark}
        if self._state is not None:
            scope["state"] = self._state.copy()
        if self._has_more:
            self._add_rarer_parts(scope)
        return scope

    def _add_rarer_parts(self, scope: dict[str, Any]) -> None:
        if self._tls is not None:
            scope["extensions"]["tls"] = deepcopy(self._tls)
        if self._path_params is not None:
            scope["path_params"] = dict(self._path_params)


class Exchange:
    """One item's conversation with the app: `receive` and `send` as a server gives them, and the answer so far.

    `ended` is called once, with its result. `untasked` gives it up while an app has taken it on without a task.

    The item ends at its last body message, at a failure, or when `fail` is called from outside; whatever the app does
    afterwards changes nothing.
    """

    # All are set for each item: measured, a little less than defaults that are left to the class and looked up there.
    __slots__ = (
        "_answered",
        "_broken",
        "_chunks",
        "_disconnected",
        "_ended",
        "_headers",
        "_left",
        "_length",
        "_most",
        "_plain",
        "_received",
        "_reported",
        "_size",
        "_status",
        "begun",
        "cancelled",
        "deadline",
        "done",
        "holds_place",
        "item",
        "notes",
        "started",
        "target",
        "task",
        "untasked",
    )

    def __init__(
        self,
        item: Item,
        target: AppTarget,
        ended: Callable[[Exchange, Result], None],
        started: float = 0.0,
        deadline: float = 0.0,
    ) -> None:
        self.item = item
        self.task: asyncio.Task[None] | None = None
        self.untasked: Callable[[], None] | None = None
        self.started = started
        self.deadline = deadline
        self.notes: Mapping[str, Any] = NO_NOTES
        self.begun = self.done = self.cancelled = False
        self.holds_place = self._plain = True
        self.target = target
        self._ended = ended
        self._most = target.max_response_bytes
        self._received = self._disconnected = self._answered = self._broken = False
        self._left: asyncio.Event | None = None
        self._status = 0
        self._length: int | None = None
        self._chunks: list[bytes] | None = None
        self._size = 0
        self._headers: Headers = ()
        self._reported: tuple[Failure, str] | None = None

    def __repr__(self) -> str:
        state = "done" if self.done else "begun" if self.begun else "new"
        return f"Exchange({self.item.index}, {self.item.method}, {state}, status={self._status}, size={self._size})"

    @property
    def has_answered(self) -> bool:
        """Whether the app has given the whole answer."""
        return self._answered

    @property
    def has_reported(self) -> bool:
        """Whether the app has said why there will be no answer; then it has logged that, too."""
        return self._reported is not None

    def call(self) -> Awaitable[None]:
        """The call of the app, to be awaited once. What it raises goes on; `finish` is for whoever awaits it."""
        self.begun = True
        target = self.target
        return target.app(target.scope(self), self.receive, self.send)

    def finish(self) -> None:
        """The app is through; if it has not answered by now, it never will."""
        if self.done:
            return
        if self._reported is not None:
            self.fail(*self._reported)
        elif self._status and not self._broken:
            self.fail(Failure.TRUNCATED, "The application ended before its answer was complete.")
        else:
            self.fail(Failure.APP_ERROR, "The application ended without an answer.")

    def cancel(self) -> None:
        """Cancels the app's task; `cancelled` tells that it was us."""
        self.cancelled = True
        # A task that has not begun finds its item done, and ends; cancelled, it would never get there.
        if self.task is not None and self.begun:
            self.task.cancel()
        elif self.untasked is not None:
            give_up, self.untasked = self.untasked, None
            give_up()

    def disconnect(self) -> None:
        """From now on the app's `receive` gives `http.disconnect`."""
        self._disconnected = True
        if self._left is not None:
            self._left.set()

    def fail(self, failure: Failure, detail: str) -> None:
        """Ends the item without the app's answer, unless it has ended."""
        if not self.done:
            self.target.budget.left += self._size
            self._end(failed(self.item.index, failure, detail))

    def time_out(self, failure: Failure, detail: str) -> None:
        """Ends the item at a deadline; a running event stream is said to be what it is. Then cancels the app."""
        if (b"content-type", b"text/event-stream") in [(name, value[:17].lower()) for name, value in self._headers]:
            failure = Failure.UNBATCHABLE_RESPONSE
            detail = "The answer is an event stream, and had not ended at the deadline."
        self.fail(failure, detail)
        self.cancel()

    def report(self, failure: Failure | None, detail: str = "", *, notes: Mapping[str, Any] | None = None) -> None:
        """For an app that stands for another server: there is no answer to pass on, and this is why.

        `notes` are for those who log; without a failure there are only those.
        """
        if notes is not None:
            self.notes = notes
        if failure is None:
            return
        self._reported = (failure, detail.encode("utf-8", "replace").decode("utf-8") or f"{failure.meaning}.")
        self._plain = False

    # The app's side

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole answer at once, as `send` takes it in two messages; measured, a microsecond less than those.

        Not for HEAD, nor for a status without content; `headers` are as `of_answer` leaves them.
        """
        if self.done:
            self._refuse_late("http.response.start")
        self._status, self._headers = status, headers
        size, budget = len(body), self.target.budget
        if self._plain and self._length is None and 0 < size <= self._most and size <= budget.left:
            self._size = size
            budget.left -= size
            self._answered = self.done = True
            self._ended(self, Result(self.item.index, status, headers, body))
        else:
            self._take_body(body, more=False)

    async def receive(self) -> Message:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": self.item.body, "more_body": False}
        if not (self.done or self._disconnected):
            if self._left is None:
                self._left = asyncio.Event()
                self._plain = False
            await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self.done:
            self._refuse_late(kind)
        elif kind == "http.response.body" and self._status:
            chunk = message.get("body", b"")
            size = len(chunk)
            budget = self.target.budget
            # Nearly every body comes whole, in one message, and within its limits.
            if (
                self._plain
                and size <= self._most
                and size <= budget.left
                and (self._length is None or self._length == size)
                and type(chunk) is bytes
                and not message.get("more_body", False)
            ):
                self._size = size
                budget.left -= size
                self._answered = self.done = True
                self._ended(self, Result(self.item.index, self._status, self._headers, chunk))
            else:
                self._take_body(chunk, more=message.get("more_body", False))
        elif kind == "http.response.start" and not self._status:
            self._start(message["status"], message.get("headers", ()))
        else:
            self._broken = True
            expected = "http.response.body" if self._status else "http.response.start"
            raise RuntimeError(f"Expected ASGI message {expected!r}, but got {kind!r}.")

    def _refuse_late(self, kind: str) -> None:
        if self._answered:
            raise RuntimeError(f"Unexpected ASGI message {kind!r} sent, after the response was completed.")
        # As the ASGI specification has it since 2.4; it also ends an app that would send for ever.
        raise OSError("The item has ended; nobody reads its answer any more.")

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        if type(status) is not int:
            # An `HTTPStatus`, or a mistake.
            status = int(status) if isinstance(status, int) else 0
        if not 200 <= status <= 599:
            if status == 101:
                self.fail(Failure.UNBATCHABLE_RESPONSE, "The answer changes to another protocol.")
            else:
                self.fail(Failure.BAD_RESPONSE, "The status of the answer is not between 200 and 599.")
            return
        is_head = self.item.method == "HEAD"
        self._headers, length = of_answer(headers, keep_length=True) if is_head else head_of_answer(headers)
        if is_head or status == 204 or status == 304:
            # RFC 9110, section 6.4.1: no content, whatever the app sends.
            self._most = -1
        elif length is not None:
            self._length = length
            if length < self._most:
                self._most = length
        self._status = status

    def _take_body(self, chunk: bytes, *, more: bool) -> None:
        if chunk:
            if self._most < 0:
                chunk = b""
            size = len(chunk)
            self._size += size
            budget = self.target.budget
            budget.left -= size
            if (self._size > self._most >= 0) or budget.left < 0:
                self._overrun(budget)
                return
        if more:
            if chunk:
                if self._chunks is None:
                    self._chunks = []
                    self._plain = False
                self._chunks.append(bytes(chunk))
            return
        if self._length is not None and self._length != self._size:
            self.fail(Failure.TRUNCATED, f"The answer declared {self._length} bytes and had {self._size}.")
        elif self._reported is not None:
            self.fail(*self._reported)
        else:
            self._answered = True
            # A body of one chunk is the rule, and needs no copy.
            if self._chunks is not None:
                chunk = b"".join((*self._chunks, chunk))
            elif type(chunk) is not bytes:
                chunk = bytes(chunk)
            self._end(Result(self.item.index, self._status, self._headers, chunk))

    def _overrun(self, budget: Budget) -> None:
        if self._length is not None and self._size > self._length:
            self._broken = True
            raise RuntimeError("Response content longer than Content-Length.")
        if self._size > self._most >= 0:
            self.fail(Failure.RESPONSE_TOO_LARGE, f"The body of the answer is larger than {self._most} bytes.")
        else:
            budget.overdraw()
            self.fail(Failure.RESPONSE_TOO_LARGE, f"All answers together are larger than {budget.most} bytes.")

    def _end(self, result: Result) -> None:
        self.done = True
        self._chunks = None
        if self._left is not None:
            self._left.set()
        self._ended(self, result)


def exchange_of(scope: Scope) -> Exchange | None:
    """The exchange whose item this is; None for a scope that no batch has made, whatever it says of itself."""
    extensions = scope.get("extensions")
    mark = extensions.get(EXTENSION) if extensions else None
    exchange = getattr(mark.get("report"), "__self__", None) if isinstance(mark, dict) else None
    return exchange if isinstance(exchange, Exchange) else None
