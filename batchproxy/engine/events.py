"""What happened, for those who log and count: records, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from .model import Batch, Item, Result

NOTES = "batchproxy.notes"
"""In `scope["extensions"]`: a dict that whoever writes the access log puts there, for a proxy behind it to fill."""


class ItemEnded(msgspec.Struct, frozen=True):
    """`item` is as it was sent, values put in; `elapsed` is in seconds from its start, 0 if it never began.

    `notes` are what an app that stands for another server told about it: `upstream`, `attempts`, `flags`, …
    """

    batch: Batch
    item: Item
    result: Result
    elapsed: float
    notes: Mapping[str, Any]


class BatchEnded(msgspec.Struct, frozen=True):
    """`status` is that of the outer answer; `code` is set if the whole batch was refused; then `batch` may be None.

    `request_id` is the one that the answer bears.
    """

    request_id: str
    path: str
    batch: Batch | None
    status: int
    code: str | None
    succeeded: int
    failed: int
    elapsed: float
    client_left: bool
    streamed: bool


class Observer(Protocol):
    """Told of every end, on the event loop: it must not block, and what it raises is logged and changes nothing.

    One that has an attribute `only_failures`, which is true, is told of failed items alone; the others cost less then.
    """

    def item_ended(self, event: ItemEnded) -> None: ...

    def batch_ended(self, event: BatchEnded) -> None: ...
