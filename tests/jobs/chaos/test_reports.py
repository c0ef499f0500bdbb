"""What is told of the chaos rounds: which faults have hit, and the table over all of them."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.chaos import table
from benchmarks.chaos.drawing import AT_LEAST_ONCE, POSTGRESQL, SQLITE, WRONG_CLOCK, Fault, Kind, Round
from benchmarks.chaos.ledger import Verdict
from benchmarks.chaos.running import Blow, Report

KILL = Fault(kind=Kind.KILL_WORKER, at=0.5)
STOP = Fault(kind=Kind.STOP_DATABASE, at=0.7, seconds=1.0)
ROUND = Round(
    number=3,
    seed=1,
    database=POSTGRESQL,
    delivery=AT_LEAST_ONCE,
    jobs=[1500],
    workers=2,
    places=8,
    lease=3.0,
    skew=600.0,
    slowest=0.1,
    faults=[KILL, STOP],
)
VERDICT = Verdict(
    accepted=1500, arrived=1500, answered=1499, lost=1, doubled=3, reruns=3, unknown=0, failed=0, wrong=["one is lost"]
)


def hit(fault: Fault, missed: str = "") -> Blow:
    return Blow(fault=fault, began=1.0, over=2.0, missed=missed)


def test_a_fault_that_has_missed_has_not_struck() -> None:
    """Nor has one that never came, or was not over when the round was."""
    report = Report(round=ROUND, blows=[hit(KILL), hit(STOP, "nobody needed the store")])
    assert report.struck == {"kill worker", WRONG_CLOCK}
    assert report.missed == [("stop database", "nobody needed the store")]
    report = Report(round=ROUND, blows=[Blow(fault=KILL, began=1.0)], clock_missed=True)
    assert report.struck == set()
    assert [kind for kind, _ in report.missed] == [WRONG_CLOCK, "kill worker", "stop database"]
    assert report.record()["missed"][2] == ("stop database", "it never came")


def test_a_kind_that_comes_twice_may_hit_once() -> None:
    """It has struck then, and is missed once."""
    twice = replace(ROUND, faults=[KILL, KILL], skew=0.0)
    report = Report(round=twice, blows=[hit(KILL, "the worker had no work"), hit(KILL)])
    assert (report.struck, report.missed) == ({"kill worker"}, [("kill worker", "the worker had no work")])


def test_what_is_late() -> None:
    """More than two seconds after the end of a lease."""
    assert not Report(round=ROUND, resumed=4.9).is_late
    assert Report(round=ROUND, resumed=5.1).is_late


def test_the_table() -> None:
    """A round counts for each fault that has hit in it, and once in all."""
    wrong = Report(round=ROUND, blows=[hit(KILL), hit(STOP, "missed")], verdict=VERDICT, wrong=["…"], resumed=1.25)
    hung = Report(round=replace(ROUND, skew=0.0), blows=[hit(KILL)], wrong=["…"], hung=True)
    calm = Report(round=replace(ROUND, database=SQLITE, skew=0.0, faults=[KILL]), verdict=replace(VERDICT, lost=0))
    head, line, *rows = ([cell.strip() for cell in row.strip("|").split("|")] for row in _lines([wrong, hung, calm]))
    assert head == list(table.HEAD)
    assert set("".join(line)) == {"-"}
    assert rows == [
        ["kill worker", "sqlite", "0", "1", "0", "0", "0", "0", "0", "0", "0", "0", "0.0 s"],
        ["kill worker", "postgresql", "2", "0", "1,500", "1,499", "1", "3", "0", "48", "1", "2", "1.2 s"],
        ["stop database", "postgresql", "0", "2", "0", "0", "0", "0", "0", "0", "0", "0", "0.0 s"],
        [WRONG_CLOCK, "postgresql", "1", "0", "1,500", "1,499", "1", "3", "0", "24", "0", "1", "1.2 s"],
        ["any", "sqlite", "1", "1", "1,500", "1,499", "0", "3", "0", "8", "0", "0", "0.0 s"],
        ["any", "postgresql", "2", "2", "1,500", "1,499", "1", "3", "0", "48", "1", "2", "1.2 s"],
    ]


def _lines(reports: list[Report]) -> list[str]:
    return table.shown(reports).splitlines()
