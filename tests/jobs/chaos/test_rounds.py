"""A few rounds of `python -m benchmarks.chaos`, with what was drawn for them: the long form draws hundreds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.drawing import AT_MOST_ONCE, POSTGRESQL, SQLITE, Fault, Kind, Round, drawn
from benchmarks.chaos.running import run
from tests.jobs.postgresql import Cluster, cluster

from .forks import fork

ROUNDS = ((SQLITE, 103870, 0), (SQLITE, 103870, 1), (POSTGRESQL, 3530, 0))
"""Database, seed and number. Between them they have each kind of fault, both deliveries, and a wrong clock."""


def chosen(database: str, seed: int, number: int) -> Round:
    return drawn(seed, number, (database,), items=(150, 200))


@pytest.fixture(scope="module")
def durable() -> Iterator[Cluster]:
    """It is stopped as if it had crashed, and what it has said to be committed is to be there."""
    with cluster(("fsync=off", "synchronous_commit=on")) as made:
        yield made


@pytest.mark.parametrize("known", ROUNDS, ids=lambda known: f"{known[0]}-{known[2]}")
def test_a_round(known: tuple[str, int, int], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Nothing is lost, nothing comes again but what was in flight, and it comes to its end."""
    server = request.getfixturevalue("durable") if known[0] == POSTGRESQL else None
    report = asyncio.run(run(chosen(*known), server, start=fork, root=tmp_path))
    assert report.wrong == [], report
    assert not report.clock_missed
    assert report.verdict is not None
    assert report.verdict.lost == 0
    assert report.verdict.answered == report.round.total


def test_a_worker_that_does_not_see_that_it_was_frozen(tmp_path: Path) -> None:
    """What others have by then it does not begin: not for its clock says so, but since the store does not let it.

    Whether it comes to act late depends on the machine, so only what is wrong counts.
    """
    lease = 1.0
    frozen = Fault(kind=Kind.FREEZE_WORKER, at=0.2, seconds=1.4 * lease)
    blind = Round(
        number=0,
        seed=0,
        database=SQLITE,
        delivery=AT_MOST_ONCE,
        jobs=[160],
        # One of them has nothing to do, and takes over what the frozen one has.
        workers=3,
        places=4,
        lease=lease,
        skew=0.0,
        slowest=0.2,
        faults=[frozen],
        blind=True,
    )
    report = asyncio.run(run(blind, None, start=fork, root=tmp_path))
    assert report.wrong == [], report


def test_every_fault_has_its_turn() -> None:
    """Also if somebody changes how rounds are drawn."""
    rounds = [chosen(*known) for known in ROUNDS]
    assert {fault.kind for each in rounds for fault in each.faults} == set(Kind)
    assert {each.delivery for each in rounds} == {"at_most_once", "at_least_once"}
    assert any(each.skew for each in rounds)
    assert any(drawn(5, number).blind for number in range(20))


def test_a_round_can_be_drawn_again() -> None:
    """From its seed and its number; the next one is another."""
    assert drawn(5, 17) == drawn(5, 17)
    assert len({str(drawn(5, number)) for number in range(100)}) == 100
    assert {drawn(5, number).database for number in range(2)} == {SQLITE, POSTGRESQL}
