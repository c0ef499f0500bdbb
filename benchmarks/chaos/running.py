"""One round: jobs are submitted, faults strike, all is waited for, and judged.

Knows: the order of a round. Must not know: what is drawn, how a fault is done, what is promised.
"""

import asyncio
import random
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from benchmarks.chaos.client import Client, NewJob, line
from benchmarks.chaos.drawing import SQLITE, WRONG_CLOCK, Fault, Kind, Round
from benchmarks.chaos.ledger import Arrivals, Verdict, judged, longest_gap, longest_wait
from benchmarks.chaos.site import Site, SiteSettings, Start, command
from benchmarks.chaos.striking import Ground, forget_the_dead, strike
from tests.jobs.disk import small_disk
from tests.jobs.postgresql import Cluster

STILL_SECONDS = 120.0
"""Where nothing happens for so long, it hangs, however busy the machine is."""
LONGEST_SECONDS = 900.0
"""Whoever takes longer hangs, too."""
PATIENCE = 2.0
"""How long after the end of a lease the work under it may be taken up."""
_LOOK = 0.02
_DISK = 48 * 1024 * 1024
_LARGE = 0.03
"""Which part of the answers is too large for a row."""


@dataclass(kw_only=True)
class Blow:
    """A fault as it came: when, until when (a worker was up again, the store was back), and why it `missed`, if so."""

    fault: Fault
    began: float
    over: float | None = None
    missed: str = "it was not over"


@dataclass(kw_only=True)
class Report:
    """What became of a round. `gap` is the longest time without an arrival from the first fault on; of `resumed`, only
    what was after a fault, or before the next one, counts."""

    round: Round
    verdict: Verdict | None = None
    wrong: list[str] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    clock_missed: bool = False
    hung: bool = False
    seconds: float = 0.0
    gap: float = 0.0
    resumed: float = 0.0
    lost_leases: int = 0
    acted_late: int = 0
    kept: str = ""

    @property
    def is_good(self) -> bool:
        return not self.wrong

    @property
    def struck(self) -> set[str]:
        """The faults that have hit."""
        clock = {WRONG_CLOCK} if self.round.skew and not self.clock_missed else set()
        return clock | {blow.fault.kind.value for blow in self.blows if not blow.missed}

    @property
    def missed(self) -> list[tuple[str, str]]:
        """The faults that have not, and why."""
        clock = [(WRONG_CLOCK, "its clock was right")] if self.clock_missed else []
        came = [(blow.fault.kind.value, blow.missed) for blow in self.blows if blow.missed]
        never = Counter(fault.kind.value for fault in self.round.faults)
        never.subtract(blow.fault.kind.value for blow in self.blows)
        return [*clock, *came, *((kind, "it never came") for kind in never.elements())]

    @property
    def is_late(self) -> bool:
        """Whether work went on later than is promised: when leases are over, from when somebody is there to take it."""
        return self.resumed > self.round.lease + PATIENCE

    def record(self) -> dict[str, Any]:
        """For a line of JSON."""
        said = {"at_risk": self.round.at_risk, "struck": sorted(self.struck), "missed": self.missed}
        return {**asdict(self), **said, "late": self.is_late}


async def run(
    drawn: Round,
    server: Cluster | None,
    *,
    start: Start = command,
    root: Path | None = None,
    patience: float = STILL_SECONDS,
) -> Report:
    """All of it, in a folder of its own in `root`, which is kept if something went wrong, for somebody to look at."""
    report = Report(round=drawn)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{drawn.number}-", dir=root))
    began = time.monotonic()
    try:
        with _ground(drawn, folder, server) as ground:
            try:
                async with asyncio.timeout(LONGEST_SECONDS), asyncio.timeout(patience) as limit:
                    await _Running(drawn, ground, report, start, _Pulse(limit, patience)).run()
            except* TimeoutError:
                report.hung = True
                report.wrong.append(
                    f"it hangs: nothing new for {patience:.0f} s, or a process that does not begin or end"
                )
            except* Exception as errors:
                report.wrong += [f"{type(error).__name__}: {error}" for error in _leaves(errors)]
            if report.wrong and ground.disk is not None:
                shutil.copytree(ground.disk, folder / "disk")
            if ground.server is not None and report.is_good:
                await _drop(ground)
    finally:
        report.seconds = time.monotonic() - began
        if report.is_good or _is_cancelled():
            shutil.rmtree(folder)
        else:
            report.kept = str(folder)
    return report


def _is_cancelled() -> bool:
    """Also if an error came in between: then nobody will look."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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


class _Pulse:
    """Moves the limit on, whenever something has happened."""

    def __init__(self, limit: asyncio.Timeout, patience: float) -> None:
        self._limit = limit
        self._patience = patience

    def beat(self) -> None:
        self._limit.reschedule(asyncio.get_running_loop().time() + self._patience)

    async def watch(self, arrivals: Arrivals) -> None:
        """An item that comes again is nothing new."""
        known = -1
        while True:
            if (now := arrivals.look()) > known:
                known = now
                self.beat()
            await asyncio.sleep(_LOOK)


class _Running:
    def __init__(self, drawn: Round, ground: Ground, report: Report, start: Start, pulse: _Pulse) -> None:
        self._pulse = pulse
        self._round = drawn
        self._ground = ground
        self._report = report
        self._start = start
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
            blind=drawn.blind,
        )
        report = self._report
        async with Site(self._ground.folder, settings, self._start) as site, Client(site) as client:
            report.clock_missed = not site.clocks_are_wrong
            arrivals = Arrivals(site.ledger)
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._pulse.watch(arrivals))
                for fault in drawn.faults:
                    if fault.kind is not Kind.KILL_SUBMITTER:
                        tasks.create_task(self._strike_in_time(fault, site, arrivals))
                paths = await self._submitted(client, site, tasks)
                jobs = [await client.ended(path) for path in paths]
                ended = time.monotonic()
                watching.cancel()
            self._pulse.beat()
            for blow in report.blows:
                if blow.fault.kind is Kind.KILL_SUBMITTER and not client.cut_off:
                    blow.missed = "the job had been accepted"
            answers = await self._answers(client, paths)
            self._pulse.beat()
            codes = await site.stop_workers()
            self._pulse.beat()
            again = await self._answers(client, paths)
            arrivals.look()
            report.verdict = judged(
                [item for items in self._items.values() for item in items],
                arrivals.all,
                answers,
                delivery=drawn.delivery,
                at_risk=drawn.at_risk,
            )
            report.wrong += report.verdict.wrong
            report.lost_leases = site.lost_leases
            report.acted_late = site.acted_late
            times = [arrival.at for arrival in arrivals.all]
            began = min((blow.began for blow in report.blows), default=ended)
            report.gap = longest_gap(times, began, ended)
            report.resumed = longest_wait(times, [(blow.began, blow.over or ended) for blow in report.blows], ended)
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
            self._pulse.beat()
            if kills and part >= kills[0].at:
                fault = kills.pop()
                if part < 1.0:
                    await self._strike(fault, site)
                    return
                # Meanwhile the last line is sent.
                tasks.create_task(self._strike(fault, site))

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
        await self._strike(fault, site)

    async def _strike(self, fault: Fault, site: Site) -> None:
        blow = Blow(fault=fault, began=time.monotonic())
        self._report.blows.append(blow)
        blow.missed = await strike(fault, site, self._ground)
        blow.over = time.monotonic()

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
