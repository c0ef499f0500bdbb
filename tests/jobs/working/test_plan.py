"""Which items of a chunk may be begun, from what is known: no store, no time."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest

from batchproxy.engine.errors import Failure, Invalid
from batchproxy.engine.model import Result, failed
from batchproxy.engine.policy import Policy
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.jobs.store import Counts, ItemResult, Job, JobState, Outcome, Parked, Settled
from batchproxy.jobs.working.plan import Plan, Start, detail_of, failures_of

from .lines import Lines, get, post

OK = Settled(Outcome.OK, 200, None)
ROUTES = RouteTable([Route(upstream="a", path="/a"), Route(upstream="b", path="/b"), Route(upstream="s", serial=True)])


def job(options: Mapping[str, Any]) -> Job:
    empty = dict.fromkeys(Job.__struct_fields__)
    said = {"id": "j", "kind": "batch", "owner": "ann", "endpoint": "/batch", "options": json.dumps(options).encode()}
    return Job(**{**empty, **said, "state": JobState.RUNNING, "counts": Counts(), "total": 0})  # type: ignore[arg-type]


def plan(
    items: list[dict[str, Any]],
    *,
    settled: Mapping[int, Settled] | None = None,
    parked: Collection[Parked] = (),
    open_seqs: Collection[int] | None = None,
    policy: Policy | None = None,
    **options: Any,
) -> Plan:
    kind = Lines(_no_app, policy or Policy(max_items=1000))
    given = kind.batch(
        job({"envelope": {"options": options}}), {n: json.dumps(each).encode() for n, each in enumerate(items)}
    )
    given = msgspec.structs.replace(given, batch=given.judge.batch(given.batch))
    settled = settled or {}
    if open_seqs is None:
        open_seqs = [n for n in range(len(items)) if n not in settled]
    return Plan(
        given, "/batch", open_seqs=open_seqs, settled=settled, parked={each.seq: each for each in parked}, now=100.0
    )


async def _no_app(*_: Any) -> None:
    raise AssertionError


def begun(made: Plan, now: float = 100.0, *, without: str = "") -> list[int]:
    """All that may be begun now."""
    return [start.index for start in taken(made, now, without=without)]


def taken(made: Plan, now: float = 100.0, *, without: str = "") -> list[Start]:
    found = []
    while (start := made.next(now, lambda name: name != without)) is not None:
        found.append(start)
    return found


def codes(results: list[Result]) -> list[tuple[int, str | None]]:
    return [(each.index, each.failure) for each in results]


CHAIN = [get("/0", id="0"), get("/1", id="1", depends_on=["0"]), get("/2", depends_on=["1"]), get("/3")]


def test_nothing_is_begun_that_is_settled() -> None:
    """And whoever depends on it is free to start."""
    made = plan(CHAIN, settled={0: OK})
    assert made.fill(100.0) == []
    assert sorted(begun(made)) == [1, 3]
    assert set(made.open) == {1, 2, 3}


@pytest.mark.parametrize(
    "failure",
    [
        Settled(Outcome.ERROR, 500, None),
        Settled(Outcome.ERROR, 0, "worker_lost"),
        Settled(Outcome.UNKNOWN, 0, None),
        Settled(Outcome.CANCELLED, 0, None),
    ],
    ids=lambda each: each.outcome,
)
def test_an_earlier_failure_counts(failure: Settled) -> None:
    """Who depends on it never starts, after a restart as before it."""
    made = plan(CHAIN, settled={0: failure})
    assert codes(made.fill(100.0)) == [(1, "dependency_failed"), (2, "dependency_failed")]
    assert begun(made) == [3]


def test_an_earlier_skip_counts() -> None:
    """Of a chain that was broken, only what has no result yet gets one."""
    made = plan(CHAIN, settled={0: Settled(Outcome.ERROR, 500, None), 1: Settled(Outcome.ERROR, 424, "x")})
    assert codes(made.fill(100.0)) == [(2, "dependency_failed")]
    made = plan(CHAIN, settled={0: Settled(Outcome.ERROR, 500, None)}, on_error="stop", execution="sequential")
    assert codes(made.fill(100.0)) == [(1, "dependency_failed"), (2, "dependency_failed"), (3, "stopped")]


def test_values_of_an_earlier_answer() -> None:
    """They are taken out of the result that is kept."""
    items = [get("/0", id="0"), get("/{x}", vars={"x": "0#/body/id"}), get("/{x}", vars={"x": "0#/body/none"})]
    made = plan(items, settled={0: OK})
    assert made.sources == [0]
    made.recall([ItemResult(seq=0, outcome=Outcome.OK, status=200, headers=JSON, body=b'{"id": 7}')])
    assert codes(made.fill(100.0)) == [(2, "reference_failed")]
    [start] = taken(made)
    assert start.item.path == b"/7"
    assert plan(items, settled={0: Settled(Outcome.ERROR, 500, None)}).sources == []


JSON = ((b"content-type", b"application/json"),)


def test_what_waits_for_items_in_other_hands() -> None:
    """Is neither begun nor failed."""
    made = plan(CHAIN, open_seqs=[1, 2], settled={3: OK})
    assert made.fill(100.0) == []
    assert (begun(made), made.ready, made.next_due, set(made.open)) == ([], 0, None, {1, 2})


def test_parked_items_wait_until_they_are_due() -> None:
    """With the attempts that were made, and how many of them failed."""
    made = plan([get("/0"), get("/1")], parked=[Parked(0, 5, 7.0, detail_of(2, "503"))])
    made.fill(100.0)
    assert begun(made) == [1]
    assert (made.ready, made.next_due) == (0, 107.0)
    [start] = taken(made, 107.0)
    assert (start.seq, start.attempts, start.failures) == (0, 5, 2)
    made.park(start, 110.0)
    assert begun(made, 109.0) == []
    assert begun(made, 110.0) == [0]


def test_a_parked_item_keeps_its_turn() -> None:
    """In a sequence, and in a lane: what comes behind it waits."""
    made = plan([get("/0"), get("/1")], parked=[Parked(0, 1, 7.0)], execution="sequential")
    made.fill(100.0)
    assert begun(made) == []
    made = plan([get("/x"), get("/y"), get("/a/1")], parked=[Parked(0, 1, 7.0)], policy=Policy(routes=ROUTES))
    made.fill(100.0)
    assert begun(made) == [2]
    assert begun(made, 107.0) == [0]
    assert made.settle(Result(0, 200), 107.0) == []
    assert begun(made, 107.0) == [1]


def test_an_upstream_that_lets_nothing_in() -> None:
    """Holds up its own items alone."""
    made = plan([get("/a/0"), get("/a/1"), get("/b/2")], policy=Policy(routes=ROUTES))
    made.fill(100.0)
    assert made.upstreams == ["a", "b"]
    assert begun(made, without="a") == [2]
    assert made.upstreams == ["a"]
    assert begun(made) == [0, 1]


def test_an_item_that_was_not_begun_after_all() -> None:
    """Is the next one again; not if its result is known."""
    made = plan([get("/0"), get("/1")])
    made.fill(100.0)
    first, second = taken(made)
    made.put_back(first)
    assert begun(made) == [0]
    made.settle(Result(1, 200), 100.0)
    made.put_back(second)
    assert begun(made) == []
    assert repr(made).startswith("Plan(open=1, ready=0")


def test_a_failure_that_stops_the_batch() -> None:
    """Takes back what waits, parked items as well."""
    made = plan([get("/0"), get("/1"), get("/2"), post("/3")], parked=[Parked(1, 1, 7.0)], on_error="stop")
    made.fill(100.0)
    start = made.next(100.0, lambda name: True)
    assert start is not None
    stopped = made.settle(failed(start.index, Failure.TIMEOUT, ""), 100.0)
    assert codes(stopped) == [(1, "stopped"), (2, "stopped"), (3, "stopped")]
    made.note(stopped)
    assert not made.open


def test_a_batch_that_cannot_be_scheduled() -> None:
    """Is refused as a whole."""
    items = [get("/0", id="0", depends_on=["1"]), get("/1", id="1", depends_on=["0"])]
    with pytest.raises(Invalid):
        plan(items)


@pytest.mark.parametrize(("detail", "expected"), [("", 0), ("3 failed; timeout", 3), ("many", 0)])
def test_failures_of_earlier_attempts(detail: str, expected: int) -> None:
    """Are told in the detail of a parked item."""
    assert failures_of(detail) == expected
