"""A transport without a network, for tests of what is decided: it plays acts that a test has written down.

Knows: the protocol of transports. Must not know: sockets, upstreams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from batchproxy.proxy.addresses import Location
from batchproxy.proxy.settings import Upstream
from batchproxy.proxy.transports import RESET_BEFORE_RESPONSE, Outgoing, Reason, Recipient, Sent, UpstreamError
from batchproxy.proxy.upstream import LiveUpstream


@dataclass(frozen=True, kw_only=True)
class Act:
    """After `after` seconds and `steps` turns of the loop an answer, or the fault; a turn before each piece too."""

    status: int = 200
    pieces: Sequence[bytes] = (b"ok",)
    fault: UpstreamError | None = None
    fault_inside: UpstreamError | None = None
    after: float = 0.0
    steps: int = 0


def fault(reason: Reason = RESET_BEFORE_RESPONSE, *, sent: Sent = Sent.ALL, answered: bool = False) -> UpstreamError:
    return UpstreamError(reason, "as it was written", sent=sent, answered=answered)


FAILS = Act(fault=fault())


class PlayedAnswer:
    def __init__(self, owner: Played, act: Act) -> None:
        self.status = act.status
        self.headers = [(b"content-type", b"text/plain")]
        self._owner = owner
        self._act = act
        self._left = deque(act.pieces)
        self._is_open = True
        owner.open += 1

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self._left:
            return self._left.popleft()
        if self._act.fault_inside is not None:
            raise self._act.fault_inside
        self.close()
        return b""

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._owner.open -= 1


@dataclass(eq=False)
class Played:
    """The transport of one address. When no act is left, the last one goes on."""

    url: str
    acts: deque[Act] = field(default_factory=deque)
    requests: list[Outgoing] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    running: int = 0
    most: int = 0
    open: int = 0
    is_expired: bool = False
    is_closed: bool = False

    def begin(self, request: Outgoing, recipient: Recipient) -> None:
        """No connection is ever idle."""

    async def send(self, request: Outgoing) -> PlayedAnswer:
        loop = asyncio.get_running_loop()
        self.requests.append(request)
        self.moments.append(loop.time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            act = self._next()
            for _ in range(act.steps):
                await asyncio.sleep(0)
            if act.after:
                await asyncio.sleep(act.after)
            if act.fault is not None:
                raise act.fault
            return PlayedAnswer(self, act)
        finally:
            self.running -= 1

    def _next(self) -> Act:
        if len(self.acts) > 1:
            return self.acts.popleft()
        return self.acts[0] if self.acts else Act()

    def plays(self, *acts: Act) -> None:
        self.acts = deque(acts)

    def expire(self) -> None:
        self.is_expired = True

    async def aclose(self) -> None:
        self.is_closed = True


@dataclass(eq=False)
class Stage:
    """An upstream whose addresses are played."""

    live: LiveUpstream
    addresses: list[Played]

    def plays(self, *acts: Act) -> None:
        """The same acts at each address."""
        for each in self.addresses:
            each.plays(*acts)

    @property
    def attempts(self) -> list[int]:
        return [len(each.requests) for each in self.addresses]

    def is_idle(self) -> bool:
        """Whether nothing is held any more: no place, no answer, no part of the retry budget."""
        live = self.live
        return (
            live._places.used == 0
            and live._places.waiting == 0
            and live._retrying.running == 0
            and all(each.in_flight == 0 for each in live.addresses)
            and all(each.open == 0 and each.running == 0 for each in self.addresses)
        )


def stage(*acts: Act, addresses: int | Sequence[str] = 1, **settings: Any) -> Stage:
    played: list[Played] = []

    def make(_: Upstream, location: Location) -> Played:
        played.append(Played(location.url, deque(acts)))
        return played[-1]

    if isinstance(addresses, int):
        addresses = [f"http://a{number}" for number in range(addresses)]
    return Stage(LiveUpstream("orders", Upstream(addresses=addresses, **settings), make=make), played)


def request(method: str = "GET", target: bytes = b"/x", **more: Any) -> Outgoing:
    headers = more.pop("headers", [(b"host", b"client.example"), (b"accept", b"*/*")])
    return Outgoing(method, target, headers, **more)


async def whole(live: LiveUpstream, outgoing: Outgoing, notes: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """Sends a request and reads its answer to the end."""
    answer = await live.send(outgoing, notes=notes)
    pieces = []
    try:
        while piece := await answer.read():
            pieces.append(piece)
    finally:
        answer.close()
    return answer.status, b"".join(pieces)


async def failure(live: LiveUpstream, outgoing: Outgoing, notes: dict[str, Any] | None = None) -> UpstreamError:
    """What sending this fails with."""
    try:
        await whole(live, outgoing, notes)
    except UpstreamError as error:
        return error
    raise AssertionError("the request was answered")


def always(value: float) -> Callable[[float, float], float]:
    """Chance that is none: this share of the range."""
    return lambda low, high: low + value * (high - low)
