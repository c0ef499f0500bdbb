"""What comes back for a batch: its table, its records as they come, a refusal, or something else altogether.

Knows: the native format's answers. Must not know: how they were asked for.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from .batch_file import STREAMED, named
from .speaking import console, counted, data, escaped, note

if TYPE_CHECKING:
    import httpx

_COLUMNS = ("item", "method", "path", "status", "size", "error")
_MOST_OF_A_BODY = 200
# What reading raises where something else came than what is spoken here.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class BrokenOff(Exception):
    """Some of the items were answered; the rest, and the end, are missing."""


class Foreign(Exception):
    """This is not the answer of a batch endpoint; the text is what it is."""


def job_of(answer: httpx.Response) -> str | None:
    """The id of the job that a batch became, if it did: then it is answered before its items have run."""
    if answer.status_code != 202:
        return None
    answer.read()
    try:
        document = answer.json()
    except _UNREADABLE:
        return None
    is_job = isinstance(document, dict) and all(name in document for name in ("id", "state", "counts"))
    return str(document["id"]) if is_job else None


def as_it_came(answer: httpx.Response) -> None:
    sys.stdout.buffer.write(answer.content.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def taken(answer: httpx.Response, asked: list[Any], *, as_json: bool) -> bool:
    """Prints the answer; whether something failed. Raises `BrokenOff`, `Foreign`, and what reading raises."""
    if answer.status_code == 200 and _media_type(answer) == STREAMED:
        return _each(answer, asked, as_json=as_json)
    answer.read()
    try:
        document = answer.json()
        if answer.status_code != 200:
            _refused(answer, document, as_json=as_json)
            return True
        summary, rows = _summary(document["summary"]), _rows(document["responses"], asked)
    except _UNREADABLE:
        raise Foreign(_told(answer, answer.text)) from None
    if as_json:
        as_it_came(answer)
    else:
        _table(rows)
    note(str(summary))
    return summary.failed > 0


def _each(answer: httpx.Response, asked: list[Any], *, as_json: bool) -> bool:
    began = time.monotonic()
    has_begun = False
    for line in filter(None, answer.iter_lines()):
        try:
            record = _record(line, asked)
        except _UNREADABLE:
            raise Foreign(_told(answer, line)) from None
        if as_json:
            data(line)
        if isinstance(record, _Summary):
            note(str(record))
            return record.failed > 0
        if not as_json:
            spent = f"{(time.monotonic() - began) * 1000:.0f} ms"
            data("  ".join(filter(None, (*record, spent))))
        has_begun = True
    if not has_begun:
        raise Foreign(_told(answer, ""))
    raise BrokenOff("it ended before its summary")


def _refused(answer: httpx.Response, problem: Any, *, as_json: bool) -> None:
    """The whole batch was refused; the problem document says why."""
    known = [escaped(problem[name]) for name in ("code", "title", "detail", "pointer") if problem.get(name)]
    if not isinstance(problem["code"], str):
        raise ValueError("a code is a word")
    if as_json:
        data(answer.text)
    typer.echo(f"batchproxy: {named(str(answer.url))}: {answer.status_code} {': '.join(known)}", err=True)


def _told(answer: httpx.Response, text: str) -> str:
    """The answer of somebody who knows nothing of batches."""
    told = f"answered {answer.status_code} {escaped(answer.reason_phrase)}".rstrip()
    if "location" in answer.headers:
        told += f" to {named(answer.headers['location'])}"
    told += f" ({escaped(_media_type(answer)) or 'of no type'}), which is not the answer to a batch"
    excerpt = escaped(" ".join(text[: _MOST_OF_A_BODY * 2].split())[:_MOST_OF_A_BODY])
    return f"{told}: {excerpt}" if excerpt else told


def _media_type(answer: httpx.Response) -> str:
    content_type: str = answer.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


# Items


def _table(rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name in ("status", "size") else "left")
    for cells in rows:
        style = "red" if int(cells[_COLUMNS.index("status")]) >= 400 else "green"
        table.add_row(
            *(Text(cell, style=style if name == "status" else "") for name, cell in zip(_COLUMNS, cells, strict=True))
        )
    console().print(table)


class _Summary(NamedTuple):
    total: int
    succeeded: int
    failed: int

    def __str__(self) -> str:
        return f"{counted(self.total, 'item')}, {self.succeeded} succeeded, {self.failed} failed"


def _summary(found: Mapping[str, Any]) -> _Summary:
    return _Summary(*(int(found[name]) for name in _Summary._fields))


def _record(line: str, asked: list[Any]) -> tuple[str, ...] | _Summary:
    record = json.loads(line)
    return _summary(record["summary"]) if "summary" in record else _row(record, record["index"], asked)


def _rows(responses: Iterable[Any], asked: list[Any]) -> list[tuple[str, ...]]:
    return [_row(response, index, asked) for index, response in enumerate(responses)]


def _row(response: Mapping[str, Any], index: int, asked: list[Any]) -> tuple[str, ...]:
    item = asked[index] if index < len(asked) and isinstance(asked[index], dict) else {}
    cells = (
        response.get("id", index), item.get("method", "GET"), item.get("path", ""), int(response["status"]),
        _size(response), response.get("error", ""),
    )  # fmt: skip
    return tuple(map(escaped, cells))


def _size(response: Mapping[str, Any]) -> int:
    """Of the body in bytes; that of JSON without blanks."""
    if "body" not in response:
        return 0
    body, encoding = response["body"], response.get("body_encoding")
    if encoding == "base64":
        return len(base64.b64decode(body))
    if isinstance(body, str):
        return len(body.encode("utf-8", "surrogatepass"))
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))
