"""Group commit: the checkpoints of all items that end at about the same time share one transaction.

While one is being committed, the next gathers; so nobody waits for a clock, and the busier it is the larger they get.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType

from .checkpoints import Checkpoints, Entry
from .errors import StoreError
from .model import ItemResult, Lease, Parked, Verdict
from .settling import Bodies

_MOST = 512
"""How many checkpoints go into one transaction at most."""
_MOST_BYTES = 8 * 1024 * 1024
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Checkpointer:
    """`async with` it; each method returns once what it says is committed, so a slot is held until then.

    As long as the store is busy, full or out of reach, checkpoints wait for it: whoever has no time any more cancels.
    Other errors are raised. `window` is for how many seconds to gather before the first commit after a pause.
    """

    def __init__(self, checkpoints: Checkpoints, *, window: float = 0.0) -> None:
        self._checkpoints = checkpoints
        self._window = window
        self._waiting: deque[tuple[Entry, asyncio.Future[Verdict]]] = deque()
        self._something = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Checkpointer(waiting={len(self._waiting)})"

    async def __aenter__(self) -> Checkpointer:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="batchproxy checkpoints")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what is waiting; without a store, gives that up."""
        self._is_closing = True
        self._something.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def settle(self, lease: Lease, *results: ItemResult) -> Verdict:
        """The results of items."""
        return await self.write(Entry(lease=lease, results=results))

    async def park(self, lease: Lease, *parked: Parked) -> Verdict:
        """Items that are tried again later. They were not sent, or the upstream said that it did nothing."""
        return await self.write(Entry(lease=lease, parked=parked))

    async def intend(self, lease: Lease, *seqs: int) -> Verdict:
        """Items that are about to be sent, and are never to be sent twice."""
        return await self.write(Entry(lease=lease, intended=seqs))

    async def withdraw(self, lease: Lease, *seqs: int) -> Verdict:
        """Items that were intended, but not sent."""
        return await self.write(Entry(lease=lease, withdrawn=seqs))

    async def write(self, entry: Entry) -> Verdict:
        if self._task is None or self._is_closing:
            raise RuntimeError("The checkpointer is not open.")
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, verdict))
        self._something.set()
        return await verdict

    async def _run(self) -> None:
        while self._waiting or not self._is_closing:
            await self._something.wait()
            self._something.clear()
            if self._window and not self._is_closing:
                await asyncio.sleep(self._window)
            while self._waiting:
                await self._flush(self._taken())

    def _taken(self) -> list[tuple[Entry, asyncio.Future[Verdict]]]:
        taken: list[tuple[Entry, asyncio.Future[Verdict]]] = []
        size = 0
        while self._waiting and len(taken) < _MOST and size < _MOST_BYTES:
            entry, verdict = self._waiting.popleft()
            if not verdict.done():  # else who said it has left
                taken.append((entry, verdict))
                size += sum(len(each.body) for each in entry.results)
        return taken

    async def _flush(self, taken: list[tuple[Entry, asyncio.Future[Verdict]]]) -> None:
        pause = _FIRST_PAUSE
        bodies: Bodies | None = None
        while taken:
            try:
                if bodies is None:
                    bodies = await self._checkpoints.keep_bodies(entry for entry, _ in taken)
                verdicts = await self._checkpoints.commit([entry for entry, _ in taken], bodies)
            except StoreError as error:
                if not error.passing or self._is_closing:
                    return _raised(taken, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                taken = [(entry, verdict) for entry, verdict in taken if not verdict.done()]
            except Exception as error:
                return _raised(taken, error)
            else:
                for (_, future), verdict in zip(taken, verdicts, strict=True):
                    if not future.done():
                        future.set_result(verdict)
                return None
        return None


def _raised(taken: list[tuple[Entry, asyncio.Future[Verdict]]], error: Exception) -> None:
    for _, verdict in taken:
        if not verdict.done():
            verdict.set_exception(error)
