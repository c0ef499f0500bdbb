"""Servers that are processes of their own, and other programs of the operating system.

Knows: where programs are, and how a process takes over an open socket. Must not know: what the programs do.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.serving import PATIENCE, Server

ROOT = Path(__file__).resolve().parent.parent

# The Debian packages that have them.
PACKAGES = {
    "caddy": "caddy",
    "curl": "curl",
    "kubectl": "kubernetes-client",
    "nginx": "nginx",
    "node": "nodejs",
    "pgbouncer": "pgbouncer",
    "systemd-analyze": "systemd",
}


class Ended(Exception):
    """A server ended otherwise than it was asked to; the text is what it said."""


def program(name: str) -> str:
    """Where a program is. Without it the test is skipped, or fails where everything has to be there."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if found := shutil.which(name, path=path):
        return found
    lacking = f"{name} is not on this machine; on Debian: apt-get install {PACKAGES[name]}"
    if os.environ.get("CI"):
        pytest.fail(lacking)
    pytest.skip(lacking)


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run to the end, and keep what is said; for what must end well."""
    finished = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, check=False, timeout=PATIENCE, **options
    )
    assert isinstance(finished, subprocess.CompletedProcess)
    assert finished.returncode == 0, f"{command}: {finished.returncode}\n{finished.stdout}{finished.stderr}"
    return finished


@contextmanager
def serving(
    command: Callable[[socket.socket], Sequence[str | Path]],
    *,
    environment: Callable[[socket.socket], Mapping[str, str]] = lambda listener: MappingProxyType({}),
) -> Iterator[Server]:
    """Start a server that takes over a listening socket at a free port, and end it with the block.

    Nothing waits for the server: from now on connections queue in the socket. If it ends early, they are refused.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, tempfile.TemporaryFile("w+") as said:
        host, port = listener.getsockname()
        process = subprocess.Popen(
            [*command(listener)],
            cwd=ROOT,
            env={**os.environ, **environment(listener)},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        listener.close()
        try:
            yield Server(host=host, port=port)
        finally:
            early = process.poll()
            process.terminate()
            try:
                code = process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            if early is not None or code not in (0, -15, 143):
                raise Ended(f"{process.args!r} ended with {code}:\n{said.read()}")


@contextmanager
def batchproxy(config: str, folder: Path, **variables: str) -> Iterator[Server]:
    """The whole process, as it is started from a file of this content; without an admin listener."""
    file = folder / "batchproxy.yaml"
    file.write_text(config, "utf-8")

    def command(listener: socket.socket) -> list[str]:
        listen = f"fd:{listener.fileno()}"
        return [sys.executable, "-m", "batchproxy", "serve", "--config", str(file), "--listen", listen]

    with serving(command, environment=lambda listener: {"BATCHPROXY_SERVER__ADMIN": "off", **variables}) as server:
        yield server
