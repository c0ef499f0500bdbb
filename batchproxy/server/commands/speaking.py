"""How verbs speak: data to stdout, talk to stderr, and how they end.

Knows: exit codes, terminals, what must not reach one. Must not know: what the verbs do.
"""

from __future__ import annotations

import shutil
import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

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
    INTERRUPTED = 130  # 128 and SIGINT, as shells count


class Manner:
    """How this run speaks; set once by the flags before the verb."""

    is_quiet = False
    is_verbose = False


def escaped(text: object) -> str:
    """Text from outside, with what a terminal would obey spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in str(text))


def counted(number: int, what: str) -> str:
    """`1 item`, `2 items`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def data(text: str) -> None:
    """What was asked for."""
    typer.echo(text)


def note(text: str) -> None:
    """Talk."""
    if not Manner.is_quiet:
        _say(text)


def fail(code: Code, text: str) -> NoReturn:
    """The last word."""
    _say(f"batchproxy: {text}")
    raise typer.Exit(int(code))


def _say(text: str) -> None:
    # Not by typer, which goes around whoever draws a bar there, and would have to make room.
    print(text, file=sys.stderr, flush=True)


def console() -> Console:
    """For tables on stdout; as wide as the terminal, and coloured only on one."""
    from rich.console import Console

    from ...observe.logs import takes_colours

    is_terminal = sys.stdout.isatty()
    # Asked here: rich takes every simple terminal for one of 80 columns, unless it is told both.
    width, height = shutil.get_terminal_size()
    return Console(
        file=sys.stdout,
        force_terminal=is_terminal,
        color_system="auto" if takes_colours(sys.stdout) else None,
        width=width if is_terminal else 1000,
        height=height,
        markup=False,
        emoji=False,
        highlight=False,
    )
