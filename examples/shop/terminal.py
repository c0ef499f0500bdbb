"""Lines for a reader, cut to the width; coloured on a terminal, unless NO_COLOR is set."""

from __future__ import annotations

import os
import shutil
import sys

BOLD, DIM, GREEN, RED = "1", "2", "32", "31"

_COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def title(text: str) -> None:
    print(f"\n{_paint(text, BOLD)}\n{_paint('=' * len(text), BOLD)}", flush=True)


def heading(text: str) -> None:
    print(f"\n{_paint(text, BOLD)}\n", flush=True)


def line(text: str = "", *, colour: str = "", whole: bool = False) -> None:
    """One indented line; one that is not to be shown whole is cut to the width."""
    room = shutil.get_terminal_size((120, 24)).columns - 2
    if not whole and len(text) > room:
        text = f"{text[: room - 3]}..."
    print(f"  {_paint(text, colour)}" if text else "", flush=True)


def answer(status: int, asked: str, body: str) -> None:
    line(f"{status}  {asked}  {body}", colour=GREEN if status < 400 else RED)


def timing(seconds: float, text: str) -> None:
    line(f"{seconds * 1000:7.1f} ms  {text}")


def _paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and _COLOURED else text
