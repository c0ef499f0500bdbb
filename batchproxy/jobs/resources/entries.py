"""Results of a job as entries of its dialect: those of the API as everywhere, the others as what became of the item.

Knows: outcomes. Must not know: how an entry of the dialect looks.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...endpoint import Endpoint
from ...engine.errors import Failure
from ...engine.model import Batch, Caller, Item, Options, Result
from ..store import WORKER_LOST, Counts, ItemResult, Outcome

JSON, NDJSON = "application/json", "application/x-ndjson"

_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_encode = msgspec.json.encode

# What the engine has no failure for: code → (status, title).
FATES: dict[str, tuple[int, str]] = {
    Outcome.CANCELLED: (503, "The job was cancelled before the item was answered"),
    Outcome.EXPIRED: (504, "The deadline of the job came before the item was answered"),
    Outcome.UNKNOWN: (504, "The item may have been sent, and its worker was lost; what became of it is unknown"),
    WORKER_LOST: (500, "Each worker that sent the item was lost"),
}
_FAILURES = {failure.value: failure for failure in Failure}
_CALLER = Caller("")


class Entries:
    """Written one by one. With `indexed` each says which item it is of, and what became of that."""

    def __init__(self, endpoint: Endpoint, problem_type: str, *, minimal: bool, indexed: bool) -> None:
        self._endpoint = endpoint
        self._problem_type = problem_type
        self._options = Options(minimal=minimal)
        self._indexed = indexed

    def of(self, results: Sequence[ItemResult]) -> list[bytes]:
        """Each on one line, without its end."""
        items = tuple(Item(index, "GET", b"", id=result.custom_id) for index, result in enumerate(results))
        batch = Batch("", self._endpoint.dialect, items, _CALLER, self._options)
        writer = self._endpoint.spoken.writer(batch, JSON, self._endpoint, problem_type=self._problem_type)
        entries = []
        for index, result in enumerate(results):
            fate = _fate(result)
            if fate is None:
                entry = b"".join(writer.write(_answered(index, result))).translate(_LINE_BREAKS)
            else:
                entry = self._of_fate(result, fate)
            if self._indexed:
                entry = b'{"index":%d,"outcome":"%b",%b' % (result.seq, result.outcome.encode(), entry[1:])
            entries.append(entry)
        return entries

    def _of_fate(self, result: ItemResult, code: str) -> bytes:
        status, title = FATES.get(code, (500, "The item was not done"))
        status = result.status or status
        body = {
            "type": f"{self._problem_type}#{code}",
            "title": title,
            "status": status,
            "code": code,
            "detail": result.detail or f"{title}.",
        }
        entry = {} if result.custom_id is None else {"id": result.custom_id}
        headers = {"content-type": "application/problem+json"}
        return _encode({**entry, "status": status, "error": code, "headers": headers, "body": body})


def _answered(index: int, result: ItemResult) -> Result:
    failure = None if result.failure is None else _FAILURES[result.failure]
    status = result.status or (500 if failure is None else failure.status)
    return Result(index, status, result.headers, result.body, failure, result.detail)


def _fate(result: ItemResult) -> str | None:
    """Its code, if the dialect has no entry for what became of an item."""
    if result.failure is not None:
        return None if result.failure in _FAILURES else result.failure
    return None if result.outcome in (Outcome.OK, Outcome.ERROR) else result.outcome.value


def summary(counts: Counts) -> bytes:
    return b'{"total":%d,"succeeded":%d,"failed":%d}' % (counts.total, counts.ok, counts.total - counts.ok)
