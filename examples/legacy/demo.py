"""The second half of the demo: the older shop as a plain server process, and batchproxy in front of it.

The proxy is the command that anybody would type, with the file that anybody would start from. Only where a port is
taken are there flags and variables beside it.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from examples.shop import terminal
from examples.shop.client import Place

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
SHOP, PROXY, ADMIN = 9000, 8080, 9090  # what config/minimal.yaml and the defaults say
PATIENCE = 30

Process: TypeAlias = subprocess.Popen[bytes]

CURL = """curl {url}/batch -H 'content-type: application/json' -d '{{"requests": [
    {{"path": "/items/1"}}, {{"method": "POST", "path": "/items", "body": {{"name": "NewItem"}}}}]}}'"""


class Failed(Exception):
    """A server did not come up."""


@contextmanager
def served() -> Iterator[tuple[list[Process], Place, Place]]:
    """Both processes, until the block ends; where the proxy is, and where the shop itself."""
    shop, proxy, admin = _free(SHOP), _free(PROXY), _free(ADMIN)
    command = ["serve", "--config", "config/minimal.yaml", "--log-level", "warning"]
    if proxy != PROXY:
        command += ["--listen", f"{HOST}:{proxy}"]
    if shop != SHOP:
        command += ["--upstream", f"legacy=http://{HOST}:{shop}"]
    variables = {"BATCHPROXY_SERVER__ADMIN": f"{HOST}:{admin}"} if admin != ADMIN else {}
    with ExitStack() as running:
        first = running.enter_context(process(["examples.legacy", *([str(shop)] if shop != SHOP else [])], {}))
        second = running.enter_context(process(["batchproxy", *command], variables))
        wait_for(first, shop)
        wait_for(second, proxy)
        yield [first, second], Place(HOST, proxy, api="", batch="/batch"), Place(HOST, shop, api="", batch="")


def introduce(processes: Sequence[Process]) -> None:
    terminal.line()
    for process in processes:
        assert isinstance(process.args, list)
        terminal.line(f"$ {shlex.join(['python', *map(str, process.args[1:])])}", whole=True)


def invite(place: Place) -> None:
    terminal.line(f"{place.url}/ in a browser: the older shop's page, through the proxy")
    terminal.line(f"{place.url}{place.batch} in a browser: the same batch endpoint, in front of it")
    terminal.line(CURL.format(url=place.url), whole=True)
    terminal.line()


@contextmanager
def process(module: Sequence[str], variables: Mapping[str, str], *, stderr: int | None = None) -> Iterator[Process]:
    """A module of Python as a process; Ctrl-C is for the demo, which ends the process."""
    started = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the access log, which would stand between the answers
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(PATIENCE)
        finally:
            started.kill()
            started.wait()


def _free(port: int) -> int:
    """The port, or another one where it is taken."""
    for number in (port, 0):
        try:
            with socket.create_server((HOST, number)) as listener:
                found: int = listener.getsockname()[1]
                if number == 0:
                    print(f"Port {port} is taken, so {found} is used.")
                return found
        except OSError:
            pass
    raise Failed("There is no free port.")


def free_port() -> int:
    """Any."""
    with socket.create_server((HOST, 0)) as listener:
        found: int = listener.getsockname()[1]
        return found


def wait_for(process: Process, port: int) -> None:
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Failed(f"{shlex.join(map(str, process.args))} does not listen at port {port}")  # type: ignore[arg-type]
