"""Where the peers are installed: folders of their own in the user's cache, made on first use.

Knows: pip, npm and venv. Must not know: what is run from there.

Versions are exact, and a folder is named by what is installed in it, so a changed file makes a new one. To be rid of
all of them, remove `~/.cache/batchproxy-benchmarks`.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE, STDOUT, CalledProcessError, run

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchproxy-benchmarks"
MADE = ".made"  # written last: a folder without it is what an interrupted run left


def python() -> Path:
    """The interpreter that has Django, Kinto and their servers."""
    wanted = HERE / "requirements.txt"

    def make(folder: Path) -> None:
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(folder / "bin/python"), "-m", "pip", "install", "-r", str(wanted))

    return _made("python", wanted, make) / "bin/python"


def pyreqwest() -> Path:
    """A folder for PYTHONPATH that has pyreqwest, which nothing else of ours needs."""
    wanted = HERE / "requirements-pyreqwest.txt"

    def make(folder: Path) -> None:
        _run(sys.executable, "-m", "pip", "install", "--target", str(folder), "-r", str(wanted))

    return _made("pyreqwest", wanted, make)


def node_modules() -> Path:
    """A folder for NODE_PATH that has hapi, express and their batch plug-ins."""
    npm = program("npm")

    def make(folder: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        _run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))

    return _made("node", HERE / "package-lock.json", make) / "node_modules"


def program(name: str) -> str:
    """Where a program is that only the user can install."""
    if found := shutil.which(name):
        return found
    raise FileNotFoundError(f"{name} is needed")


def _made(name: str, wanted: Path, make: Callable[[Path], None]) -> Path:
    """The folder with what the file lists; made if it is not there."""
    stamp = sha256(wanted.read_bytes() + platform.python_version().encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{stamp}"
    if not (folder / MADE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"installing {wanted.name} into {folder}", file=sys.stderr, flush=True)
        try:
            make(folder)
        except CalledProcessError as failed:
            last = failed.stdout.strip().rpartition("\n")[2]
            raise FileNotFoundError(f"{wanted.name} could not be installed: {last}") from None
        (folder / MADE).touch()
    return folder


def _run(*command: str) -> None:
    run(command, check=True, stdout=PIPE, stderr=STDOUT, text=True)
