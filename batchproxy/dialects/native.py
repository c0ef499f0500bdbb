"""The native format: buffered JSON, NDJSON and server-sent events.

Knows: which forms there are. What stands in them is in the files beside this one.
"""

from __future__ import annotations

from typing import Any

from ..engine.model import Batch, Caller
from ..engine.policy import Policy
from ._native_reading import read, read_job
from ._native_schema import schemas
from ._native_writing import EVENT_STREAM, JSON, NDJSON, EventsWriter, LinesWriter, NativeWriter


class Native:
    """The format of this project's own, described for machines by `schema`."""

    name = "native"
    media_types: tuple[str, ...] = (JSON, NDJSON, EVENT_STREAM)

    def read(self, body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
        return read(body, caller, policy, minimal=minimal)

    def read_job(self, body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
        return read_job(body, caller, policy, minimal=minimal)

    def writer(self, batch: Batch, media_type: str, policy: Policy, *, problem_type: str) -> NativeWriter:
        return _WRITERS[media_type](batch, policy.max_depth, problem_type)

    def schema(self, policy: Policy) -> dict[str, Any]:
        return schemas(policy)

    def example(self, policy: Policy, prefix: str) -> dict[str, Any]:
        method = "GET" if "GET" in policy.methods else min(policy.methods)
        return {"requests": [{"id": "first", "method": method, "path": f"{prefix}/"}]}


_WRITERS: dict[str, type[NativeWriter]] = {
    writer.media_type: writer for writer in (NativeWriter, LinesWriter, EventsWriter)
}
