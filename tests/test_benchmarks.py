"""The suite of measurements: what goes wrong is told, and costs nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from batchproxy.jobs.resources.service import JobService
from batchproxy.jobs.store import StoreSettings, opened
from batchproxy.jobs.working import JobWorker, WorkSettings
from benchmarks import report
from benchmarks.instructions import Accepted, judged, libraries
from benchmarks.jobs.apps import quick
from benchmarks.jobs.in_the_app import LARGE, LINE_BYTES, large_lines
from benchmarks.jobs.workers import ended, submitted
from benchmarks.readings import QUICK, Curve, Effort, Goal, Measure, Outcome, Reading, Section
from benchmarks.results import Measured, Row, Run, row_of
from benchmarks.rounds import Ratio
from benchmarks.running import measured
from tests.documents import tables
from tests.proxy.on_a_loop import on_a_loop


def reading(row: str, figure: float = 1.0) -> Reading:
    return Reading(row=row, ratio=Ratio(middle=figure, low=figure, high=figure), detail="")


CURVE = Curve(name="growth", title="Growth", x="items", y="µs", series={"ours": [(1, 2.00001)]})


async def fails_late(effort: Effort) -> AsyncIterator[Outcome]:
    yield reading("first")
    yield CURVE
    raise ValueError("the server\nhas gone")


async def lacks_a_program(effort: Effort) -> Sequence[Outcome]:
    raise FileNotFoundError("nginx is needed")


async def has_no_goal(effort: Effort) -> Sequence[Outcome]:
    return [reading("first"), reading("of nobody")]


async def works(effort: Effort) -> Sequence[Outcome]:
    return [reading("first", 3.0), CURVE]


def run(measure: Measure) -> tuple[Measured, list[Row | Curve]]:
    """What is kept of one measurement, and what was told meanwhile."""
    goals = {"first": Goal(text="the first", at_most=2)}
    section = Section(name="section", title="Section", measures={"one": measure}, goals=goals, anywhere={"one"})
    told: list[Row | Curve] = []
    return measured(section, "one", QUICK, "quick", told.append), told


def test_rows_are_kept_with_their_goals() -> None:
    """A row has its limit and verdict, and a curve no more digits than it can answer for."""
    kept, told = run(works)
    assert [(row.row, row.text, row.limit, row.verdict) for row in kept.rows] == [
        ("first", "the first", "<= 2", "short")
    ]
    assert kept.curves[0].series == {"ours": [(1, 2.0)]}
    assert told == [*kept.rows, *kept.curves]
    assert (kept.section, kept.name, kept.effort, kept.note) == ("section", "one", "quick", "")


@pytest.mark.parametrize(
    ("measure", "rows", "note"),
    [
        (fails_late, 1, "failed, ValueError: the server has gone"),
        (has_no_goal, 1, "failed, KeyError: 'of nobody'"),
        (lacks_a_program, 0, "skipped, nginx is needed"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(measure: Measure, rows: int, note: str) -> None:
    """A measurement that cannot go on says why, and keeps what it had."""
    kept, told = run(measure)
    assert kept.note == note
    assert len(kept.rows) == rows
    assert told == [*kept.rows, *kept.curves]


def test_the_names_of_the_suite_are_clear() -> None:
    """No two measurements, and no section and a measurement of another one, have the same name."""
    pytest.importorskip("orjson", reason="what is measured beside ours is not in the test group")
    from benchmarks.sections import SECTIONS

    names = [name for section in SECTIONS for name in section.measures]
    assert len(set(names)) == len(names)
    for section in SECTIONS:
        others = {name for other in SECTIONS if other is not section for name in other.measures}
        assert section.name not in others
        assert {*section.anywhere, *section.plain_loop, *section.thorough} <= section.measures.keys()


def test_what_others_reached_is_told_beside_the_row() -> None:
    """It is kept with the row, and has a column of its own where there is any."""
    goal = Goal(text="the first", elsewhere="9 of theirs")
    row = row_of(reading("first"), goal)
    assert row.elsewhere == "9 of theirs"
    section = Section(name="section", title="Section", measures={"one": works}, goals={"first": goal}, anywhere={"one"})
    found = measured(section, "one", QUICK, "quick", lambda _: None)
    run = Run(machine={}, versions={}, measured=[replace(found, curves=())])
    [table] = tables(report.page("<!-- measured: section -->\n<!-- end -->\n", run))
    assert [line[-1] for line in table] == ["elsewhere", "9 of theirs"]


# Jobs


@pytest.mark.parametrize("items", [1, 205])
@on_a_loop
async def test_jobs_of_the_suite_are_those_of_an_endpoint(items: int, tmp_path: Path) -> None:
    """A worker that knows the jobs of an app does all items of one that the suite has put into its store."""
    assert isinstance(quick.jobs, JobService)
    settings = WorkSettings(poll=0.05, concurrency=64)
    async with opened(StoreSettings(url=f"sqlite:///{tmp_path}/jobs.db")) as store:
        async with JobWorker(store, quick.jobs.kinds, settings):
            job = await ended(store, await submitted(store, items))
        assert (job.counts.ok, job.owner) == (items, "ann")
        page = await store.results.in_order(job.id, "ann", limit=1)
        assert len(page.results[0].body) > 800


def test_large_lines_are_as_large_as_they_are_said_to_be() -> None:
    """Their number and size are declared before they are sent."""
    first, *others = large_lines()
    assert (len(first), len(others) + 1) == (100 * LINE_BYTES, LARGE // 100)
    assert {len(line) for line in first.splitlines(keepends=True)} == {LINE_BYTES}
    assert {len(piece) for piece in others} == {len(first)}


# Instructions


def accepted(**counts: int) -> Accepted:
    return {"versions": libraries(), "counts": counts}


def test_a_count_may_grow_by_three_per_cent() -> None:
    """Up to there nothing is said, and fewer are welcome."""
    assert judged({"bare": 103, "batch": 2}, accepted(bare=100, batch=100)) == []


def test_a_count_that_grows_more_is_told() -> None:
    """Each kind that has grown too much is named with its growth."""
    assert judged({"bare": 104, "batch": 100}, accepted(bare=100, batch=100)) == ["bare takes +4.0% instructions"]


def test_other_libraries_are_named_beside_the_growth() -> None:
    """What may have caused it is told along."""
    known = accepted(bare=100)
    known["versions"]["msgspec"] = "0.0.1"
    assert judged({"bare": 104}, known)[1].startswith("accepted with msgspec 0.0.1 (here ")
    assert judged({"bare": 100}, known) == []
