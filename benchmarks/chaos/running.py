"""One round: jobs are submitted, faults strike, all is waited for, and judged.

Knows: the order of a round. Must not know: what is drawn, how a fault is done, what is promised.
"""

import asyncio
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks.chaos.client import Client, NewJob, line
from benchmarks.chaos.drawing import SQLITE, Fault, Kind, Round
from benchmarks.chaos.ledger import Arrivals, Verdict, judged, longest_gap
from benchmarks.chaos.site import Site, SiteSettings, Start, command
from benchmarks.chaos.striking import Ground, forget_the_dead, strike
from tests.jobs.disk import small_disk
from tests.jobs.postgresql import Cluster

LONGEST_SECONDS = 120.0
"""Whoever takes longer hangs."""
_LOOK = 0.02
_DISK = 48 * 1024 * 1024
_LARGE = 0.03
"""Which part of the answers is too large for a row."""


@dataclass(kw_only=True)
class Report:
    """What became of a round. `gap` is the longest time without an arrival from the first fault on."""

    round: Round
    verdict: Verdict | None = None
    wrong: list[str] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)
    hung: bool = False
    seconds: float = 0.0
    gap: float = 0.0
    lost_leases: int = 0
    kept: str = ""

    @property
    def is_good(self) -> bool:
        return not self.wrong

    def record(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {**asdict(self), "at_risk": self.round.at_risk}


async def run(
    drawn: Round,
    server: Cluster | None,
    *,
    start: Start = command,
    root: Path | None = None,
    patience: float = LONGEST_SECONDS,
) -> Report:
    """All of it, in a folder of its own in `root`, which is kept if something went wrong, for somebody to look at."""
    report = Report(round=drawn)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{drawn.number}-", dir=root))
    began = time.monotonic()
    try:
        with _ground(drawn, folder, server) as ground:
            try:
                async with asyncio.timeout(patience):
                    await _Running(drawn, ground, report, start).run()
            except* TimeoutError:
                report.hung = True
                report.wrong.append(f"it hangs: not over after {patience:.0f} s")
            except* Exception as errors:
                report.wrong += [f"{type(error).__name__}: {error}" for error in _leaves(errors)]
            if report.wrong and ground.disk is not None:
                shutil.copytree(ground.disk, folder / "disk")
            if ground.server is not None and report.is_good:
                await _drop(ground)
    finally:
        report.seconds = time.monotonic() - began
        if report.is_good:
            shutil.rmtree(folder)
        else:
            report.kept = str(folder)
    return report


@contextmanager
def _ground(drawn: Round, folder: Path, server: Cluster | None) -> Iterator[Ground]:
    if drawn.database != SQLITE:
        assert server is not None
        yield Ground(server.new_url(), folder, server=server)
        return
    if any(fault.kind is Kind.FILL_DISK for fault in drawn.faults):
        try:
            with small_disk(_DISK) as disk:
                yield Ground(f"sqlite:///{disk}/jobs.db", folder, disk=disk)
                return
        except pytest.skip.Exception:
            pass  # only root may; then files are limited
    yield Ground(f"sqlite:///{folder}/jobs.db", folder)


async def _drop(ground: Ground) -> None:
    """A database of two hundred rounds is not kept until the end."""
    name = ground.url.partition("@/")[2].partition("?")[0]
    connection = await asyncpg.connect(ground.url.replace(f"/{name}?", "/postgres?"))
    try:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


class _Running:
    def __init__(self, drawn: Round, ground: Ground, report: Report, start: Start) -> None:
        self._round = drawn
        self._ground = ground
        self._report = report
        self._start = start
        self._began_at: list[float] = []
        self._chance = random.Random(f"{drawn.seed}/{drawn.number}/items")
        self._items: dict[str, Sequence[str]] = {}

    async def run(self) -> None:
        drawn = self._round
        settings = SiteSettings(
            store=self._ground.url,
            delivery=drawn.delivery,
            places=drawn.places,
            chunks=8,
            lease=drawn.lease,
            skews=[drawn.skew, *[0.0] * (drawn.workers - 1)],
        )
        async with Site(self._ground.folder, settings, self._start) as site, Client(site) as client:
            arrivals = Arrivals(site.ledger)
            async with asyncio.TaskGroup() as tasks:
                for fault in drawn.faults:
                    if fault.kind is not Kind.KILL_SUBMITTER:
                        tasks.create_task(self._strike_in_time(fault, site, arrivals))
                paths = await self._submitted(client, site, tasks)
                jobs = [await client.ended(path) for path in paths]
                ended = time.monotonic()
            answers = await self._answers(client, paths)
            codes = await site.stop_workers()
            again = await self._answers(client, paths)
            arrivals.look()
            report = self._report
            report.verdict = judged(
                [item for items in self._items.values() for item in items],
                arrivals.all,
                answers,
                delivery=drawn.delivery,
                at_risk=drawn.at_risk,
            )
            report.wrong += report.verdict.wrong
            report.lost_leases = site.lost_leases
            times = [arrival.at for arrival in arrivals.all]
            report.gap = longest_gap(times, min(self._began_at, default=ended), ended)
            checks: Mapping[str, bool] = {
                f"workers ended with {codes}": any(codes),
                "results have changed": again != answers,
                f"there are {await client.listed()} jobs, not {len(paths)}": await client.listed() != len(paths),
                f"jobs are {[job['state'] for job in jobs]}": any(job["state"] != "completed" for job in jobs),
            }
            report.wrong += [text for text, is_so in checks.items() if is_so]
        if drawn.database == SQLITE:
            self._check_file()

    async def _submitted(self, client: Client, site: Site, tasks: asyncio.TaskGroup) -> list[str]:
        """The paths of the jobs; the first of them may see its submitter die."""
        kills = [fault for fault in self._round.faults if fault.kind is Kind.KILL_SUBMITTER]

        async def moment(part: float) -> None:
            if kills and part >= kills[0].at:
                fault = kills.pop()
                self._began_at.append(time.monotonic())
                if part < 1.0:
                    await strike(fault, site, self._ground)
                    return
                # Somewhere between its last line and its answer.
                tasks.create_task(_later(self._chance.uniform(0.0, 0.05), fault, site, self._ground))

        async def refused(code: str) -> None:
            if code == "key_busy":
                await forget_the_dead(self._ground)

        paths = []
        for number, n in enumerate(self._round.jobs):
            name = f"job{number}"
            self._items[name] = [f"{name}/{item}" for item in range(n)]
            lines = [line(item, self._seconds(), self._size()) for item in self._items[name]]
            paths.append(await client.submitted(NewJob(key=name, lines=lines), moment, refused))
        return paths

    def _seconds(self) -> float:
        return self._chance.uniform(0.002, self._round.slowest)

    def _size(self) -> int:
        return 20_000 if self._chance.random() < _LARGE else 100

    async def _strike_in_time(self, fault: Fault, site: Site, arrivals: Arrivals) -> None:
        while arrivals.look() < fault.at * self._round.total:
            await asyncio.sleep(_LOOK)
        self._began_at.append(time.monotonic())
        if not await strike(fault, site, self._ground):
            self._report.not_done.append(str(fault))

    async def _answers(self, client: Client, paths: Sequence[str]) -> list[tuple[str, str]]:
        return [
            (self._items[f"job{number}"][index], outcome)
            for number, path in enumerate(paths)
            for index, outcome in await client.results(path)
        ]

    def _check_file(self) -> None:
        connection = sqlite3.connect(self._ground.file)
        try:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        finally:
            connection.close()
        if found != [("ok",)]:
            self._report.wrong.append(f"the file is damaged: {found[:3]}")


def _leaves(errors: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _later(seconds: float, fault: Fault, site: Site, ground: Ground) -> None:
    await asyncio.sleep(seconds)
    await strike(fault, site, ground)
