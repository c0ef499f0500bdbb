"""The records of a batch: who asked, what for, how to run it, what became of it.

Knows: nothing but these records and the ASGI types. All of them are immutable and serialisable, for a batch may
outlive its connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from .errors import Failure

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Pairs of lower-case name and value, in the order of the wire."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Those that an item may have."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""RFC 9110, section 9.2.1."""


class Execution(StrEnum):
    """In which order items start; a later member is stricter than an earlier one."""

    PARALLEL = "parallel"
    ORDERED_WRITES = "ordered_writes"
    SEQUENTIAL = "sequential"


class OnError(StrEnum):
    CONTINUE = "continue"
    STOP = "stop"


class Delivery(StrEnum):
    """Of the items of a job with a method that is not idempotent: POST and PATCH. Others are always sent at least once.

    An item that has an `Idempotency-Key` of its own counts as idempotent.
    """

    AT_MOST_ONCE = "at_most_once"
    """Never sent again once it may have been sent: after a crash it ends `unknown`."""
    AT_LEAST_ONCE = "at_least_once"
    """Sent again if need be, each time with the same `Idempotency-Key`."""


class Callback(msgspec.Struct, frozen=True):
    """Where the caller of a job wants to be told of its end, and of which ends; `secret_ref` names what signs that."""

    url: str
    events: tuple[str, ...]
    secret_ref: str | None = None


class Reference(msgspec.Struct, frozen=True):
    """A value out of another item's answer: `name` stands for what `pointer` finds in the answer of item `source`."""

    name: str
    source: int
    pointer: tuple[str, ...]
    source_id: str


class Template(msgspec.Struct, frozen=True):
    """The parts of an item that wait for values out of other answers."""

    references: tuple[Reference, ...]
    target: str
    """The path, and the query behind `?`, with `{name}` where a value belongs."""
    json_body: bool


class Item(msgspec.Struct, frozen=True, gc=False):
    """One request inside a batch.

    `path` and `query` are canonical bytes, as they go to the target; they are empty as long as `template` is there.
    `headers` are the item's own. `after` lists the indexes of the items that must have succeeded before this one
    starts.
    """

    index: int
    method: str
    path: bytes
    query: bytes = b""
    id: str | None = None
    headers: Headers = ()
    body: bytes = b""
    after: tuple[int, ...] = ()
    template: Template | None = None
    timeout: float | None = None


class Options(msgspec.Struct, frozen=True):
    """How to run a batch; `timeout` is in seconds. The last two are those of a job; None for the endpoint's way."""

    execution: Execution = Execution.PARALLEL
    on_error: OnError = OnError.CONTINUE
    timeout: float | None = None
    minimal: bool = False
    delivery: Delivery | None = None
    callback: Callback | None = None
    """Whether the bodies of items that succeeded are left out (`Prefer: return=minimal`)."""


class Caller(msgspec.Struct, frozen=True):
    """Who asked: what every item has in common with the request that brought the batch.

    `inherited` are the headers that each item has unless it sets its own. `mount` is the prefix under which the app is
    mounted, as direct clients write it; `root_path` is that of the ASGI scope, which routers take off where it stands.
    """

    request_id: str
    scheme: str = "http"
    host: str = ""
    mount: str = ""
    root_path: str = ""
    client: tuple[str, int] | None = None
    inherited: Headers = ()
    browser: bool = False
    """Whether a page in a browser sent the batch (it has `Origin` or `Sec-Fetch-*`)."""


class Refusal(msgspec.Struct, frozen=True):
    """Why an item will not be sent."""

    failure: Failure
    detail: str


class Batch(msgspec.Struct, frozen=True):
    """The items, who asked, and how to run them. `refused` items are not sent; they are settled in their turn."""

    id: str
    dialect: str
    items: tuple[Item, ...]
    caller: Caller
    options: Options = Options()
    refused: Mapping[int, Refusal] = {}

    def refuse(self, index: int, detail: str, *, failure: Failure = Failure.FORBIDDEN) -> Batch:
        """The same batch, with one item refused: for guards. Raises `IndexError` if there is no such item."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"The batch has {len(self.items)} items; {index} is not the index of one.")
        return msgspec.structs.replace(self, refused={**self.refused, index: Refusal(failure, detail)})


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of one item. `failure` is None when the target itself answered; `detail` tells more about one."""

    index: int
    status: int
    headers: Headers = ()
    body: bytes = b""
    failure: Failure | None = None
    detail: str = ""


def failed(index: int, failure: Failure, detail: str) -> Result:
    return Result(index, failure.status, (), b"", failure, detail)


Guard: TypeAlias = Callable[[Batch], Awaitable[Batch]]
"""Looks at a batch before it runs and returns it, perhaps with items refused; or raises a `BatchError`."""
