"""Programs on a real terminal, whose keys a test presses.

Knows: terminals of POSIX. Must not know: what the programs do.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import selectors
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from tests.programs import ROOT
from tests.serving import PATIENCE

# Makes its standard input the terminal that keys like Ctrl-C belong to, and becomes the command.
LAUNCHER = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
CTRL_C = b"\x03"
_BETWEEN_KEYS = 0.05


class Session:
    """A program that runs; what it said is in `seen`, by `terminal`, `stdout` and `stderr`."""

    def __init__(self, process: subprocess.Popen[bytes], ends: Mapping[str, int]) -> None:
        self.seen = dict.fromkeys(("terminal", "stdout", "stderr"), b"")
        self._process = process
        self._terminal = ends["terminal"]
        self._open = selectors.DefaultSelector()
        for name, end in ends.items():
            self._open.register(end, selectors.EVENT_READ, name)

    @property
    def terminal(self) -> str:
        """What was on the screen."""
        return self.seen["terminal"].decode().replace("\r\n", "\n")

    @property
    def everything(self) -> bytes:
        return b"".join(self.seen.values())

    def until(self, pattern: bytes) -> re.Match[bytes]:
        """Reads on until this has been said, on whatever stream."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.everything)):
            assert self._read(deadline), f"ended without {pattern!r}: {self.seen}"
        return found

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """As when the window is closed."""
        if self._terminal in self._open.get_map():  # else nobody has it open any more
            self._open.unregister(self._terminal)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), self._terminal)

    def end(self) -> int:
        """Reads to the end; the exit code, or the signal that ended it, as a negative number."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(PATIENCE)

    def end_by(self, keys: bytes) -> int:
        """Presses them over and over until it has ended; then as `end`."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline, _BETWEEN_KEYS):
            with suppress(OSError):  # it may end meanwhile
                self.type(keys)
        return self._process.wait(PATIENCE)

    def _read(self, deadline: float, patience: float = PATIENCE) -> bool:
        """Whether there is anything left to read."""
        for key, _ in self._open.select(max(min(deadline - time.monotonic(), patience), 0)):
            data = b""
            with suppress(OSError):  # where nobody has it open any more, a terminal has no end, but an error
                data = os.read(key.fd, 65536)
            self.seen[key.data] += data
            if not data:
                self._open.unregister(key.fd)
        assert time.monotonic() < deadline, f"it hangs: {self.seen}"
        return bool(self._open.get_map())


@contextmanager
def session(
    *command: str | Path,
    columns: int = 80,
    piped: tuple[str, ...] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Session]:
    """Starts a program on a terminal so many columns wide; of its output, what is `piped` goes elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
        kept.pop(name, None)
    with ExitStack() as closing:

        def opened(pair: tuple[int, int]) -> tuple[int, int]:
            closing.callback(os.close, pair[0])
            return pair

        ours, theirs = opened(pty.openpty())
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        pipes = {name: opened(os.pipe()) for name in piped}
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *map(str, command)],
            stdin=theirs,
            stdout=pipes.get("stdout", (0, theirs))[1],
            stderr=pipes.get("stderr", (0, theirs))[1],
            env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **variables},
        )
        closing.callback(_finish, process)
        for end in (theirs, *(end for _, end in pipes.values())):
            os.close(end)
        yield Session(process, {"terminal": ours, **{name: ends[0] for name, ends in pipes.items()}})


def _finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
