"""A private PostgreSQL: a cluster in a temporary folder, on a socket of its own, gone with the block."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

PATIENCE = 60
FORGETFUL = "fsync=off"
"""With it the server forgets what was committed when the machine fails, but not when it is killed."""
FAST = (FORGETFUL, "full_page_writes=off", "synchronous_commit=off")

_DISK = Path("/tmp")  # the path of a socket must be short
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30
"""Many times what a server has here: several are there at once, and some machines have little of that place."""


class Cluster:
    """Databases are made one by one, so that tests do not see each other's."""

    def __init__(self, binaries: Path, folder: Path, user: str | None, settings: tuple[str, ...]) -> None:
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self._settings = settings
        self._numbers = count()

    def new_url(self) -> str:
        name = f"d{next(self._numbers)}"
        self._run("createdb", "--host", self._folder, "--username", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self._folder}"

    def make(self) -> None:
        self._run(
            "initdb", "--pgdata", self._data, "--auth", "trust", "--username", "postgres", "--no-sync", "--locale", "C"
        )

    def start(self) -> None:
        said = ["listen_addresses=", f"unix_socket_directories={self._folder}", "shared_buffers=32MB", *self._settings]
        options = " ".join(f"-c {each}" for each in said)
        log = self._folder / "log"
        self._run("pg_ctl", "start", "--wait", "--pgdata", self._data, "--log", log, "--options", options)

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "stop", "--wait", "--pgdata", self._data, "--mode", mode)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str | Path) -> None:
        finished = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the server inherits it, and would keep a pipe open
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            user=self._user,
            check=False,
            timeout=PATIENCE,
        )
        log = self._folder / "log"
        assert finished.returncode == 0, f"{program} {arguments}: {log.read_text() if log.exists() else ''}"


@contextmanager
def cluster(settings: tuple[str, ...] = FAST) -> Iterator[Cluster]:
    """Without the programs the test is skipped, or fails where everything has to be there."""
    found = binaries()
    if found is None:
        lacking = "PostgreSQL is not on this machine; on Debian: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    user = server_user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=_home(settings)))
    try:
        if user is not None:
            shutil.chown(folder, user)
        made = Cluster(found, folder, user, settings)
        made.make()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _home(settings: tuple[str, ...]) -> Path:
    """In memory if nothing has to outlive the machine: a database has hundreds of files, and a disk is slow at that."""
    if FORGETFUL in settings and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM:
        return _MEMORY
    return _DISK


def binaries() -> Path | None:
    """Where its programs are; None if it is not on this machine."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return versions[-1].parent if versions else None


def server_user() -> str | None:
    """Who runs what refuses to run as root; None for who runs the tests."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
