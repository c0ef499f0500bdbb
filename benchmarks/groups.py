"""Servers of several processes, and servers that are told their port: nginx with what is asked of it, and others.

Knows: processes, and how nginx is started. Must not know: what is measured.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen
from tempfile import TemporaryDirectory, TemporaryFile

from benchmarks.apps import ROOT
from benchmarks.server import Server, on_core
from benchmarks.upstreams import COMMON, MODULES, free_port

LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")


class Group(Server):
    """A server with all the processes that it has started."""

    def cpu(self) -> float:
        """User and system seconds of all threads of all of them."""
        return sum(Server(process_id, self.port).cpu() for process_id in self.process_ids())

    def process_ids(self) -> Iterator[int]:
        """The first process, and those that come of it."""
        waiting = [self.process_id]
        while waiting:
            process_id = waiting.pop()
            yield process_id
            for children in Path(f"/proc/{process_id}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())


@contextmanager
def listening(
    command: Sequence[str], port: int, *, core: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Group]:
    """Starts a server that listens on this port, on one core or on all of them; it ends with the block."""
    with TemporaryFile("w+") as said:
        with ExitStack() as placed:
            if core is not None:
                placed.enter_context(on_core(core))
            process = Popen(
                command,
                cwd=ROOT,
                stdin=DEVNULL,
                stdout=said,
                stderr=STDOUT,
                env={**os.environ, **(environment or {})},
            )
        try:
            if not _listens(port, process):
                said.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{said.read()}")
            yield Group(process.pid, port)
        finally:
            process.terminate()
            process.wait(timeout=40)


def _listens(port: int, process: "Popen[bytes]") -> bool:
    """Waits until somebody does, or the process has ended."""
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return True
    return False


@contextmanager
def nginx(
    content: str, *, workers: int = 1, core: int | None = None, lua: bool = False, **values: object
) -> Iterator[Group]:
    """nginx with these servers; `{port}` in the content is where it shall listen."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    modules = [MODULES / name for name in LUA_MODULES] if lua else []
    if program is None or not all(each.exists() for each in modules):
        raise FileNotFoundError("nginx and libnginx-mod-http-lua are needed")
    port = free_port()
    with TemporaryDirectory() as folder:
        loaded = "".join(f"load_module {each};\n" for each in modules)
        text = COMMON.format(modules=loaded, folder=folder, content=content.format(port=port, **values))
        text = text.replace("worker_processes 1;", f"worker_processes {workers};")
        if not lua:
            text = "".join(line for line in text.splitlines(keepends=True) if "lua_package" not in line)
        configuration = Path(folder, "nginx.conf")
        configuration.write_text(text)
        command = [program, "-c", str(configuration), "-e", f"{folder}/error.log"]
        with listening(command, port, core=core) as group:
            yield group
