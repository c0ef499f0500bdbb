"""A site with jobs, made of real processes: the API behind, a process that takes jobs, and workers.

Knows: the command line of the product, signals. Must not know: what happens in a round, or how it is judged.
"""

import asyncio
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Protocol, TypeAlias

from benchmarks.chaos.blinded import SAYS as BLIND

ROOT = Path(__file__).resolve().parents[2]

_ADDRESS = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
_WORKS = re.compile(r'"msg":"working"')
_LOST = "lease.lost"
_CUT_OFF = re.compile(r"code=store_(full|unreachable)")
_PATIENCE = 90.0
_LOOK = 0.02
_SOON = 0.0005

_CONFIG = """
server: {{listen: "127.0.0.1:0", admin: "off", watch: false, grace: 8s, log: {{access: false, format: json}}}}
upstreams: {{api: {{url: "{upstream}", max_in_flight: 1000, max_connections: 1000}}}}
jobs:
  anonymous: true
  delivery: {delivery}
  poll: 200ms
  store: {{url: "{store}", lease: "{lease}s", wait: 2s}}
  worker: {{embedded: false, concurrency: {places}, chunks: {chunks}, poll: 500ms}}
"""


class Running(Protocol):
    """A process, as a `Popen` is one."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...


Start: TypeAlias = Callable[[Sequence[str], Path], Running]
"""Runs a module with its arguments, in the folder of the file that gets what it says."""


def command(arguments: Sequence[str], log: Path) -> Running:
    """As from a shell: with an interpreter of its own."""
    with log.open("wb") as file:
        words = [sys.executable, "-m", *arguments]
        return Popen(words, stdin=DEVNULL, stdout=DEVNULL, stderr=file, cwd=log.parent, env=_environment())


class Process:
    """One of the site, with all that it says in a file."""

    def __init__(self, process: Running, log: Path) -> None:
        self.log = log
        self._process = process

    def __repr__(self) -> str:
        return f"<Process {self.log.stem}, {'alive' if self.is_alive else self.exit_code}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """To one that has ended, nothing."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    async def freeze(self) -> None:
        """Until none of its threads runs: the signal takes a moment."""
        self.send(signal.SIGSTOP)
        async with asyncio.timeout(_PATIENCE):
            while not self._stands_still():
                await asyncio.sleep(_SOON)

    def _stands_still(self) -> bool:
        if not self.is_alive:
            raise RuntimeError(f"{self} has ended by itself")
        try:
            threads = Path(f"/proc/{self._process.pid}/task").iterdir()
            return all((each / "stat").read_text().rpartition(")")[2].split()[0] == "T" for each in threads)
        except OSError:
            return False  # a thread has ended meanwhile, so not all stand still

    def step(self, seconds: float) -> None:
        """One that is frozen runs for a moment."""
        self.thaw()
        time.sleep(seconds)
        self.send(signal.SIGSTOP)
        while not self._stands_still():
            time.sleep(_SOON)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait(_PATIENCE)

    async def ended(self) -> int:
        """Its exit code."""
        async with asyncio.timeout(_PATIENCE):
            while (code := self._process.poll()) is None:
                await asyncio.sleep(_LOOK)
        return code

    async def says(self, what: re.Pattern[str]) -> re.Match[str]:
        async with asyncio.timeout(_PATIENCE):
            while not (found := what.search(self.log.read_text("utf-8", "replace"))):
                if not self.is_alive:
                    raise RuntimeError(f"{self.log.stem} has ended: {self.log.read_text('utf-8', 'replace')[-2000:]}")
                await asyncio.sleep(_LOOK)
        return found

    def limit_files(self, size: int) -> None:
        """Its files may not grow beyond that."""
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, hard))


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """`skews` are the errors of the workers' clocks, of which there are as many; for `blind` see `blinded.py`."""

    store: str
    delivery: str
    places: int
    chunks: int
    lease: float
    skews: Sequence[float]
    blind: bool = False


class Site:
    """`async with` it: then it is up. Workers have numbers, and stay the same ones when they are started again."""

    def __init__(self, folder: Path, settings: SiteSettings, start: Start = command) -> None:
        self.ledger = folder / "arrivals"
        self.settings = settings
        self.web: Process
        self.address = ""
        self.workers: list[Process] = []
        self.turns = [asyncio.Lock() for _ in settings.skews]
        """Who does something to a worker has its turn."""
        self._folder = folder
        self._config = folder / "batchproxy.yaml"
        self._start = start
        self._all: list[Process] = []

    async def __aenter__(self) -> "Site":
        try:
            upstream = self._started("upstream", "benchmarks.chaos.upstream", str(self.ledger))
            settings = self.settings
            text = _CONFIG.format(
                upstream=(await upstream.says(_ADDRESS))[1],
                delivery=settings.delivery,
                store=settings.store,
                lease=settings.lease,
                places=settings.places,
                chunks=settings.chunks,
            )
            self._config.write_text(text, "utf-8")
            await self.start_web()
            self.workers = [self._worker(number) for number in range(len(settings.skews))]
            for worker in self.workers:
                await worker.says(_WORKS)
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for process in self._all:
            process.kill()

    async def start_web(self) -> None:
        self.web = self._started("web", "batchproxy", "serve", "--config", str(self._config))
        self.address = (await self.web.says(_ADDRESS))[1]

    async def start_worker(self, number: int) -> None:
        """In the place of one that has ended."""
        worker = self.workers[number] = self._worker(number)
        await worker.says(_WORKS)

    async def stop_workers(self) -> list[int]:
        """In an orderly way; their exit codes."""
        for worker in self.workers:
            worker.send(signal.SIGTERM)
        return [await worker.ended() for worker in self.workers]

    @property
    def processes(self) -> list[Process]:
        """Those that use the store."""
        return [self.web, *self.workers]

    @property
    def lost_leases(self) -> int:
        """How often a worker said that somebody else has its work."""
        return sum(process.log.read_text("utf-8", "replace").count(_LOST) for process in self._all)

    @property
    def acted_late(self) -> int:
        """How often a blind one went on under leases that were over."""
        return sum(process.log.read_text("utf-8", "replace").count(BLIND) for process in self._all)

    @property
    def outages(self) -> int:
        """How often one of them said that the store cannot be reached, or has no space."""
        return sum(len(_CUT_OFF.findall(process.log.read_text("utf-8", "replace"))) for process in self._all)

    @property
    def clocks_are_wrong(self) -> bool:
        """Whether each worker whose clock is to be wrong writes down such times, of which files have the right ones."""
        return all(
            abs(_last_time(worker.log) - worker.log.stat().st_mtime - skew) < abs(skew) / 2
            for worker, skew in zip(self.workers, self.settings.skews, strict=True)
            if skew
        )

    def _worker(self, number: int) -> Process:
        arguments = ["worker", "--config", str(self._config)]
        skew = self.settings.skews[number]
        if skew:
            return self._started(f"worker-{number}", "benchmarks.chaos.skewed", str(skew), *arguments)
        if self.settings.blind:
            return self._started(f"worker-{number}", "benchmarks.chaos.blinded", *arguments)
        return self._started(f"worker-{number}", "batchproxy", *arguments)

    def _started(self, name: str, module: str, *arguments: str) -> Process:
        log = self._folder / f"{name}.{len(self._all)}.log"
        process = Process(self._start([module, *arguments], log), log)
        self._all.append(process)
        return process


def _last_time(log: Path) -> float:
    line: dict[str, str] = json.loads(log.read_text("utf-8").splitlines()[-1])
    return datetime.fromisoformat(line["ts"]).timestamp()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")}
    return {**kept, "PYTHONPATH": str(ROOT)}
