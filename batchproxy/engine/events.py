"""What happened, for those who log and count: records, and who is told.

Whoever is told of something may fail at it, and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import Context
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from .model import Batch, Item, Result

logger = logging.getLogger("batchproxy")

NOTES = "batchproxy.notes"
"""In `scope["extensions"]`: a dict that whoever writes the access log puts there, for a proxy behind it to fill."""


NO_NOTES: Mapping[str, Any] = MappingProxyType({})


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


class Audience:
    """The observers of one batch, each of which is told of its items in a copy of its context."""

    __slots__ = ("_all", "_batch", "_context", "hearing_all")

    def __init__(self, batch: Batch, observers: Sequence[Observer], context: Context) -> None:
        self._batch = batch
        self._context = context
        self._all = observers
        self.hearing_all = [each for each in observers if not getattr(each, "only_failures", False)]
        """Those who are told of items that succeed, too."""

    def tell(self, item: Item, result: Result, *, elapsed: float = 0.0, notes: Mapping[str, Any] = NO_NOTES) -> None:
        event = ItemEnded(self._batch, item, result, elapsed, notes)
        for observer in self.hearing_all if result.status < 400 else self._all:
            try:
                # A copy, since ours may be the current one; and what comes from outside has another.
                self._context.copy().run(observer.item_ended, event)
            except Exception:
                logger.exception("observer.failed observer=%s", type(observer).__name__)


def log_fault(batch: Batch, item: Item, raised: BaseException | None) -> None:
    """What the answer does not tell: that the app raised, or that it returned without an answer."""
    logger.error(
        "item.failed batch=%s index=%d id=%s method=%s exception=%s",
        batch.id,
        item.index,
        item.id,
        item.method,
        type(raised).__name__ if raised is not None else "none, it returned without an answer",
        exc_info=raised,
    )
