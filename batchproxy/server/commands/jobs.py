"""`batchproxy jobs …`: lists, shows, watches, stops, tries again and exports the jobs of a running server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from .addressed import File, Url, watching
from .exporting import Export, pages
from .job_server import AsJson, Header, JobId, JobServer, Refused, Timeout, document, job_of, job_server, path_of
from .speaking import Code, Manner, console, counted, data, escaped, fail, note

jobs = typer.Typer(
    name="jobs",
    help="Look at the jobs of a running server, stop them, try again, export results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_WAIT = 20
"""For how many seconds an answer may be held back while nothing changes."""
_PAUSE = 1.0
"""After how many seconds the same is asked again at the earliest."""
_ENDED = ("completed", "failed", "cancelled", "expired")
_NOT_FOUND = "404 not_found:"
_OUTCOMES = "ok, error, cancelled, expired, unknown"


@jobs.command("list")
def list_(
    url: Url = None,
    config: File = None,
    header: Header = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE,…", help="Only those in one of these states, such as running.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, the newest first.")] = 20,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """List your jobs.

    \b
    Examples:
      batchproxy jobs list
      batchproxy jobs list --state running,queued -H 'Authorization: Bearer TOKEN'
    """
    query = {"limit": str(limit)} | ({"state": state} if state else {})
    with job_server(url, config, header, timeout) as server:
        answer = server.get(query=query)
        found = document(answer, "jobs")
        if as_json:
            data(answer.text)
            return
        _table(("id", "state", "done", "not ok", "created"), [_row(job) for job in found["jobs"]])
        note(counted(len(found["jobs"]), "job") + (", and there are more" if found.get("next") else ""))


@jobs.command()
def show(
    job_id: JobId,
    url: Url = None,
    config: File = None,
    header: Header = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Show one job.

    \b
    Examples:
      batchproxy jobs show 0192f0c1-7c3b-7000-8000-000000000001
    """
    with job_server(url, config, header, timeout) as server, _named(job_id):
        _say(job_of(server.get(path_of(job_id))), as_json=as_json)


@jobs.command()
def watch(
    job_id: JobId,
    url: Url = None,
    config: File = None,
    header: Header = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Wait for the end of a job, with its progress on the way.

    \b
    Examples:
      batchproxy jobs watch 0192f0c1-7c3b-7000-8000-000000000001

    A server that starts anew meanwhile is waited for, up to --timeout. Ctrl-C ends the watching alone, and not the
    job. Exit codes: 0 every item succeeded; 4 some did not, or the job was refused, cancelled or out of time; 5 no
    answer.
    """
    with job_server(url, config, header, timeout) as server, _named(job_id):
        job: dict[str, Any] = {}
        try:
            with _progress() as tell:
                for job in _versions(server, job_id):
                    tell(job)
        except KeyboardInterrupt:
            if job:
                names = [each.partition(":")[0] for each in header or ()]
                note(f"the job goes on; to watch it again: {watching(job_id, url, config, names)}")
            raise
        _say(job, as_json=as_json)
    if job["state"] != "completed" or job["counts"]["completed"] < job["counts"]["total"]:
        raise typer.Exit(int(Code.ITEM_FAILED))


@jobs.command()
def cancel(
    job_id: JobId,
    url: Url = None,
    config: File = None,
    header: Header = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Stop a job; what is done stays.

    \b
    Examples:
      batchproxy jobs cancel 0192f0c1-7c3b-7000-8000-000000000001
    """
    with job_server(url, config, header, timeout) as server, _named(job_id):
        _say(job_of(server.post(path_of(job_id, "/cancel"))), as_json=as_json)


@jobs.command()
def retry(
    job_id: JobId,
    url: Url = None,
    config: File = None,
    header: Header = None,
    outcome: Annotated[
        str | None,
        typer.Option(metavar="OUTCOME,…", help="Only items with one of: error, cancelled, expired, unknown."),
    ] = None,
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Try again what failed in a job that has ended, as a new job.

    \b
    Examples:
      batchproxy jobs retry 0192f0c1-7c3b-7000-8000-000000000001 --outcome error,expired
    """
    with job_server(url, config, header, timeout) as server, _named(job_id):
        query = {"outcome": outcome} if outcome else None
        _say(job_of(server.post(path_of(job_id, "/retry"), query=query)), as_json=as_json)


@jobs.command()
def export(
    job_id: JobId,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", readable=False, help="Where to; - for stdout.")
    ] = Path("-"),
    url: Url = None,
    config: File = None,
    header: Header = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="OUTCOME,…", help=f"Only items with one of: {_OUTCOMES}.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on from there, at the end of the file.")
    ] = None,
    timeout: Timeout = 60.0,
) -> None:
    """Write the results of a job, in the order of its items, one in each line.

    \b
    Examples:
      batchproxy jobs export 0192f0c1-7c3b-7000-8000-000000000001 -o results.ndjson
      batchproxy jobs export 0192f0c1-7c3b-7000-8000-000000000001 --outcome error | jq .index

    A connection that breaks is made again, and it goes on where it was, for --timeout. Of a job that runs, it writes
    those that are there. If they are not all, it tells the --after to go on with later, as it does when it is
    interrupted. Exit codes: 0 all of them; 1 the file cannot be written; 4 the job still runs, or was refused; 5 no
    answer, and what is written is not all.
    """
    exported = Export(after)

    def tell() -> None:
        if exported.can_go_on:
            note(f"{counted(exported.written, 'result')}; go on with --after {escaped(exported.cursor)}")

    with job_server(url, config, header, timeout) as server, _named(job_id), exported.stoppable(tell):
        found = pages(server, job_id, outcome, after)
        try:
            # A job that is not there leaves a file as it is.
            found = chain([next(found)], found)
            if str(output) == "-":
                exported.write(sys.stdout.buffer, found)
            else:
                with output.open("wb" if after is None else "ab") as file:
                    exported.write(file, found)
        except OSError as fault:
            if str(output) == "-":
                raise
            fail(Code.FAILED, f"{escaped(output)} cannot be written: {fault.strerror}")
        except typer.Exit:
            tell()
            raise
    if exported.is_complete:
        note(counted(exported.written, "result"))
        return
    note(f"{counted(exported.written, 'result')}; the job still runs: go on with --after {escaped(exported.cursor)}")
    raise typer.Exit(int(Code.ITEM_FAILED))


# Asking


@contextmanager
def _named(job_id: str) -> Iterator[None]:
    """A job that is not there is told by its name, in whatever words the server has put it."""
    try:
        yield
    except Refused as refusal:
        if not str(refusal).startswith(_NOT_FOUND):
            raise
        told = f"{_NOT_FOUND} you have no job {escaped(job_id)}; `batchproxy jobs list` shows those that you have"
        raise Refused(told) from None


def _versions(server: JobServer, job_id: str) -> Iterator[dict[str, Any]]:
    """The job each time it is another, up to its end."""
    tag: str | None = None
    while True:
        headers = {} if tag is None else {"If-None-Match": tag}
        asked = time.monotonic()
        answer = server.get(path_of(job_id), headers=headers, wait=0 if tag is None else _WAIT)
        if answer.status_code == 304:
            # Who does not hold it back, as a server that is about to end or a cache in between, is not to be hurried.
            time.sleep(max(asked + _PAUSE - time.monotonic(), 0.0))
            continue
        job = job_of(answer)
        tag = answer.headers.get("etag")
        yield job
        if job["state"] in _ENDED:
            return


# Telling


def _say(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        data(json.dumps(job, ensure_ascii=False))
        return
    counts = [
        f"{number} {name.replace('_', ' ')}" for name, number in job["counts"].items() if number or name == "total"
    ]
    rows = [("id", job["id"]), ("state", job["state"]), ("items", ", ".join(counts))]
    names = ("created_at", "started_at", "finished_at", "deadline", "kept_until", "retry_of")
    rows += [(name.removesuffix("_at").replace("_", " "), job[name]) for name in names if job.get(name)]
    _table((), [tuple(map(escaped, row)) for row in rows])


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    counts = job["counts"]
    done = f"{_done(counts)}/{counts['total']}"
    return tuple(map(escaped, (job["id"], job["state"], done, _not_ok(counts), job["created_at"])))


def _done(counts: Mapping[str, int]) -> int:
    return counts["completed"] + _not_ok(counts)


def _not_ok(counts: Mapping[str, int]) -> int:
    """Items that have ended otherwise than well."""
    return sum(counts[name] for name in ("failed", "cancelled", "expired", "unknown"))


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(columns))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    for cells in rows:
        table.add_row(*map(Text, cells))
    console().print(table)


@contextmanager
def _progress() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on a terminal, else a line for each change of the state."""
    if Manner.is_quiet:
        yield lambda job: None
    elif sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        last: list[str] = []

        def tell_line(job: Mapping[str, Any]) -> None:
            if last != [job["state"]]:
                last[:] = [job["state"]]
                note(f"{escaped(job['state'])}: {_done(job['counts'])} of {counted(job['counts']['total'], 'item')}")

        yield tell_line


@contextmanager
def _bar() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ...observe.logs import takes_colours

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    screen = Console(
        file=sys.stderr, color_system="auto" if takes_colours(sys.stderr) else None, markup=False, highlight=False
    )
    progress = Progress(*columns, console=screen, transient=True)
    task = progress.add_task("", total=None)

    def tell(job: Mapping[str, Any]) -> None:
        progress.start()  # not before there is anything to show
        counts = job["counts"]
        failed = f", {_not_ok(counts)} not ok" if _not_ok(counts) else ""
        progress.update(
            task,
            description=f"{escaped(job['state'])}{failed}",
            total=counts["total"],
            completed=_done(counts),
            refresh=True,
        )

    try:
        yield tell
    finally:
        progress.stop()
