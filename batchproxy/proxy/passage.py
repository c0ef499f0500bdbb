"""One request on its way through an upstream: what it holds, what has become of it, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .balancing import Address
from .transports import IDLE_TIMEOUT, OVERLOADED, TOO_LARGE, TOTAL_TIMEOUT, Answer, Outgoing, Sent, UpstreamError

if TYPE_CHECKING:
    from .upstream import LiveUpstream


class Passage:
    """A request, its attempts so far, and what they have taken.

    `deadline` is that of the request or, if it is sooner, that of the upstream; `waited` is the time in the queue, and
    the last attempt `began` at a time of the loop.
    """

    # What most requests never change is left to the class: measured, a third of the cost of slots that are all set.
    tried: tuple[Address, ...] = ()
    attempts = 0
    retries = 0
    status = 0
    ticket = 0
    began = 0.0
    waited = 0.0
    address: Address | None = None

    def __init__(
        self, upstream: LiveUpstream, request: Outgoing, deadline: float | None, notes: dict[str, Any]
    ) -> None:
        self.upstream = upstream
        self.request = request
        self.deadline = deadline
        self.notes = notes

    def __repr__(self) -> str:
        return f"Passage({self.upstream.name}, {self.request.method}, attempts={self.attempts}, {self.address!r})"

    def failed(self, fault: UpstreamError) -> None:
        if self.address is not None:
            self.tried = (*self.tried, self.address)
        notes, flag = self.notes, fault.reason.flag
        notes["flags"] = f"{notes['flags']},{flag}" if notes.get("flags") else flag
        notes["detail"] = fault.detail

    def blames(self, fault: UpstreamError, now: float) -> bool:
        """Whether a failure counts against the address and the upstream; not what a client can bring about."""
        reason = fault.reason
        if reason is TOTAL_TIMEOUT:
            was_its_turn = fault.sent is Sent.ALL and not fault.answered and isinstance(self.request.body, bytes)
            # A slow upload or reader takes time as well, and so does a queue: then too little was left for the answer.
            return was_its_turn and now - self.began >= self.waited
        if reason is IDLE_TIMEOUT and fault.sent is not Sent.ALL:
            # Perhaps it was the client's body that did not go on.
            return False
        # What was asked of it was more than we take, or more than it may have.
        return reason not in (TOO_LARGE, OVERLOADED)


class LiveAnswer:
    """An answer, with the place that its request holds until it has been read to its end or closed."""

    __slots__ = ("_answer", "_is_open", "_passage", "headers", "status")

    def __init__(self, answer: Answer, passage: Passage) -> None:
        self._answer = answer
        self._passage = passage
        self._is_open = True
        self.status = answer.status
        self.headers = answer.headers

    def __repr__(self) -> str:
        return f"LiveAnswer({self.status}, {'open' if self._is_open else 'ended'})"

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`."""
        try:
            piece = await self._answer.read()
        except UpstreamError as fault:
            self._answer.close()
            self._end(fault)
            raise
        if not piece:
            self._end(None)
        return piece

    def close(self) -> None:
        """Frees the connection and the place. May be called twice."""
        self._answer.close()
        self._end(None)

    def _end(self, fault: UpstreamError | None) -> None:
        if self._is_open:
            self._is_open = False
            self._passage.upstream.ended(self._passage, fault)
