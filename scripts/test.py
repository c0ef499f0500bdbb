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
SUPPORTED = ("3.11", "3.12", "3.13")
HERE = "{}.{}".format(*sys.version_info)
# More than there are cores: many tests wait for processes and sockets.
PYTEST = ("-m", "pytest", "--numprocesses", "4")

# Prints the path of the interpreter if it is a CPython of the version asked for that can make environments.
PROBE = """
import ensurepip, sys, venv
if sys.implementation.name == "cpython" and "{}.{}".format(*sys.version_info) == sys.argv[1]:
    print(sys.executable)
"""


def main() -> None:
    os.chdir(ROOT)
    # Else every test process would rewrite all tests, and each of the hundreds that tests start compile the package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    others = {version: find(version) for version in SUPPORTED if version != HERE}
    preparing = {version: prepare(version, interpreter) for version, interpreter in others.items() if interpreter}
    try:
        run_with_coverage()
        for version, preparation in preparing.items():
            run_elsewhere(version, preparation)
    finally:
        for preparation in preparing.values():
            preparation.wait()  # half an environment would be in the way of the next run
    missing = [version for version, interpreter in others.items() if not interpreter]
    print(f"Tested on CPython {', '.join([HERE, *preparing])}; not found: {', '.join(missing) or 'none'}")


def find(version: str) -> str | None:
    """The first working interpreter of that version on the PATH, else pyenv's own: its shims may refuse to work."""
    for candidate in _candidates(version):
        if candidate.is_file() and os.access(candidate, os.X_OK):
            probe = subprocess.run([candidate, "-c", PROBE, version], capture_output=True, text=True, check=False)
            if interpreter := probe.stdout.strip():
                return interpreter
    return None


def _candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        yield Path(folder, f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for installed in sorted(pyenv.glob(f"versions/{version}.*")):
        yield installed / "bin" / f"python{version}"


def environment(version: str) -> str:
    return f".venvs/{version}"


def prepare(version: str, interpreter: str) -> subprocess.Popen[str]:
    """Make the environment of another interpreter meanwhile; what is said about it is shown only if that fails."""
    command = ["scripts/environment", environment(version), "test", interpreter]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run_with_coverage() -> None:
    run(sys.executable, "-m", "coverage", "erase")
    run(sys.executable, "-m", "coverage", "run", *PYTEST)
    run(sys.executable, "-m", "coverage", "combine", "--quiet")
    run(sys.executable, "-m", "coverage", "report")


def run_elsewhere(version: str, preparation: subprocess.Popen[str]) -> None:
    said, _ = preparation.communicate()
    if preparation.returncode:
        sys.exit(said)
    print(f"\nThe same tests on CPython {version}", flush=True)
    run(f"{environment(version)}/bin/python", *PYTEST)


def run(*command: str) -> None:
    finished = subprocess.run(command, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
