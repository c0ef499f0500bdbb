"""`batchproxy send`."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .addressed import USUAL_URL, File, Url, url_of, watching
from .batch_answer import BrokenOff, Foreign, as_it_came, job_of, taken
from .batch_file import BUFFERED, STREAMED, check_url, curl, header as read_header, named, read
from .speaking import Code, data, escaped, fail, note

if TYPE_CHECKING:
    import httpx

    from ..settings import Config


_OF_THE_BATCH = ("accept", "content-type", "idempotency-key", "prefer")
"""Headers that say nothing of whose a job is."""


def send(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", readable=False, help="A batch, or a list of items, in JSON; - for stdin.")
    ],
    url: Url = None,
    config: File = None,
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
      batchproxy send batch.json -c batchproxy.yaml
      batchproxy send batch.json --stream -H 'Authorization: Bearer TOKEN'
      batchproxy send batch.json --json | jq .summary

    With -H 'Prefer: respond-async', the id of the job that it became.

    Exit codes: 0 all items succeeded, or it became a job; 4 some item failed (status of 400 or above), or the whole
    batch was refused; 5 no answer, or none of a batch endpoint; 2 wrong usage, or the file is not a batch.
    """
    named_url = url
    url = url or (USUAL_URL if config is None else _of_config(config))
    check_url(url)
    body = read(file)
    given = [read_header(text) for text in header or ()]
    own = [("Content-Type", BUFFERED), ("Accept", STREAMED if stream else BUFFERED)]
    names = {name.lower() for name, _ in given}
    headers = [pair for pair in own if pair[0].lower() not in names] + given
    if as_curl:
        data(curl(url, headers, body, is_streamed=stream))
        return
    import httpx

    answer: httpx.Response | None = None
    try:
        with (
            # With Python's own trust, to which `SSL_CERT_FILE` adds an authority.
            httpx.Client(trust_env=False, timeout=timeout, verify=ssl.create_default_context()) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            job_id = job_of(answer)
            has_failed = job_id is None and taken(answer, _asked(body), as_json=as_json)
            if job_id is not None:
                if as_json:
                    as_it_came(answer)
                else:
                    data(escaped(job_id))
                asking = [name for name, _ in given if name.lower() not in _OF_THE_BATCH]
                note(f"it became a job; to watch it: {watching(job_id, named_url, config, asking)}")
    except httpx.InvalidURL as fault:
        fail(Code.USAGE, f"--url {named(url)}: {escaped(fault)}")
    except Foreign as answered:
        fail(Code.NO_ANSWER, f"{named(url)}: {answered}")
    except (httpx.HTTPError, BrokenOff) as fault:
        what = "no answer" if answer is None else "the answer broke off"
        fail(Code.NO_ANSWER, f"{named(url)}: {what}: {escaped(fault) or type(fault).__name__}")
    if has_failed:
        raise typer.Exit(int(Code.ITEM_FAILED))


def _of_config(config: Path) -> str:
    def paths(found: Config) -> list[str]:
        taking = [each.path for each in found.batch_endpoints]
        if not taking:
            fail(Code.USAGE, f"none of the endpoints in {escaped(config)} takes batches")
        return taking

    return url_of(config, paths)


def _asked(body: bytes) -> list[Any]:
    items = json.loads(body).get("requests")
    return items if isinstance(items, list) else []
