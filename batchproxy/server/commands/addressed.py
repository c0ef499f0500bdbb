"""Where the server of a config file is, as seen from this machine.

Knows: its listeners, paths of its endpoints, and the flags that say so. Must not know: what is asked there.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .batch_file import named
from .speaking import Code, escaped, fail

if TYPE_CHECKING:
    from ..settings import Config

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="BATCHPROXY_URL",
        help="The batch endpoint; that of --config, if it is given, or else http://127.0.0.1:8080/batch.",
    ),
]
File: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="BATCHPROXY_CONFIG",
        metavar="FILE",
        readable=False,
        help="A config file that says where. None is taken unasked.",
    ),
]
# Not by a variable: who asks often where that is set, does not want the whole file read and checked each time.
AdminFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", readable=False, help="A config file that says where. None is taken unasked."
    ),
]

USUAL_URL = "http://127.0.0.1:8080/batch"
_HERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


def url_of(config: Path, paths: Callable[[Config], list[str]]) -> str:
    """The URL of the first of these paths; ends the program if there is none."""
    from ..settings import read_listener
    from .configured import loaded

    found = loaded(config).config
    path = paths(found)[0]
    listener = read_listener("listen", found.server.listen)
    if not listener.port:
        fail(Code.USAGE, f"{escaped(config)} does not say where its server is; expected --url")
    host = _HERE.get(listener.host, f"[{listener.host}]" if ":" in listener.host else listener.host)
    scheme = "http" if found.server.tls_certificate is None else "https"
    return f"{scheme}://{host}:{listener.port}{path}"


def watching(job_id: str, url: str | None, config: Path | None, headers: Iterable[str]) -> str:
    """What to type to watch a job: where it is, and the headers that say whose, without values: they may be secret."""
    flags = ["--url", named(url)] if url else [] if config is None else ["--config", str(config)]
    flags += [word for name in headers for word in ("-H", f"{name}: …")]
    return escaped(shlex.join(["batchproxy", "jobs", "watch", job_id, *flags]))


def admin_of(config: Path, named: str | None) -> tuple[str, str | None]:
    """The admin listener, unless it is named, and its token; ends the program if there is none."""
    from ..settings import read_listener
    from .configured import loaded

    server = loaded(config).config.server
    if named is not None:
        return named, server.admin_token
    listener = None if server.admin == "off" else read_listener("admin", server.admin)
    if listener is None or not (listener.port or listener.socket):
        fail(Code.USAGE, f"{escaped(config)} does not say where its admin listener is; expected --admin")
    return server.admin, server.admin_token
