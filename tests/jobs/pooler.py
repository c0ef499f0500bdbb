"""PgBouncer before a private PostgreSQL, in transaction mode, on a socket of its own; gone with the block."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.programs import program

from .postgresql import PATIENCE, server_user

SERVERS = 2
"""Connections to the server: fewer than clients, so that one after another gets somebody else's."""
_PORT = 6432  # a part of the name of the socket


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The URL of the database through the pooler."""
    parts = urlsplit(url)
    user = server_user()
    folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"""
        [databases]
        * = host={parts.query.removeprefix("host=")} user={parts.username}
        [pgbouncer]
        auth_type = any
        pool_mode = transaction
        default_pool_size = {SERVERS}
        unix_socket_dir = {folder}
        listen_port = {_PORT}
        """.replace("        ", "")
    )
    if user is not None:
        shutil.chown(folder, user)
        shutil.chown(settings, user)
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program("pgbouncer"), settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user
            )
        try:
            _await_socket(folder / f".s.PGSQL.{_PORT}", process)
            yield f"postgresql://{parts.username}@{parts.path}?host={folder}&port={_PORT}"
        finally:
            process.terminate()
            process.wait(PATIENCE)
    finally:
        shutil.rmtree(folder)


def _await_socket(path: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, (path.parent / "log").read_text()
        assert time.monotonic() < until, "the pooler does not begin to listen"
        time.sleep(0.01)
