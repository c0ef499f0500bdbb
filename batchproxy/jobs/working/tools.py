"""What all work of one worker has in common.

Knows: which parts there are. Must not know: what is done with them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ...engine.events import ItemEnded, Observer
from ..store import Checkpointer, JobStore
from .holds import StoreTime
from .kinds import JobKind
from .sending import Tails
from .settings import WorkSettings
from .upstreams import Gates

logger = logging.getLogger("batchproxy")


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """`wake` tells the worker that something may be begun, or has ended."""

    store: JobStore
    kinds: Mapping[str, JobKind]
    settings: WorkSettings
    checkpointer: Checkpointer
    gates: Gates
    tails: Tails
    time: StoreTime
    wake: Callable[[], None]
    observers: Sequence[Observer] = ()

    def tell(self, event: ItemEnded) -> None:
        for observer in self.observers:
            if event.result.status < 400 and getattr(observer, "only_failures", False):
                continue
            try:
                observer.item_ended(event)
            except Exception:
                logger.exception("observer.failed observer=%s", type(observer).__name__)
