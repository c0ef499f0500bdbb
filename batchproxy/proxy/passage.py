"""One request on its way through an upstream: what it holds, what has become of it, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .balancing import Address
from .transports import IDLE_TIMEOUT, OVERLOADED, TOO_LARGE, TOTAL_TIMEOUT, Answer, Outgoing, Pairs, Sent, UpstreamError

if TYPE_CHECKING:
    from .upstream import LiveUpstream


class Passage:
    """A request, its attempts so far, and what they have taken; then the answer, until it is read to its end or closed.

    `deadline` is that of the request or, if it is sooner, that of the upstream; `waited` is the time in the queue, and
    the last attempt `began` at a time of the loop.
    """

    __slots__ = (
        "address",
        "answer",
        "attempts",
        "began",
        "deadline",
        "headers",
        "notes",
        "request",
        "retries",
        "status",
        "ticket",
        "tried",
        "upstream",
        "waited",
    )

    def __init__(self, upstream: LiveUpstream, request: Outgoing, notes: dict[str, Any]) -> None:
        self.upstream = upstream
        self.request = request
        self.deadline = request.deadline
        self.notes = notes
        notes["upstream"] = upstream.name
        self.tried: tuple[Address, ...] = ()
        self.attempts = self.retries = self.status = self.ticket = 0
        self.began = self.waited = 0.0
        self.headers: Pairs = ()
        self.address: Address | None = None
        self.answer: Answer | None = None

    def __repr__(self) -> str:
        name, method = self.upstream.name, self.request.method
        return f"Passage({name}, {method}, {self.status}, attempts={self.attempts}, {self.address!r})"

    def arrived(self) -> None:
        """The answer to a request that was begun is there, or none will come; whoever begins one says what then is."""
        raise NotImplementedError

    # Its attempts

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

    # Its answer

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`."""
        answer = self.answer
        if answer is None:
            return b""
        try:
            piece = await answer.read()
        except UpstreamError as fault:
            answer.close()
            self._end(fault)
            raise
        if not piece:
            self._end(None)
        return piece

    def close(self) -> None:
        """Frees the connection and the place. May be called twice."""
        answer = self.answer
        if answer is not None:
            answer.close()
            self._end(None)

    def _end(self, fault: UpstreamError | None) -> None:
        self.answer = None
        self.upstream.ended(self, fault)
