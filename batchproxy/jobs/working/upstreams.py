"""What this worker may begin at each upstream now, out of what all workers together may.

A gate takes tokens and places from `store.limiter` in blocks that last for about a second, so that the store is asked
once in that time at most, and learns from it when another worker was told that the upstream wants a rest.

Knows: the limiter, names of upstreams. Must not know: jobs, leases.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping

from ...engine.model import Caller, Item
from ...engine.paths import readings_of_servers
from ...engine.policy import Policy
from ..store import JobStore, Limits, StoreError
from .outages import Pauses

logger = logging.getLogger("batchproxy")

_BLOCK = 1.0
_LEAST_WAIT = 0.02
_FORGOTTEN = 600.0
"""After how many seconds without use a gate is forgotten."""
_UNLIMITED = Limits()


def upstream_of(item: Item, caller: Caller, policy: Policy, endpoint: str) -> str:
    """The name of the upstream on whose route an item is, or of the endpoint if there are no routes."""
    if policy.routes is None:
        return endpoint
    depth = len(caller.mount[1:].split("/")) if caller.mount else 0
    route = policy.routes.find(caller.host, [reading[depth:] or ("",) for reading in readings_of_servers(item.path)])
    return endpoint if route is None else route.upstream


class Gate:
    """One upstream: `enter` before an item is begun, `leave` when it has ended."""

    __slots__ = (
        "_asking",
        "_fresh_until",
        "_gates",
        "_keep_at",
        "_limits",
        "_most",
        "_places",
        "_timer",
        "_tokens",
        "ask_after",
        "in_flight",
        "name",
        "refused_at",
    )

    def __init__(self, gates: Gates, name: str, limits: Limits, most: int) -> None:
        self.name = name
        self.in_flight = 0
        self.ask_after = self.refused_at = 0.0
        self._gates = gates
        self._limits = limits
        self._most = most
        self._tokens = 0.0
        self._places = 0
        self._fresh_until = self._keep_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Gate({self.name}, in_flight={self.in_flight}, places={self._places}, tokens={self._tokens})"

    def enter(self, now: float) -> bool:
        """Whether an item may be begun now. If not, those who wait are told when it may be worth another try."""
        if now < self._fresh_until and self._tokens >= 1 and self.in_flight < self._places:
            self._tokens -= 1
            self.in_flight += 1
            return True
        self.refused_at = now
        if now < self._fresh_until and self._tokens >= 1 and self._places >= self._most:
            return False  # all our places are in use: there is one when an item leaves
        if self._asking is None:
            if now >= self.ask_after:
                self._asking = asyncio.get_running_loop().create_task(self._ask(), name="batchproxy limiter")
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_at(self.ask_after, self._open)
        return False

    def leave(self) -> None:
        self.in_flight -= 1

    def is_idle(self, now: float) -> bool:
        """Whether a new one would do as well: nobody is there, or was in a long time."""
        has_places = bool(self._places) and self._limits.max_in_flight is not None
        if self.in_flight or has_places or self._asking is not None or self._timer is not None:
            return False
        return max(self._fresh_until, self.ask_after, self.refused_at) < now - _FORGOTTEN

    def rests(self, now: float) -> float:
        """For how many seconds nothing can be begun here, as far as is known."""
        can = now < self._fresh_until and self._tokens >= 1
        return 0.0 if can or self._asking is not None else max(self.ask_after - now, 0.0)

    async def block(self, delay: float) -> None:
        """The upstream wants a rest, of all."""
        now = asyncio.get_running_loop().time()
        if self._tokens < 1 and self.ask_after > now and self.ask_after >= now + delay - _BLOCK / 2:
            return  # it is the same overload, seen by another item
        self._tokens, self._fresh_until, self.ask_after = 0.0, 0.0, now + delay
        try:
            await self._gates.store.limiter.block(self.name, self._limits, delay=delay)
        except StoreError as error:
            logger.warning("limiter.waits upstream=%s code=%s", self.name, error.code)

    async def keep_places(self) -> None:
        """Those that are in use are kept, though nothing is begun; others are given back, for somebody waits for them.

        To be called about once in a second.
        """
        now = asyncio.get_running_loop().time()
        if self._limits.max_in_flight is None or self._asking is not None or now < self._fresh_until:
            return
        limiter, worker = self._gates.store.limiter, self._gates.worker
        if self._places and not self.in_flight:
            self._places = 0
            await limiter.give_back(self.name, worker)
        elif self._places > self.in_flight or (self.in_flight and now >= self._keep_at):
            self._places = self.in_flight
            allowance = await limiter.take(self.name, worker, self._limits, items=0, places=self.in_flight)
            self._keep_at = now + allowance.places_for / 3

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        if self._places and self._limits.max_in_flight is not None:
            await self._gates.store.limiter.give_back(self.name, self._gates.worker)

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            asked = loop.time()
            # Without a rate one token stands for all: it says that nobody has to rest.
            items = 1 if self._limits.rate is None else max(self._most - int(self._tokens), 1)
            allowance = await self._gates.store.limiter.take(
                self.name, self._gates.worker, self._limits, items=items, places=self._most
            )
            now = loop.time()
            if self.ask_after > now:
                return  # an item was told meanwhile that the upstream wants a rest
            self._places = allowance.places
            self._keep_at = asked + allowance.places_for / 3
            if self._limits.rate is not None:
                self._tokens += allowance.items
            else:
                self._tokens = math.inf if allowance.items else 0.0
            self._fresh_until = asked + _BLOCK
            is_enough = self._tokens >= 1 and self._places > self.in_flight
            self.ask_after = now if is_enough else now + max(allowance.wait, _LEAST_WAIT)
        except StoreError as error:
            # A limiter that cannot be asked lets nobody through: the checkpoints would wait for the store as well.
            logger.warning("limiter.waits upstream=%s code=%s", self.name, error.code)
            self.ask_after = loop.time() + self._gates.pauses.next()
        else:
            self._gates.pauses.over()
        finally:
            self._asking = None
            self._gates.wake()

    def _open(self) -> None:
        self._timer = None
        self._gates.wake()


class Gates:
    """The upstreams that this worker has to do with. Some have names that clients choose, so they are not kept."""

    def __init__(self, store: JobStore, limits: Mapping[str, Limits], most: int, wake: Callable[[], None]) -> None:
        self.store = store
        self.worker = ""
        self.wake = wake
        self.pauses = Pauses()
        self._limits = limits
        self._most = most
        self._gates: dict[str, Gate] = {}

    def __getitem__(self, name: str) -> Gate:
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = Gate(self, name, self._limits.get(name, _UNLIMITED), self._most)
        return gate

    async def keep_places(self) -> None:
        for gate in list(self._gates.values()):
            await gate.keep_places()
        now = asyncio.get_running_loop().time()
        self._gates = {name: gate for name, gate in self._gates.items() if not gate.is_idle(now)}

    async def aclose(self) -> None:
        for gate in self._gates.values():
            try:
                await gate.close()
            except StoreError as error:
                logger.warning("limiter.left upstream=%s code=%s", gate.name, error.code)
