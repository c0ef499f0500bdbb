"""How verbs speak: data to stdout, talk to stderr, and how they end.

Knows: exit codes, terminals, what must not reach one. Must not know: what the verbs do.
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console


class Code(IntEnum):
    """Exit codes."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    ITEM_FAILED = 4
    NO_ANSWER = 5
    BAD_CONFIGURATION = 78  # EX_CONFIG of sysexits.h


class Manner:
    """How this run speaks; set once by the flags before the verb."""

    is_quiet = False
    is_verbose = False
    has_colour = True


def escaped(text: object) -> str:
    """Text from outside, with what a terminal would obey spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in str(text))


def data(text: str) -> None:
    """What was asked for."""
    typer.echo(text)


def note(text: str) -> None:
    """Talk."""
    if not Manner.is_quiet:
        typer.echo(text, err=True)


def fail(code: Code, text: str) -> NoReturn:
    """The last word."""
    typer.echo(f"batchproxy: {text}", err=True)
    raise typer.Exit(int(code))


def console(stream: TextIO | None = None) -> Console:
    """For tables; coloured only on a terminal."""
    from rich.console import Console

    stream = stream or sys.stdout
    is_terminal = stream.isatty()
    is_coloured = is_terminal and Manner.has_colour and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        force_terminal=is_terminal,
        color_system="auto" if is_coloured else None,
        width=None if is_terminal else 1000,
        markup=False,
        emoji=False,
        highlight=False,
    )
