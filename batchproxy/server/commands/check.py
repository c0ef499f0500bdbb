"""`batchproxy check`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

import typer

from .configured import ConfigFile, Upstreams, loader
from .speaking import Code, counted, data, escaped, note


def check(
    config: ConfigFile = None,
    upstream: Upstreams = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to each address of each upstream, and to the store of jobs.")
    ] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="Print what is in effect, with the origin of each value, secrets masked.")
    ] = False,
    format_: Annotated[
        Literal["text", "json", "github"], typer.Option("--format", help="How errors are printed: json to stdout.")
    ] = "text",
) -> None:
    """Say what is wrong with a configuration: everything, and where.

    \b
    Examples:
      batchproxy check -c batchproxy.yaml
      batchproxy check -c batchproxy.yaml --connect
      batchproxy check -c batchproxy.yaml --print > effective.yaml

    Exit codes: 0 right; 78 wrong; 1 an address, or the store of jobs, cannot be reached or used (--connect).
    """
    load = loader(config, upstream)
    from ..config import ConfigErrors, rendered, shown

    try:
        loaded = load()
    except ConfigErrors as errors:
        typer.echo(rendered(errors, format_), err=format_ == "text")
        raise typer.Exit(int(Code.BAD_CONFIGURATION)) from None
    if print_:
        data(shown(loaded).rstrip("\n"))
    elif format_ == "json":
        data("[]")
    for warning in loaded.warnings:
        note(warning)
    found = loaded.config
    counts = (len(found.upstreams), "upstream"), (len(found.all_routes), "route"), (len(found.endpoints), "endpoint")
    note("ok: " + ", ".join(counted(number, what) for number, what in counts))
    if connect:
        from .connecting import tried

        results = asyncio.run(tried(found.upstreams, None if found.jobs is None else found.jobs.store))
        for each in results:
            done = "connected" if each.then is None else f"fine; {each.then}"
            verdict = done if each.fault is None else f"failed: {escaped(each.fault)}"
            typer.echo(f"{escaped(each.name)}: {escaped(each.url)}: {verdict}", err=True)
        if any(each.fault is not None for each in results):
            raise typer.Exit(int(Code.FAILED))
