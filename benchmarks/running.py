"""Runs measurements one after another; one that fails or lacks a program is told, and the others go on.

Knows: event loops, clocks, what may go wrong. Must not know: what is measured, or where figures go.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import uvloop

from benchmarks.readings import Curve, Effort, Measure, Outcome, Reading, Section
from benchmarks.results import Measured, Row, curve_of, row_of

LONGEST_SECONDS = 1800.0  # of one measurement; it hangs, whatever it is doing


def measured(
    section: Section, name: str, effort: Effort, effort_name: str, tell: Callable[[Row | Curve], None]
) -> Measured:
    """Makes one measurement, telling each row as soon as it is there."""
    rows: list[Row] = []
    curves: list[Curve] = []

    def take(outcome: Outcome) -> None:
        if isinstance(outcome, Reading):
            rows.append(row_of(outcome, section.goals[outcome.row]))
            tell(rows[-1])
        else:
            curves.append(curve_of(outcome))
            tell(curves[-1])

    begin, note = time.monotonic(), ""
    date = datetime.now(UTC).date().isoformat()
    if sys.platform != "linux" and name not in section.anywhere:
        note = "skipped, it reads Linux's accounts of processes"
    else:
        factory = asyncio.new_event_loop if name in section.plain_loop else uvloop.new_event_loop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(_take(section.measures[name], effort, take))
        except (FileNotFoundError, ImportError) as missing:
            note = f"skipped, {missing}"
        except Exception as error:  # whatever it is, it concerns this one alone
            note = f"failed, {type(error).__name__}: {error}"
    return Measured(
        section=section.name,
        name=name,
        date=date,
        effort=effort_name,
        seconds=round(time.monotonic() - begin, 1),
        rows=rows,
        curves=curves,
        note=" ".join(note.split()),
    )


async def _take(measure: Measure, effort: Effort, take: Callable[[Outcome], None]) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        taking = measure(effort)
        if isinstance(taking, AsyncIterator):
            async for outcome in taking:
                take(outcome)
        else:
            for outcome in await taking:
                take(outcome)
