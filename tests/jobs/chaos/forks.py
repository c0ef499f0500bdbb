"""Processes that are forked from one that has imported everything: an interpreter takes most of a second to begin."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.jobs import processes

for _name in (
    "batchproxy.jobs.resources",
    "batchproxy.jobs.store.migrating",
    "batchproxy.jobs.webhooks",
    "batchproxy.jobs.working",
    "batchproxy.server.cli",
    "batchproxy.server.commands.serve",
    "batchproxy.server.commands.worker",
    "batchproxy.server.jobs",
    "batchproxy.server.life",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
):
    import_module(_name)  # so that none of them has to


class Forked:
    """A process, as a `Popen` is one."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None
        return self._process.exitcode


def fork(arguments: Sequence[str], log: Path) -> Forked:
    """Runs a module with its arguments, in the folder of the file that gets what it says."""
    log.touch()
    return Forked(processes.started(_run, [*arguments], log))


def _run(arguments: list[str], log: Path) -> None:
    with log.open("wb") as file, open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(log.parent)
    for name in [name for name in os.environ if name.startswith("BATCHPROXY_")]:
        del os.environ[name]
    sys.argv = ["", *arguments[1:]]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
