"""The bar: one job of 50,000 items, its only worker killed at 10, 50 and 90 %, and another one started.

Knows: what is to be reached. Must not know: how processes are made, or how the ledger judges.
"""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.client import Client, NewJob, line
from benchmarks.chaos.ledger import Arrival, Arrivals, Verdict, judged
from benchmarks.chaos.running import PATIENCE
from benchmarks.chaos.site import Site, SiteSettings
from tests.jobs.postgresql import Cluster

KILLS = (0.1, 0.5, 0.9)
PLACES = 64
_LONGEST_SECONDS = 1200.0
_LOOK = 0.01
_SECONDS = (0.005, 0.02)
"""How long the API takes for an item."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """`reruns` are items that came again because of it. Times are seconds from the kill on: until anything came, until
    the first of the lost items came again, and the last of them. `due` is when the first could come at the latest: when
    the lease was over, or, if there was no worker just then, as soon as there was one."""

    part: float
    reruns: int
    due: float
    anything: float
    resumed: float | None
    all_resumed: float | None


@dataclass(frozen=True, kw_only=True)
class Bar:
    database: str
    delivery: str
    lease: float
    seconds: float
    verdict: Verdict
    kills: Sequence[Kill]

    @property
    def wrong(self) -> list[str]:
        late = [
            f"the kill at {kill.part:.0%}: {what}"
            for kill in self.kills
            for what, is_so in {
                f"{kill.reruns} items came again, of at most {PLACES}": kill.reruns > PLACES,
                f"taken up after {kill.resumed} s, not {kill.due} s": (kill.resumed or 0.0) > kill.due + PATIENCE,
            }.items()
            if is_so
        ]
        return [*self.verdict.wrong, *late]


async def reach(database: str, delivery: str, items: int, lease: float, server: Cluster | None) -> Bar:
    """All of it, on one database. Raises `TimeoutError` if it hangs."""
    with _folder() as folder:
        url = f"sqlite:///{folder}/jobs.db" if server is None else server.new_url()
        settings = SiteSettings(store=url, delivery=delivery, places=PLACES, chunks=16, lease=lease, skews=[0.0])
        async with asyncio.timeout(_LONGEST_SECONDS), Site(folder, settings) as site, Client(site) as client:
            arrivals, absences = Arrivals(site.ledger), []
            names = [f"job/{number}" for number in range(items)]
            began = time.monotonic()
            path = await client.submitted(_job(names))
            for part in KILLS:
                while arrivals.look() < part * items:
                    await asyncio.sleep(_LOOK)
                site.workers[0].kill()
                killed = time.monotonic()
                await site.start_worker(0)
                absences.append((killed, time.monotonic()))
            await client.ended(path)
            seconds = time.monotonic() - began
            answers = [(names[index], outcome) for index, outcome in await client.results(path)]
            await site.stop_workers()
            arrivals.look()
    return Bar(
        database=database,
        delivery=delivery,
        lease=lease,
        seconds=seconds,
        verdict=judged(names, arrivals.all, answers, delivery=delivery, at_risk=len(KILLS) * PLACES),
        kills=[_told(number, absences, lease, arrivals.all) for number in range(len(KILLS))],
    )


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chaos-bar-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _job(names: Sequence[str]) -> NewJob:
    chance = random.Random(0)
    return NewJob(key="bar", lines=[line(name, chance.uniform(*_SECONDS), 100) for name in names])


def _told(number: int, absences: Sequence[tuple[float, float]], lease: float, arrivals: Sequence[Arrival]) -> Kill:
    """`absences` are the times from each kill until the next worker was there."""
    at, since = absences[number][0], absences[number - 1][0] if number else 0.0
    due = at + lease
    for left, came in absences:
        due = came if left <= due < came else due
    # What the killed worker has sent, and who else had to send again: whenever that was, perhaps after the next kill.
    sent = {arrival.item for arrival in arrivals if since < arrival.at <= at}
    after = [arrival for arrival in arrivals if arrival.at > at]
    again = [arrival.at - at for arrival in after if arrival.item in sent]
    return Kill(
        part=KILLS[number],
        reruns=len(again),
        due=due - at,
        anything=min((arrival.at - at for arrival in after), default=float("inf")),
        resumed=min(again, default=None),
        all_resumed=max(again, default=None),
    )


def shown(bar: Bar) -> str:
    """A line for the whole, one for each kill, and one for each thing that is wrong."""
    verdict = bar.verdict
    lines = [
        f"{'good' if not bar.wrong else 'WRONG'} {bar.database} {bar.delivery}: {verdict.accepted:,} accepted, "
        f"{verdict.arrived:,} arrived, {verdict.answered:,} answered, {verdict.lost} lost, {verdict.doubled} doubled, "
        f"{verdict.unknown} unknown; lease {bar.lease:g} s, {PLACES} places, {bar.seconds:.0f} s in all"
    ]
    for kill in bar.kills:
        resumed = "nothing came again"
        if kill.resumed is not None and kill.all_resumed is not None:
            resumed = f"the first after {kill.resumed:.1f} s, the last after {kill.all_resumed:.1f} s"
        again = f"{kill.reruns} came again, {resumed}"
        lines.append(f"     killed at {kill.part:.0%}: something came after {kill.anything:.1f} s; {again}")
    return "\n".join([*lines, *(f"     {text}" for text in bar.wrong)])
