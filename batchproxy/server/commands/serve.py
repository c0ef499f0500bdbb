"""`batchproxy serve`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from .configured import ConfigFile, Upstreams, loader
from .speaking import Code, fail

# Their variables are those of the configuration, and read with it.
Listen: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="host:port, [v6]:port, unix:/path.sock or fd:3; 127.0.0.1:8080 unless the file says otherwise."
        " [env var: BATCHPROXY_SERVER__LISTEN]",
    ),
]
Admin: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="The admin listener: health, state, reload; or off. [env var: BATCHPROXY_SERVER__ADMIN]",
    ),
]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes; limits are per worker. [env var: BATCHPROXY_SERVER__WORKERS]"),
]
LogLevel: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", help="debug, info, warning or error. [env var: BATCHPROXY_SERVER__LOG__LEVEL]"),
]
LogFormat: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="FORMAT", help="auto, json or console. [env var: BATCHPROXY_SERVER__LOG__FORMAT]"),
]
Verbose: TypeAlias = Annotated[bool, typer.Option("--verbose", "-v", help="The same as --log-level debug.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="The same as --log-level warning.")]


def serve(
    config: ConfigFile = None,
    upstream: Upstreams = None,
    listen: Listen = None,
    admin: Admin = None,
    workers: Workers = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Stand in front of an API, in the foreground.

    \b
    Examples:
      batchproxy serve --upstream http://127.0.0.1:9000
      batchproxy serve --upstream users=http://127.0.0.1:9001 --upstream orders=http://127.0.0.1:9002
      batchproxy serve -c batchproxy.yaml --listen 0.0.0.0:8080 --workers 2

    SIGTERM ends it gracefully, SIGHUP reads the file again. A wrong configuration ends with 78.
    """
    if verbose + quiet + (log_level is not None) > 1:
        fail(Code.USAGE, "expected one of --log-level, --verbose and --quiet")
    level = "debug" if verbose else "warning" if quiet else log_level
    settings = {
        "server.listen": listen,
        "server.admin": admin,
        "server.workers": workers,
        "server.log.level": level,
        "server.log.format": log_format,
    }
    load = loader(config, upstream, settings)
    from ..config import ConfigErrors
    from ..life import serve as run

    try:
        code = run(load)
    except ConfigErrors as errors:
        typer.echo(str(errors), err=True)
        code = int(Code.BAD_CONFIGURATION)
    raise typer.Exit(code)
