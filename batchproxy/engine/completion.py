"""Items that take values out of earlier answers: completed just before they start, and judged as fresh ones.

Whatever fails here, by a defect of ours too, is the fate of one item, and the batch comes to its end. Must not know:
what else keeps an item from starting.
"""

from __future__ import annotations

from .errors import Failure
from .events import log_fault
from .model import Batch, Item, Refusal, Result
from .policy import Judge, Policy
from .references import Values, complete


class Completion:
    """The values of one batch while it runs."""

    __slots__ = ("_batch", "_judge", "_policy", "_values")

    def __init__(self, batch: Batch, policy: Policy, judge: Judge) -> None:
        self._batch = batch
        self._policy = policy
        self._judge = judge
        self._values = Values(batch.items, policy)

    def of(self, item: Item) -> Item | Refusal:
        """The item with its values put in, or why it will not be sent."""
        try:
            completed = complete(item, self._values, self._batch.caller, self._policy)
            return completed if isinstance(completed, Refusal) else self._judge.item(completed) or completed
        except Exception as fault:
            log_fault(self._batch, item, fault)
            return Refusal(Failure.APP_ERROR, "The item could not be completed.")

    def take(self, result: Result) -> None:
        """An item has succeeded; what others need of its answer is kept. If that fails, they do."""
        if result.index in self._values.sources:
            try:
                self._values.take(result)
            except Exception as fault:
                log_fault(self._batch, self._batch.items[result.index], fault)
