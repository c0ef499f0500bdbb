"""`batchproxy init` and `batchproxy schema`: what a new configuration begins with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .speaking import Code, data, escaped, fail, note

MINIMAL = """\
# One API at http://127.0.0.1:9000. Requests go to http://127.0.0.1:8080, batches to /batch there.
upstreams:
  api:
    url: http://127.0.0.1:9000
"""


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", readable=False, help="Where to; - for stdout.")] = Path(
        "batchproxy.yaml"
    ),
    minimal: Annotated[bool, typer.Option("--minimal", help="Only what must be there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a config file to start from, with every key and what it means.

    \b
    Examples:
      batchproxy init
      batchproxy init --minimal api.yaml
    """
    text = MINIMAL if minimal else _full()
    if str(file) == "-":
        data(text.rstrip("\n"))
        return
    try:
        with file.open("w" if force else "x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        if file.is_dir():
            fail(Code.FAILED, f"{escaped(file)} is a directory; expected the name of a file in it")
        fail(Code.FAILED, f"{escaped(file)} is there already; --force writes over it")
    except OSError as fault:
        fail(Code.FAILED, f"{escaped(file)} cannot be written: {fault.strerror}")
    note(f"{escaped(file)} written; next: batchproxy check -c {escaped(file)}")


def schema(
    kind: Annotated[
        Literal["config", "batch"], typer.Option(help="Of a config file, or of a batch and its answer.")
    ] = ("config"),
) -> None:
    """Print a JSON Schema, for editors and generators.

    \b
    Examples:
      batchproxy schema > batchproxy.schema.json
      batchproxy schema --kind batch
    """
    if kind == "config":
        from ..config import schema as made

        data(json.dumps(made(), indent=2, ensure_ascii=False))
        return
    from ...endpoint import Endpoint

    endpoint = Endpoint()
    data(json.dumps(endpoint.spoken.schema(endpoint), indent=2, ensure_ascii=False))


def _full() -> str:
    from ..configuration.reference import full

    # The schema lies beside our own example, not beside the user's file.
    lines = full().splitlines(keepends=True)
    text = "".join(line for line in lines if "yaml-language-server" not in line)
    return text.removeprefix("#\n")
