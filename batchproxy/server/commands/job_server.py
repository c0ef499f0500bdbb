"""The jobs of a running server, over HTTP: what is asked there, and what comes back.

Knows: the resources of jobs, and what becomes of a question that is not answered. Must not know: terminals.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeAlias
from urllib.parse import quote, urlencode

import typer

from .addressed import USUAL_URL, url_of
from .batch_file import check_url, header as read_header, named
from .speaking import Code, escaped, fail, note

if TYPE_CHECKING:
    import httpx

    from ..settings import Config

Header: TypeAlias = Annotated[
    list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="A header, such as credentials.")
]
Timeout: TypeAlias = Annotated[float, typer.Option(min=0.01, help="Seconds without an answer.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId: TypeAlias = Annotated[str, typer.Argument(metavar="ID", help="The id of the job.")]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_SILENCE = 1.0
"""After how many seconds without an answer that is told."""


class Refused(Exception):
    """The server says no; the text is why."""


class JobServer:
    """Asks one server. What is only read is asked again for `timeout` seconds if there is no answer."""

    def __init__(self, url: str, client: httpx.Client, timeout: float) -> None:
        self.jobs = f"{url.rstrip('/')}/jobs"
        self._client = client
        self._timeout = timeout
        self._is_told = False

    def get(
        self,
        rest: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: int = 0,
    ) -> httpx.Response:
        """`wait` is for how many seconds the answer may be held back. Ends the program if there is none."""
        import httpx

        given = {"Accept": "application/json", **(headers or {})}
        if wait:
            given["Prefer"] = f"wait={wait}"
        began, pause = time.monotonic(), _FIRST_PAUSE
        until = began + self._timeout
        while True:
            try:
                answer = self._client.get(
                    self._url(rest, query),
                    headers=given,
                    timeout=httpx.Timeout(self._timeout, read=wait + self._timeout),
                )
                if answer.status_code not in (502, 503, 504) or time.monotonic() + pause > until:
                    return _checked(answer)
            except httpx.InvalidURL as fault:
                fail(Code.USAGE, f"--url {named(self.jobs)}: {escaped(fault)}")
            except httpx.HTTPError as fault:
                if time.monotonic() + pause > until:
                    self._no_answer(fault)
            if not self._is_told and time.monotonic() - began >= _SILENCE:
                self._is_told = True
                left = until - time.monotonic()
                note(f"no answer from {named(self.jobs)} yet, trying for {left:.0f} s more")
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def post(self, rest: str, *, query: Mapping[str, str] | None = None) -> httpx.Response:
        """Asked once. Ends the program if there is no answer."""
        import httpx

        try:
            return _checked(self._client.post(self._url(rest, query), headers={"Accept": "application/json"}))
        except httpx.InvalidURL as fault:
            fail(Code.USAGE, f"--url {named(self.jobs)}: {escaped(fault)}")
        except httpx.HTTPError as fault:
            self._no_answer(fault)

    def _url(self, rest: str, query: Mapping[str, str] | None) -> str:
        return f"{self.jobs}{rest}" + (f"?{urlencode(query)}" if query else "")

    def _no_answer(self, fault: Exception) -> NoReturn:
        fail(Code.NO_ANSWER, f"{named(self.jobs)}: no answer: {escaped(fault) or type(fault).__name__}")


@contextmanager
def job_server(
    url: str | None, config: Path | None, header: Sequence[str] | None, timeout: float
) -> Iterator[JobServer]:
    """Ends the program with the code that fits what went wrong."""
    where = url or (USUAL_URL if config is None else _of_config(config))
    check_url(where)
    headers = [read_header(text) for text in header or ()]
    import httpx

    # With Python's own trust, to which `SSL_CERT_FILE` adds an authority.
    with httpx.Client(trust_env=False, timeout=timeout, verify=ssl.create_default_context(), headers=headers) as client:
        try:
            yield JobServer(where, client, timeout)
        except Refused as refusal:
            fail(Code.ITEM_FAILED, f"{named(where)}: {refusal}")


def path_of(job_id: str, resource: str = "") -> str:
    return f"/{quote(job_id, safe='')}{resource}"


def job_of(answer: httpx.Response) -> dict[str, Any]:
    """Ends the program if it is none."""
    return document(answer, "id", "state", "counts")


def document(answer: httpx.Response, *members: str) -> dict[str, Any]:
    """Ends the program if the answer is not what is spoken here."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict) or any(name not in found for name in members):
        fail(Code.NO_ANSWER, f"{named(str(answer.url))}: answered {answer.status_code}, but not with jobs")
    return found


def _checked(answer: httpx.Response) -> httpx.Response:
    """Raises `Refused`."""
    if answer.is_success or answer.status_code == 304:
        return answer
    try:
        problem = json.loads(answer.content)
        known = [escaped(problem[name]) for name in ("code", "title", "detail") if problem.get(name)]
        problem["code"]
    except (ValueError, LookupError, TypeError, AttributeError):
        fail(
            Code.NO_ANSWER,
            f"{named(str(answer.url))}: answered {answer.status_code} {escaped(answer.reason_phrase)}, which is not the"
            " answer of a batch endpoint with jobs",
        )
    told = f"{answer.status_code} {': '.join(known)}"
    if answer.is_server_error:
        fail(Code.NO_ANSWER, f"{named(str(answer.url))}: {told}")
    raise Refused(told)


def _of_config(config: Path) -> str:
    def paths(found: Config) -> list[str]:
        with_jobs = [each.path for each in found.batch_endpoints if found.jobs is None or found.jobs.is_on(each.path)]
        if not with_jobs:
            told = f"none of the endpoints in {escaped(config)} has native jobs, which alone are asked for here"
            fail(Code.USAGE, told)
        return with_jobs

    return url_of(config, paths)
