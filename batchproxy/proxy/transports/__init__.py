"""One request over one connection: what a transport takes, gives and raises.

A transport follows no redirects, keeps no cookies, reads no environment, decodes no body, and adds no header but those
that frame the message. It never retries but for a stale idle connection; who may try again is told by `Sent`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from typing import Protocol, TypeAlias

import msgspec

from ...engine.errors import Failure

Pairs = Sequence[tuple[bytes, bytes]]
"""Header fields; whoever keeps some for the next request is given a tuple."""

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})
"""Methods that may be sent twice: RFC 9110, section 9.2.2, and registered ones that are safe."""


class Sent(IntEnum):
    """How much of a request has left before a failure."""

    NOTHING = 0
    PARTLY = 1
    ALL = 2


class Reason(msgspec.Struct, frozen=True):
    """Why there is no whole answer: a stable name, Envoy's flag for the log, and what the client is told."""

    name: str
    flag: str
    failure: Failure


CONNECT_FAILURE = Reason("connect-failure", "UF", Failure.UNREACHABLE)
CONNECT_TIMEOUT = Reason("connect-timeout", "UF", Failure.UNREACHABLE)
TLS_FAILURE = Reason("tls-failure", "UF", Failure.UNREACHABLE)
RESET_BEFORE_RESPONSE = Reason("reset-before-response", "UC", Failure.UNREACHABLE)
FIRST_BYTE_TIMEOUT = Reason("first-byte-timeout", "UT", Failure.TIMEOUT)
IDLE_TIMEOUT = Reason("idle-timeout", "UT", Failure.TIMEOUT)
TOTAL_TIMEOUT = Reason("total-timeout", "UT", Failure.TIMEOUT)
BAD_RESPONSE = Reason("bad-response", "UPE", Failure.BAD_RESPONSE)
TRUNCATED = Reason("truncated", "TR", Failure.TRUNCATED)
TOO_LARGE = Reason("response-too-large", "LR", Failure.RESPONSE_TOO_LARGE)
OVERLOADED = Reason("overloaded", "UO", Failure.UPSTREAM_OVERLOADED)
NO_HEALTHY = Reason("no-healthy-address", "UH", Failure.UPSTREAM_OVERLOADED)


class UpstreamError(Exception):
    """There is no whole answer. `detail` is for the log alone: it names hosts and ports.

    `sent` and `answered` (whether any byte of an answer arrived) decide what may be tried again.
    """

    def __init__(self, reason: Reason, detail: str, *, sent: Sent = Sent.NOTHING, answered: bool = False) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason = reason
        self.detail = detail
        self.sent = sent
        self.answered = answered

    def forget(self) -> None:
        """For whoever has dealt with it: its frames hold the answer, which holds it, until the collector comes."""
        self.__traceback__ = self.__context__ = self.__cause__ = None


class Outgoing(msgspec.Struct):
    """A request as it goes to an address.

    `target` is path and query, exactly as they are written onto the wire; `headers` are final, in order, `Host`
    included, without any that frame the message. `body` is all of it, or an iterator with its `length`; a length of
    None sends it chunked. A bytes body is framed by its length unless it is empty and the method gives it no meaning.
    """

    method: str
    target: bytes
    headers: Pairs
    body: bytes | AsyncIterator[bytes] = b""
    length: int | None = None
    deadline: float | None = None
    """A time of the event loop, by which the whole answer must be there."""


Whole: TypeAlias = tuple[int, tuple[tuple[bytes, bytes], ...], bytes]
"""The status of an answer, its headers but for those that concern the connection or frame it, and its body."""


class Answer(Protocol):
    """The head of an answer, and its body piece by piece.

    Interim answers have been swallowed. Header names are in lower case, values as they came but for blanks around
    them; headers that frame or belong to the connection are still there.
    """

    status: int
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`."""

    def close(self) -> None:
        """Frees the connection: kept if the answer has been read to its end, else cut. May be called twice."""


class Begun(Answer, Protocol):
    """The answer to a request that has been sent, and of which nothing may be there yet."""

    whole: Whole | None
    """All of it, if it is plain and has arrived whole; else None, and there is `head`."""

    async def head(self) -> Answer:
        """Itself with its head; or, if the connection turned out to be closed, the answer over another one.

        To be awaited after its recipient was told. Raises `UpstreamError`.
        """


class Recipient(Protocol):
    """Who waits for the answer to a request that was begun; an object, since to make a bound method takes longer."""

    def arrived(self) -> None:
        """Called once, when there is a head or none will come, unless the answer was closed before."""


class Transport(Protocol):
    """Connections to one address."""

    def begin(self, request: Outgoing, recipient: Recipient) -> Begun | None:
        """Sends a request whose body is there, if a connection is; None if `send` has to be awaited."""

    async def send(self, request: Outgoing) -> Answer:
        """Raises `UpstreamError`; when cancelled, the connection is cut."""

    async def aclose(self) -> None:
        """Closes all connections; running exchanges are cut."""

    def expire(self) -> None:
        """No connection of now is used again once it is idle; running exchanges go on."""
