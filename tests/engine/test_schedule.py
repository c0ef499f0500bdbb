"""`Schedule`: which items may start, in what order, and which never will. No event loop is needed to see it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from batchproxy import Batch, Caller, Execution, Failure, Item, OnError, Options, Result
from batchproxy.engine.errors import Invalid
from batchproxy.engine.model import SAFE_METHODS
from batchproxy.engine.schedule import Schedule

PARALLEL, ORDERED, SEQUENTIAL = Execution.PARALLEL, Execution.ORDERED_WRITES, Execution.SEQUENTIAL
CONTINUE, STOP = OnError.CONTINUE, OnError.STOP


def batch_of(rows: Sequence[str], execution: Execution = PARALLEL, on_error: OnError = CONTINUE) -> Batch:
    """Each row is a method, and behind it the indexes of the items that it waits for: `GET 0 2`."""
    items = tuple(
        Item(index, method, b"/", after=tuple(map(int, after)))
        for index, (method, *after) in enumerate(map(str.split, rows))
    )
    return Batch("b", "native", items, Caller("r"), Options(execution, on_error))


def schedule_of(*rows: str, execution: Execution = PARALLEL, on_error: OnError = CONTINUE) -> Schedule:
    return Schedule(batch_of(rows, execution, on_error))


def take_all(schedule: Schedule) -> list[int]:
    taken: list[int] = []
    while (index := schedule.take()) is not None:
        taken.append(index)
    return taken


def settle(schedule: Schedule, index: int, status: int = 200) -> dict[int, Failure | None]:
    """Settles an item; which others will not run because of it, and why."""
    return {result.index: result.failure for result in schedule.settle(Result(index, status))}


# Ready order


@pytest.mark.parametrize("execution", [PARALLEL, ORDERED])
def test_what_waits_for_nothing_starts_in_request_order(execution: Execution) -> None:
    """Items without dependencies start at once, in request order."""
    schedule = schedule_of("GET", "GET", "GET", execution=execution)
    assert take_all(schedule) == [0, 1, 2]
    assert schedule.take() is None


def test_an_empty_batch_has_nothing_to_start() -> None:
    """A batch without items has nothing to start and nothing to settle."""
    schedule = schedule_of()
    assert (schedule.take(), schedule.unsettled) == (None, 0)


def test_a_dependant_waits_for_all_it_depends_on() -> None:
    """An item with two dependencies starts when the second one has ended, not when the first has."""
    schedule = schedule_of("GET", "GET", "GET 0 1")
    assert take_all(schedule) == [0, 1]
    assert settle(schedule, 1) == {}
    assert schedule.take() is None
    assert settle(schedule, 0) == {}
    assert take_all(schedule) == [2]


def test_the_first_in_request_order_goes_first_among_freed_and_waiting() -> None:
    """The next one is the first item in request order that may start, whether it waited for another or not."""
    schedule = schedule_of("GET", "GET 0", "GET", "GET 0", "GET")
    assert schedule.take() == 0
    assert schedule.take() == 2
    settle(schedule, 0)
    assert take_all(schedule) == [1, 3, 4]


def test_an_item_may_wait_for_a_later_one() -> None:
    """A dependency on a later item turns the order round."""
    schedule = schedule_of("GET 2", "GET 0", "GET")
    order = []
    while (index := schedule.take()) is not None:
        order.append(index)
        settle(schedule, index)
    assert order == [2, 0, 1]


def test_a_dependency_that_is_named_twice_counts_once_or_twice_but_is_met() -> None:
    """Naming a dependency twice does not keep an item waiting."""
    schedule = schedule_of("GET", "GET 0 0")
    assert take_all(schedule) == [0]
    settle(schedule, 0)
    assert take_all(schedule) == [1]


# Modes


def test_ordered_writes_keep_writes_apart_and_let_reads_pass() -> None:
    """One write at a time, in request order; safe methods start beside it."""
    schedule = schedule_of("POST", "GET", "PUT", "HEAD", "DELETE", "OPTIONS", execution=ORDERED)
    assert take_all(schedule) == [0, 1, 3, 5]
    settle(schedule, 1)
    assert schedule.take() is None
    settle(schedule, 0)
    assert take_all(schedule) == [2]
    settle(schedule, 2, 500)
    assert take_all(schedule) == [4]


def test_ordered_writes_take_the_first_write_whose_dependencies_are_met() -> None:
    """A write that waits for a read does not hold back the writes behind it."""
    schedule = schedule_of("GET", "POST 0", "PUT", "GET 2", execution=ORDERED)
    assert take_all(schedule) == [0, 2]
    settle(schedule, 0)
    assert schedule.take() is None
    settle(schedule, 2)
    assert take_all(schedule) == [1, 3]


def test_sequential_is_one_at_a_time() -> None:
    """In sequential mode nothing starts while anything runs, safe or not."""
    schedule = schedule_of("GET", "POST", "GET", execution=SEQUENTIAL)
    for index in range(3):
        assert take_all(schedule) == [index]
        settle(schedule, index, 500)
    assert (schedule.take(), schedule.unsettled) == (None, 0)


def test_sequential_takes_the_first_whose_dependencies_are_met() -> None:
    """In sequential mode an item that waits for a later one is passed over, and is next as soon as it may start."""
    schedule = schedule_of("GET 2", "GET", "GET", "GET", execution=SEQUENTIAL)
    order = []
    while (index := schedule.take()) is not None:
        order.append(index)
        settle(schedule, index)
    assert order == [1, 2, 0, 3]


# Failure, stop, abandon


def test_a_failed_item_dooms_what_waits_for_it_and_nothing_else() -> None:
    """Dependants of a failed item, and theirs, will not run; each is given once, with the reason."""
    schedule = schedule_of("GET", "GET 0", "GET 1 0", "GET", "GET 3 1")
    assert take_all(schedule) == [0, 3]
    skipped = schedule.settle(Result(0, 404))
    assert [(each.index, each.failure, each.status) for each in skipped] == [
        (1, Failure.DEPENDENCY_FAILED, 424),
        (2, Failure.DEPENDENCY_FAILED, 424),
        (4, Failure.DEPENDENCY_FAILED, 424),
    ]
    assert schedule.unsettled == 1
    assert settle(schedule, 3) == {}
    assert (schedule.take(), schedule.unsettled) == (None, 0)


def test_the_reason_names_the_item_that_failed() -> None:
    """Why an item was not run names the one it waited for: by its id, or else by its index."""
    items = (Item(0, "GET", b"/", id="login"), Item(1, "GET", b"/", after=(0,)), Item(2, "GET", b"/", after=(1,)))
    schedule = Schedule(Batch("b", "native", items, Caller("r")))
    schedule.take()
    assert [each.detail for each in schedule.settle(Result(0, 500))] == [
        "Item `login` did not succeed.",
        "Item 1 did not succeed.",
    ]


@pytest.mark.parametrize(("status", "frees"), [(200, True), (304, True), (399, True), (400, False), (599, False)])
def test_a_status_below_400_frees_dependants(status: int, frees: bool) -> None:
    """What ended below 400 frees what waits for it; from 400 on it dooms it."""
    schedule = schedule_of("GET", "GET 0")
    schedule.take()
    assert settle(schedule, 0, status) == ({} if frees else {1: Failure.DEPENDENCY_FAILED})
    assert schedule.take() == (1 if frees else None)


@pytest.mark.parametrize("execution", Execution)
def test_stop_leaves_what_runs_and_starts_nothing_more(execution: Execution) -> None:
    """With `stop` the first failure ends what has not begun; dependants are told of their dependency, others of it."""
    schedule = schedule_of("GET", "GET 0", "GET", "POST", execution=execution, on_error=STOP)
    running = take_all(schedule)
    skipped = settle(schedule, 0, 500)
    expected = {index: Failure.STOPPED for index in (2, 3) if index not in running}
    assert skipped == {1: Failure.DEPENDENCY_FAILED} | expected
    assert schedule.take() is None
    for index in running[1:]:
        assert settle(schedule, index) == {}
    assert schedule.unsettled == 0


def test_what_is_abandoned_is_given_once_in_request_order() -> None:
    """Abandoned are all that have not begun: startable, freed and waiting; a second time there are none left."""
    schedule = schedule_of("GET", "POST", "PUT", "GET 0", "DELETE 0", "GET 3", execution=ORDERED)
    assert schedule.take() == 0
    settle(schedule, 0)
    assert schedule.take() == 1
    left = schedule.abandon(Failure.NOT_STARTED, "too late")
    assert [(each.index, each.failure, each.detail) for each in left] == [
        (index, Failure.NOT_STARTED, "too late") for index in (2, 3, 4, 5)
    ]
    assert schedule.abandon(Failure.NOT_STARTED, "too late") == []
    assert (schedule.take(), schedule.unsettled) == (None, 1)
    assert settle(schedule, 1) == {}
    assert (schedule.take(), schedule.unsettled) == (None, 0)


def test_what_runs_when_the_rest_is_abandoned_dooms_nothing_twice() -> None:
    """Dependants of a running item that were abandoned are not given again, whether it fails or succeeds."""
    for status in (200, 500):
        schedule = schedule_of("GET", "GET 0", "GET 1")
        schedule.take()
        assert len(schedule.abandon(Failure.NOT_STARTED, "")) == 2
        assert settle(schedule, 0, status) == {}
        assert (schedule.take(), schedule.unsettled) == (None, 0)


# Put back


@pytest.mark.parametrize("execution", Execution)
@pytest.mark.parametrize("rows", [("POST", "GET", "PUT"), ("GET", "POST", "GET"), ("GET 1", "PUT", "POST 1")])
def test_what_is_put_back_is_next_again(execution: Execution, rows: Sequence[str]) -> None:
    """An item that could not start after all is the next one again, and runs once."""
    schedule, undisturbed = schedule_of(*rows, execution=execution), schedule_of(*rows, execution=execution)
    running: list[int] = []
    while schedule.unsettled:
        index = schedule.take()
        if index is not None:
            schedule.put_back(index)
            assert schedule.take() == index
        assert index == undisturbed.take()
        if index is not None:
            running.append(index)
            continue
        done = running.pop(0)
        assert settle(schedule, done) == settle(undisturbed, done) == {}


def test_what_is_put_back_is_abandoned_with_the_rest() -> None:
    """An item that was put back has not begun."""
    for execution in Execution:
        schedule = schedule_of("POST", "POST", execution=execution)
        index = schedule.take()
        assert index == 0
        schedule.put_back(index)
        assert [each.index for each in schedule.abandon(Failure.STOPPED, "")] == [0, 1]
        assert schedule.unsettled == 0


# Cycles and depth


@pytest.mark.parametrize(
    ("rows", "spelled"),
    [
        (["GET 0"], "0 → 0"),
        (["GET 1", "GET 0"], "0 → 1 → 0"),
        (["GET 2", "GET 0", "GET 1"], "0 → 2 → 1 → 0"),
        (["GET", "GET 0 3", "GET 1", "GET 2"], "1 → 3 → 2 → 1"),
        (["GET 1", "GET 2", "GET 1"], "1 → 2 → 1"),
    ],
)
def test_a_cycle_is_spelled_out_from_its_first_item(rows: list[str], spelled: str) -> None:
    """A cycle is spelled in the direction of waiting, from its first item; what only waits for it is left out."""
    with pytest.raises(Invalid, match=re.escape(f"Items wait for each other: {spelled}.")) as caught:
        Schedule(batch_of(rows))
    assert caught.value.code == "dependency_cycle"
    assert caught.value.pointer == f"/requests/{spelled[0]}/depends_on"


@pytest.mark.parametrize(("length", "accepted"), [(1, True), (4, True), (5, False), (50, False)])
def test_a_chain_may_be_as_long_as_allowed(length: int, accepted: bool) -> None:
    """With a depth of 3, a chain of four items is accepted and one of five is not; the pointer is to the fifth."""
    batch = batch_of(["GET", *(f"GET {index}" for index in range(length - 1))])
    if accepted:
        assert Schedule(batch, max_depth=3).unsettled == length
        return
    with pytest.raises(Invalid) as caught:
        Schedule(batch, max_depth=3)
    assert (caught.value.code, caught.value.pointer) == ("invalid_batch", "/requests/4")


def test_many_items_may_wait_for_one() -> None:
    """Width is no depth: thousands of items may wait for one."""
    schedule = Schedule(batch_of(["GET", *["GET 0"] * 5000]), max_depth=1)
    schedule.take()
    settle(schedule, 0)
    assert take_all(schedule) == list(range(1, 5001))


def test_a_schedule_shows_what_it_holds() -> None:
    """Its repr tells what may start, what waits, and how much is left."""
    schedule = schedule_of("POST", "GET 0", "PUT", execution=ORDERED)
    schedule.take()
    assert repr(schedule) == "Schedule(startable=[2], waiting=[1], unsettled=3)"


# Against a model


@dataclass
class Model:
    """The rules of the protocol, written as plainly as they can be."""

    batch: Batch
    state: dict[int, str] = field(default_factory=dict)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.state = {item.index: "waiting" for item in self.batch.items}

    def in_state(self, state: str) -> list[int]:
        return [index for index, each in self.state.items() if each == state]

    def next(self) -> int | None:
        running = self.in_state("running")
        if self.batch.options.execution is SEQUENTIAL and running:
            return None
        for item in self.batch.items:
            if self.state[item.index] != "waiting" or any(self.state[each] != "succeeded" for each in item.after):
                continue
            is_held_back = self.batch.options.execution is ORDERED and any(map(self._is_write, running))
            if not (is_held_back and self._is_write(item.index)):
                return item.index
        return None

    def settle(self, index: int, status: int) -> dict[int, Failure]:
        self.state[index] = "succeeded" if status < 400 else "failed"
        if status < 400:
            return {}
        skipped: dict[int, Failure] = {}
        while doomed := [
            item.index
            for item in self.batch.items
            if self.state[item.index] == "waiting" and any(self.state[each] == "failed" for each in item.after)
        ]:
            skipped |= dict.fromkeys(doomed, Failure.DEPENDENCY_FAILED)
            self.state |= dict.fromkeys(doomed, "failed")
        return skipped | self.abandon(Failure.STOPPED) if self.batch.options.on_error is STOP else skipped

    def abandon(self, failure: Failure) -> dict[int, Failure]:
        left = self.in_state("waiting")
        self.state |= dict.fromkeys(left, "abandoned")
        return dict.fromkeys(left, failure)

    def _is_write(self, index: int) -> bool:
        return self.batch.items[index].method not in SAFE_METHODS


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A batch whose dependencies have no cycle: a random order, in which each item may wait for earlier ones."""
    order = draw(st.permutations(range(draw(st.integers(0, 9)))))
    rows: dict[int, str] = {}
    for position, index in enumerate(order):
        after = draw(st.lists(st.sampled_from(order[:position]), unique=True, max_size=3)) if position else []
        rows[index] = " ".join([draw(st.sampled_from(["GET", "HEAD", "POST", "DELETE"])), *map(str, after)])
    execution, on_error = draw(st.sampled_from(Execution)), draw(st.sampled_from(OnError))
    return batch_of([rows[index] for index in sorted(rows)], execution, on_error)


@given(batches(), st.data())
def test_every_batch_runs_as_the_model_does(batch: Batch, data: st.DataObject) -> None:
    """Whatever is taken, put back, settled and abandoned, a schedule starts and skips exactly what the rules say."""
    schedule, model = Schedule(batch), Model(batch)
    while schedule.unsettled:
        assert schedule.unsettled == len(model.in_state("waiting")) + len(model.in_state("running"))
        running = model.in_state("running")
        step = data.draw(st.sampled_from(["take"] * 6 + ["put back", "abandon"] + ["settle"] * 4 * bool(running)))
        if step in ("take", "put back"):
            index = schedule.take()
            assert index == model.next()
            if index is None:
                # Never stuck: what does not run and may not start waits for something that runs.
                assert running
                step = "settle"
            elif step == "put back":
                schedule.put_back(index)
            else:
                model.state[index] = "running"
        if step == "settle":
            index, status = data.draw(st.sampled_from(running)), data.draw(st.sampled_from([200, 399, 400, 503]))
            results = schedule.settle(Result(index, status))
            assert {each.index: each.failure for each in results} == model.settle(index, status)
            assert len({each.index for each in results}) == len(results)
        if step == "abandon" and data.draw(st.booleans()):
            left = schedule.abandon(Failure.NOT_STARTED, "")
            assert {each.index: each.failure for each in left} == model.abandon(Failure.NOT_STARTED)
    assert schedule.take() is None


@given(st.lists(st.lists(st.integers(0, 6), unique=True, max_size=3), min_size=7, max_size=7))
def test_a_cycle_is_found_exactly_where_there_is_one(edges: list[list[int]]) -> None:
    """A batch is refused if and only if it has a cycle, and the one that is spelled out is one."""

    def reaches_itself(start: int) -> bool:
        seen: set[int] = set()
        ahead = list(edges[start])
        while ahead:
            index = ahead.pop()
            if index not in seen:
                seen.add(index)
                ahead += edges[index]
        return start in seen

    rows = [" ".join(["GET", *map(str, after)]) for after in edges]
    if not any(map(reaches_itself, range(len(edges)))):
        Schedule(batch_of(rows))
        return
    with pytest.raises(Invalid, match="wait for each other") as caught:
        Schedule(batch_of(rows))
    cycle = [int(name) for name in re.findall(r"\d+", caught.value.detail)]
    assert cycle[0] == cycle[-1] == min(cycle)
    assert len(set(cycle)) == len(cycle) - 1
    assert all(after in edges[index] for index, after in pairwise(cycle))
