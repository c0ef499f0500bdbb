"""Which configuration a verb means: the file, or `--upstream`, and the flags above it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from .speaking import Code, escaped, fail

if TYPE_CHECKING:
    from ..config import Loaded

ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="BATCHPROXY_CONFIG",
        metavar="FILE",
        readable=False,  # not checked by typer: a file that cannot be read is told like any other that is wrong
        help="The config file. None is taken unasked, not even ./batchproxy.yaml.",
    ),
]
_VARIABLE = "BATCHPROXY_UPSTREAM"
Upstreams: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        envvar=_VARIABLE,
        metavar="URL | NAME=URL",
        help="Where requests go. Several NAME=URL: each takes the paths below /NAME, as they are.",
    ),
]
_USUAL_FILE = "batchproxy.yaml"


def loader(
    config: Path | None,
    upstreams: Sequence[str] | None,
    settings: Mapping[str, Any] | None = None,
    *,
    expected: str = "--config FILE or --upstream URL",
) -> Callable[[], Loaded]:
    """What reads the configuration, now and at each reload. Ends the program if there is nothing to read, with what the
    verb `expected`."""
    flags: dict[str, Any] = {name: value for name, value in (settings or {}).items() if value is not None}
    flags |= upstream_flags(upstreams or ())
    # Where both say the same, either is right.
    set_by = (_VARIABLE,) if os.environ.get(_VARIABLE, "").split() == list(upstreams or ()) else ()
    by_variable = any(name.upper().startswith("BATCHPROXY_UPSTREAMS__") for name in os.environ)
    if config is None and not upstreams and not by_variable:
        hint = f"; there is a {_USUAL_FILE} here: --config {_USUAL_FILE}" if Path(_USUAL_FILE).exists() else ""
        fail(Code.USAGE, f"expected {expected}{hint}")

    def load() -> Loaded:
        from .. import config as configuration

        return configuration.load(config, flags=flags, set_by=set_by)

    return load


def loaded(config: Path | None, upstreams: Sequence[str] | None = None) -> Loaded:
    """The configuration. Ends the program if it is not right."""
    load = loader(config, upstreams)
    from ..config import ConfigErrors

    try:
        return load()
    except ConfigErrors as errors:
        typer.echo(str(errors), err=True)
        raise typer.Exit(int(Code.BAD_CONFIGURATION)) from None


def upstream_flags(given: Sequence[str]) -> dict[str, Any]:
    """`--upstream`, as the keys that it stands for."""
    named: dict[str, str] = {}
    for text in given:
        name, equals, url = text.partition("=")
        if not equals or ":" in name or "/" in name:
            name, url = "default", text
        if name in named:
            fail(Code.USAGE, f"--upstream {escaped(name)} is there twice; expected NAME=URL with different names")
        named[name] = url
    flags: dict[str, Any] = {f"upstreams.{name}.url": url for name, url in named.items()}
    if len(named) > 1:
        flags["routes"] = [{"path": "/" if name == "default" else f"/{name}", "upstream": name} for name in named]
    return flags
