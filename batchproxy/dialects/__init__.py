"""The wire formats: bytes ↔ `Batch` and `Result`s. Pure: no server, no limits of their own, no order of execution."""

from __future__ import annotations

from typing import Any, Protocol

from ..engine.model import Batch, Caller, Result
from ..engine.policy import Policy
from .native import Native


class Writer(Protocol):
    """Writes the answer of one batch, piece by piece; large bodies are pieces of their own, uncopied."""

    media_type: str
    ordered: bool
    """Whether entries are written in request order, behind each other, once all are there."""
    separator: bytes
    """What stands between two entries."""
    heartbeat: bytes
    """What may be written when there is nothing to write, so that nobody takes the connection for dead."""
    excess: int
    """How many bytes longer the bodies have become by being written, escaped or in base64; whoever counts resets it."""

    def head(self) -> bytes: ...

    def write(self, result: Result) -> list[bytes]: ...

    def tail(self) -> bytes: ...


class Dialect(Protocol):
    """A wire format."""

    name: str
    media_types: tuple[str, ...]
    """Of the answers it can write, the preferred one first."""

    def read(self, body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
        """Raises `Malformed`, `Invalid` or `TooLarge`."""

    def read_job(self, body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
        """The same for a batch that becomes a job, which may have options that are those of jobs alone."""

    def writer(self, batch: Batch, media_type: str, policy: Policy, *, problem_type: str) -> Writer:
        """`problem_type` is the URI reference that a code is put behind, for problem documents."""

    def schema(self, policy: Policy) -> dict[str, Any]:
        """JSON Schemas of `request` and `response`."""

    def example(self, policy: Policy, prefix: str) -> dict[str, Any]:
        """A small batch, for documentation; `prefix` is what its paths begin with."""


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Native(),)}
