"""Signals that come while the process is still getting up: by default they would kill it, or show a traceback.

Knows: signals and terminals of POSIX, which verbs live on. Must not know: how they live. Imports next to nothing, for
it comes before all that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

_LIVING = ("serve", "worker")
_came: set[int] = set()
_had_terminal = False


def heed(arguments: Sequence[str]) -> None:
    """From now on SIGTERM and Ctrl-C end those that would live on at once and in order, for they hold nothing yet, and
    SIGHUP is remembered; other verbs are ended by Ctrl-C without a word."""
    if os.name != "posix":
        return
    verb = next((each for each in arguments if not each.startswith("-")), None)
    if verb in _LIVING:
        _look_for_terminal()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
        if not is_hangup_ignored():
            signal.signal(signal.SIGHUP, _remember)
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interruptible() -> None:
    """A verb that does not live on can be interrupted, and tidies up."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hold() -> None:
    """From now on they are all remembered, for there will be things to give back."""
    _look_for_terminal()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _remember)
    if not is_hangup_ignored():
        signal.signal(signal.SIGHUP, _remember)


def taken() -> list[int]:
    """Those that came, once; whoever can act on them takes them."""
    found = sorted(_came)
    _came.clear()
    return found


def is_hangup_ignored() -> bool:
    """Whether we were started to outlive our terminal (nohup)."""
    return signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def is_terminal_closed() -> bool:
    """Whether we were started from a terminal, and it is gone."""
    return _had_terminal and not _has_terminal()


def _look_for_terminal() -> None:
    global _had_terminal
    _had_terminal = _had_terminal or (not is_hangup_ignored() and _has_terminal())


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _remember(number: int, frame: FrameType | None) -> None:
    _came.add(number)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # Remembered as well: what is raised in a callback that nobody waits for is lost.
    _came.add(number)
    raise SystemExit(0)
