"""`batchproxy` and `python -m batchproxy`: the command line, or what to install for it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from .server.collector import leave_alone_what_is_imported
from .server.signals import heed

_LAST_STANDARD = 2
_NEEDED = ("httptools", "httpx", "rich", "ruamel.yaml", "typer", "uvicorn", "watchfiles", "websockets")


def main() -> None:
    """Runs the command line; exits with its code."""
    heed(sys.argv[1:])
    leave_alone_what_is_imported()
    _open_standard_streams()
    missing = [name for name in _NEEDED if not _is_there(name)]
    if missing:
        print(
            f"batchproxy: the command line needs {', '.join(missing)}; to install: pip install 'batchproxy[proxy]'",
            file=sys.stderr,
        )
        raise SystemExit(1)
    from .server.cli import run

    raise SystemExit(run())


def _open_standard_streams() -> None:
    """Where one is closed, the next file that is opened would take its place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - it is open as long as the process lives
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # the package around it is missing, or it is blocked
        return False


if __name__ == "__main__":
    main()
