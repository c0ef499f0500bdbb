"""Run the tests here with coverage, then on the other supported CPythons that are present, each in its own environment.

Uses the standard library alone. Ends with the first failure, with its exit code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 11), (3, 12), (3, 13))
PYTEST = ("-m", "pytest", "--numprocesses", "2")

# Prints something only where it runs on a CPython of the version asked for that can make environments.
PROBE = """
import ensurepip, sys, venv
if sys.implementation.name == "cpython" and sys.version_info[:2] == ({}, {}):
    print(sys.executable)
"""


def main() -> None:
    os.chdir(ROOT)
    used, missing = [_name(sys.version_info[:2])], []
    _run_with_coverage()
    for version in SUPPORTED:
        if version == sys.version_info[:2]:
            continue
        interpreter = find(version)
        if interpreter is None:
            missing.append(_name(version))
            continue
        print(f"\nThe same tests on CPython {_name(version)}", flush=True)
        environment = f".venvs/{_name(version)}"
        _run(ROOT / "scripts" / "environment", environment, "test", interpreter)
        _run(f"{environment}/bin/python", *PYTEST)
        used.append(_name(version))
    print(f"Tested on CPython {', '.join(used)}; not found: {', '.join(missing) or 'none'}")


def find(version: tuple[int, int]) -> str | None:
    """The first working interpreter of that version on the PATH, else pyenv's own: its shims may refuse to work."""
    for candidate in _candidates(version):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            probe = subprocess.run(
                [candidate, "-c", PROBE.format(*version)], capture_output=True, text=True, check=False
            )
            if interpreter := probe.stdout.strip():
                return interpreter
    return None


def _candidates(version: tuple[int, int]) -> Iterator[Path]:
    for folder in os.get_exec_path():
        yield Path(folder, f"python{_name(version)}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for installed in sorted(pyenv.glob(f"versions/{_name(version)}.*")):
        yield installed / "bin" / f"python{_name(version)}"


def _run_with_coverage() -> None:
    _run(sys.executable, "-m", "coverage", "erase")
    _run(sys.executable, "-m", "coverage", "run", *PYTEST)
    _run(sys.executable, "-m", "coverage", "combine", "--quiet")
    _run(sys.executable, "-m", "coverage", "report")


def _run(*command: str | Path) -> None:
    finished = subprocess.run(command, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def _name(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    main()
