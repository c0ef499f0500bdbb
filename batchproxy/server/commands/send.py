"""`batchproxy send`."""

from __future__ import annotations

import base64
import json
import ssl
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .batch_file import BUFFERED, STREAMED, curl, header as read_header, read
from .speaking import Code, console, data, escaped, fail, note

if TYPE_CHECKING:
    import httpx

_COLUMNS = ("item", "method", "path", "status", "size", "error")


def send(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A batch, or a list of items, in JSON; - for stdin.")],
    url: Annotated[str, typer.Option(envvar="BATCHPROXY_URL", help="The batch endpoint.")] = (
        "http://127.0.0.1:8080/batch"
    ),
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="A header of the batch.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds without a byte.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as it came.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print each item the moment it ended.")] = False,
    as_curl: Annotated[
        bool, typer.Option("--curl", help="Print the command of curl that sends it; send nothing.")
    ] = False,
) -> None:
    """Send a batch, and print a table of the answers.

    \b
    Examples:
      batchproxy send batch.json
      echo '[{"path": "/users/1"}, {"path": "/users/2"}]' | batchproxy send -
      batchproxy send batch.json --stream -H 'Authorization: Bearer TOKEN'
      batchproxy send batch.json --json | jq .summary

    Exit codes: 0 all items succeeded; 4 some item failed (status of 400 or above), or the whole batch was refused;
    5 no answer, or none that can be read; 2 the file is not a batch.
    """
    body = read(file)
    given = [read_header(text) for text in header or ()]
    own = [("Content-Type", BUFFERED), ("Accept", STREAMED if stream else BUFFERED)]
    names = {name.lower() for name, _ in given}
    headers = [pair for pair in own if pair[0].lower() not in names] + given
    if as_curl:
        data(curl(url, headers, body, is_streamed=stream))
        return
    import httpx

    try:
        with (
            # With Python's own trust, to which `SSL_CERT_FILE` adds an authority.
            httpx.Client(trust_env=False, timeout=timeout, verify=ssl.create_default_context()) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            has_failed = _taken(answer, _asked(body), is_streamed=stream, as_json=as_json)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as fault:
        fail(Code.NO_ANSWER, f"{escaped(url)}: no answer: {escaped(fault) or type(fault).__name__}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        fail(Code.NO_ANSWER, f"{escaped(url)}: this is not the answer to a batch: {escaped(fault)}")
    if has_failed:
        raise typer.Exit(int(Code.ITEM_FAILED))


def _asked(body: bytes) -> list[Any]:
    items = json.loads(body).get("requests")
    return items if isinstance(items, list) else []


def _taken(answer: httpx.Response, asked: list[Any], *, is_streamed: bool, as_json: bool) -> bool:
    """Prints the answer; whether something failed."""
    if answer.status_code != 200:
        _refused(answer, as_json=as_json)
        return True
    if is_streamed:
        return _each(answer.iter_lines(), asked, as_json=as_json)
    answer.read()
    summary = answer.json()["summary"]
    if as_json:
        sys.stdout.buffer.write(answer.content.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()
    else:
        _table(answer.json()["responses"], asked)
    _sum(summary)
    return bool(summary["failed"])


def _each(lines: Iterator[str], asked: list[Any], *, as_json: bool) -> bool:
    began = time.monotonic()
    for line in lines:
        if not line:
            continue
        record = json.loads(line)
        if as_json:
            data(line)
        if "summary" in record:
            _sum(record["summary"])
            return bool(record["summary"]["failed"])
        if not as_json:
            spent = f"{(time.monotonic() - began) * 1000:.0f} ms"
            data("  ".join(filter(None, (*_row(record, record["index"], asked), spent))))
        sys.stdout.flush()
    raise ValueError("it ended before its summary")


def _refused(answer: httpx.Response, *, as_json: bool) -> None:
    """The whole batch was refused; the problem document says why."""
    answer.read()
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    if as_json:
        data(answer.text)
    known = [problem[name] for name in ("code", "title", "detail", "pointer") if problem.get(name)]
    told = ": ".join(map(escaped, known)) or escaped(answer.text[:500])
    typer.echo(f"batchproxy: {answer.status_code} {told}", err=True)


def _table(responses: Iterable[Any], asked: list[Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name in ("status", "size") else "left")
    for index, response in enumerate(responses):
        style = "red" if response["status"] >= 400 else "green"
        cells = _row(response, index, asked)
        table.add_row(
            *(Text(cell, style=style if name == "status" else "") for name, cell in zip(_COLUMNS, cells, strict=True))
        )
    console().print(table)


def _row(response: Mapping[str, Any], index: int, asked: list[Any]) -> tuple[str, ...]:
    item = asked[index] if index < len(asked) and isinstance(asked[index], dict) else {}
    cells = (
        response.get("id", index), item.get("method", "GET"), item.get("path", ""), response["status"], _size(response),
        response.get("error", ""),
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


def _sum(summary: Mapping[str, Any]) -> None:
    note(escaped(f"{summary['total']} items, {summary['succeeded']} succeeded, {summary['failed']} failed"))
