"""Section 1: which item starts when: `depends_on`, `execution`, `on_error`."""

from __future__ import annotations

import pytest

from batchproxy import BatchMiddleware

from .api import Api, answer
from .exchange import JSON, App, failures, send_batch


def slow(**seconds: float) -> dict[str, App]:
    """Routes that take as long as said; `/a` for `a=...`."""
    return {f"/{name}": answer(takes=takes) for name, takes in seconds.items()}


def starts(api: Api) -> list[tuple[float, str]]:
    return [(arrived.at, arrived.target) for arrived in api.arrived]


def ordered(api: Api) -> str:
    return "".join(arrived.target[1:] for arrived in api.arrived)


def items(*names: str, method: str = "GET") -> list[JSON]:
    return [{"id": name, "path": f"/{name}", "method": method} for name in names]


# depends_on


async def test_an_item_starts_after_those_it_depends_on() -> None:
    """`depends_on`: started only after each of these ended."""
    api = Api(slow(a=1, b=2))
    batch = [*items("a", "b"), {"path": "/c", "depends_on": ["a", "b"]}, {"path": "/d", "depends_on": ["a"]}]
    await send_batch(BatchMiddleware(api), batch)
    assert starts(api) == [(0, "/a"), (0, "/b"), (1, "/d"), (2, "/c")]


async def test_an_item_may_depend_on_a_later_one() -> None:
    """`depends_on` may name later items."""
    api = Api({"/b": answer('{"target": "/b"}', takes=1)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "depends_on": ["b"]}, {"id": "b", "path": "/b"}])
    assert starts(api) == [(0, "/b"), (1, "/a")]
    assert [entry["body"]["target"] for entry in reply.responses] == ["/a", "/b"]


@pytest.mark.parametrize(("status", "goes_on"), [(200, True), (302, True), (399, True), (400, False), (500, False)])
async def test_a_dependency_has_to_end_below_400(status: int, goes_on: bool) -> None:
    """Started only after each of these ended with a status below 400; otherwise the item is `dependency_failed`."""
    api = Api({"/a": answer(status=status)})
    reply = await send_batch(BatchMiddleware(api), [*items("a"), {"path": "/b", "depends_on": ["a"]}, {"path": "/c"}])
    assert failures(reply) == [None, None if goes_on else (424, "dependency_failed"), None]
    assert ("/b" in api.targets) is goes_on


async def test_a_failed_dependency_dooms_all_that_follow() -> None:
    """What depends on an item that was not started is not started either."""
    api = Api({"/a": answer(status=404)})
    batch = [
        {"id": "c", "path": "/c", "depends_on": ["b"]},
        {"id": "b", "path": "/b", "depends_on": ["a"]},
        *items("a", "d"),
        {"path": "/e", "depends_on": ["d"]},
    ]
    doomed = (424, "dependency_failed")
    assert failures(await send_batch(BatchMiddleware(api), batch)) == [doomed, doomed, None, None, None]
    assert sorted(api.targets) == ["/a", "/d", "/e"]


async def test_a_refused_item_fails_those_that_depend_on_it() -> None:
    """An item that the batch layer refused has ended with its status."""
    api = Api()
    batch = [{"id": "a", "path": "//a"}, {"path": "/b", "depends_on": ["a"]}]
    reply = await send_batch(BatchMiddleware(api), batch)
    assert failures(reply) == [(400, "invalid_path"), (424, "dependency_failed")]
    assert api.targets == []


async def test_a_diamond_of_dependencies_is_no_cycle() -> None:
    """Two ways to one item are no cycle; a repeated id in `depends_on` is the same dependency."""
    api = Api(slow(a=1, b=1, c=2))
    batch = [
        *items("a"),
        {"id": "b", "path": "/b", "depends_on": ["a"]},
        {"id": "c", "path": "/c", "depends_on": ["a", "a"]},
        {"id": "d", "path": "/d", "depends_on": ["b", "c"]},
    ]
    await send_batch(BatchMiddleware(api), batch)
    assert starts(api) == [(0, "/a"), (1, "/b"), (1, "/c"), (3, "/d")]


async def test_an_unknown_id_is_an_error_of_the_batch() -> None:
    """An unknown id in `depends_on` is an error of the whole batch."""
    api = Api()
    batch = [{"id": "a", "path": "/a"}, {"path": "/b", "depends_on": ["a", "x"]}]
    reply = await send_batch(BatchMiddleware(api), batch)
    status, code, pointer = reply.refusal
    assert (status, code) == (400, "unknown_id")
    assert pointer in ("/requests/1/depends_on", "/requests/1/depends_on/1")
    assert api.arrived == []


@pytest.mark.parametrize(
    ("edges", "spelled"),
    [
        ({"a": ["a"]}, ["a → a"]),
        ({"a": ["b"], "b": ["a"]}, ["a → b → a", "b → a → b"]),
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, ["a → b → c → a", "b → c → a → b", "c → a → b → c"]),
        ({"x": [], "a": ["x", "b"], "b": ["a"], "y": ["b"]}, ["a → b → a", "b → a → b"]),
    ],
)
async def test_a_cycle_is_spelled_out(edges: dict[str, list[str]], spelled: list[str]) -> None:
    """A cycle is an error of the whole batch and is spelled out (`a → b → a`)."""
    api = Api()
    batch = [{"id": name, "path": f"/{name}", "depends_on": after} for name, after in edges.items()]
    reply = await send_batch(BatchMiddleware(api), batch)
    status, code, pointer = reply.refusal
    assert (status, code) == (400, "dependency_cycle")
    assert pointer is not None
    assert pointer.startswith("/requests")
    assert any(each in reply.problem["detail"] for each in spelled)
    assert api.arrived == []


async def test_a_cycle_through_vars_is_a_cycle() -> None:
    """`vars` implies `depends_on`, also for cycles."""
    batch = [
        {"id": "a", "path": "/a/{x}", "vars": {"x": "b#/body/id"}},
        {"id": "b", "path": "/b", "depends_on": ["a"]},
    ]
    reply = await send_batch(BatchMiddleware(Api()), batch)
    assert reply.refusal[1] == "dependency_cycle"
    assert "a → b → a" in reply.problem["detail"] or "b → a → b" in reply.problem["detail"]


# execution


@pytest.mark.parametrize("options", [None, {}, {"execution": "parallel"}])
async def test_parallel_runs_everything_at_once(options: JSON) -> None:
    """`parallel`, the default: everything whose dependencies are met runs at once, whatever the method."""
    api = Api(slow(a=3, b=2, c=1))
    reply = await send_batch(BatchMiddleware(api), items("a", "b", "c", method="POST"), options=options)
    assert starts(api) == [(0, "/a"), (0, "/b"), (0, "/c")]
    assert reply.at == 3


async def test_parallel_starts_in_request_order_up_to_the_limit() -> None:
    """`parallel`: up to the concurrency limit, started in request order."""
    api = Api(slow(a=3, b=1, c=1, d=1, e=1))
    await send_batch(BatchMiddleware(api, concurrency=2), items("a", "b", "c", "d", "e"))
    assert starts(api) == [(0, "/a"), (0, "/b"), (1, "/c"), (2, "/d"), (3, "/e")]
    assert api.most_at_once == 2


async def test_parallel_starts_the_first_item_in_request_order_that_may() -> None:
    """ "Next" is always the first item in request order whose dependencies are settled."""
    api = Api(slow(a=1, b=1, c=1, d=1))
    batch = [{"id": "a", "path": "/a", "depends_on": ["c"]}, *items("b", "c", "d")]
    await send_batch(BatchMiddleware(api, concurrency=1), batch)
    assert ordered(api) == "bcad"


async def test_ordered_writes_run_one_after_another_beside_safe_methods() -> None:
    """`ordered_writes`: safe methods in parallel, the others one after another."""
    api = Api(slow(a=2, b=5, c=2, d=5, e=5, f=2))
    batch = [
        {"path": "/a", "method": "POST"},
        {"path": "/b", "method": "GET"},
        {"path": "/c", "method": "DELETE"},
        {"path": "/d", "method": "HEAD"},
        {"path": "/e", "method": "OPTIONS"},
        {"path": "/f", "method": "PATCH"},
        {"path": "/g", "method": "PUT"},
    ]
    await send_batch(BatchMiddleware(api), batch, options={"execution": "ordered_writes"})
    assert sorted(starts(api)) == [
        (0, "/a"),
        (0, "/b"),
        (0, "/d"),
        (0, "/e"),
        (2, "/c"),
        (4, "/f"),
        (6, "/g"),
    ]


async def test_ordered_writes_take_the_first_write_that_may_start() -> None:
    """`ordered_writes`: the next write is the first in request order whose dependencies are settled."""
    api = Api(slow(a=1, b=1, c=1))
    batch = [
        {"id": "a", "path": "/a", "method": "POST", "depends_on": ["c"]},
        {"id": "b", "path": "/b", "method": "POST"},
        {"id": "c", "path": "/c", "method": "POST"},
    ]
    await send_batch(BatchMiddleware(api), batch, options={"execution": "ordered_writes"})
    assert starts(api) == [(0, "/b"), (1, "/c"), (2, "/a")]


async def test_sequential_runs_one_after_another() -> None:
    """`sequential`: one after another, whatever the method."""
    api = Api(slow(a=1, b=2, c=1))
    reply = await send_batch(BatchMiddleware(api), items("a", "b", "c"), options={"execution": "sequential"})
    assert starts(api) == [(0, "/a"), (1, "/b"), (3, "/c")]
    assert reply.at == 4
    assert api.most_at_once == 1


async def test_sequential_takes_the_first_item_that_may_start() -> None:
    """`sequential`: the next one is the first in request order whose dependencies are settled."""
    api = Api(slow(a=1, b=1, c=1, d=1))
    batch = [
        {"id": "a", "path": "/a", "depends_on": ["c"]},
        {"id": "b", "path": "/b"},
        {"id": "c", "path": "/c"},
        {"id": "d", "path": "/d"},
    ]
    await send_batch(BatchMiddleware(api), batch, options={"execution": "sequential"})
    assert ordered(api) == "bcad"


async def test_a_failed_item_does_not_stop_a_sequence_by_itself() -> None:
    """`on_error` has the default `continue`, also one after another."""
    for options in ({"execution": "sequential"}, {"execution": "sequential", "on_error": "continue"}):
        api = Api({"/a": answer(status=500)})
        reply = await send_batch(BatchMiddleware(api), items("a", "b"), options=options)
        assert [entry["status"] for entry in reply.responses] == [500, 200]


@pytest.mark.parametrize(
    ("floor", "wish", "spans"),
    [
        # two writes of 1 s, then two reads of 1 s: the moments at which they start
        ("parallel", None, [0, 0, 0, 0]),
        ("parallel", "sequential", [0, 1, 2, 3]),
        ("ordered_writes", None, [0, 1, 0, 0]),
        ("ordered_writes", "parallel", [0, 1, 0, 0]),
        ("ordered_writes", "sequential", [0, 1, 2, 3]),
        ("sequential", None, [0, 1, 2, 3]),
        ("sequential", "parallel", [0, 1, 2, 3]),
        ("sequential", "ordered_writes", [0, 1, 2, 3]),
    ],
)
async def test_the_setting_is_the_floor(floor: str, wish: str | None, spans: list[float]) -> None:
    """The server's setting is the floor: a laxer wish is raised to it."""
    api = Api(slow(a=1, b=1, c=1, d=1))
    batch = [*items("a", "b", method="POST"), *items("c", "d")]
    options = {} if wish is None else {"execution": wish}
    await send_batch(BatchMiddleware(api, execution=floor), batch, options=options)
    began = {arrived.target: arrived.at for arrived in api.arrived}
    assert [began[f"/{name}"] for name in "abcd"] == spans


# on_error


async def test_stop_starts_nothing_new_after_the_first_failure() -> None:
    """`stop`: after the first item that ends with >= 400 nothing new starts, what runs finishes, the rest is 424."""
    api = Api({"/a": answer(takes=3), "/b": answer(status=404, takes=1), "/c": answer(takes=1)})
    batch = items("a", "b", "c", "d")
    reply = await send_batch(BatchMiddleware(api, concurrency=2), batch, options={"on_error": "stop"})
    assert failures(reply) == [None, None, (424, "stopped"), (424, "stopped")]
    assert [entry["status"] for entry in reply.responses] == [200, 404, 424, 424]
    assert api.targets == ["/a", "/b"]
    assert reply.json()["summary"] == {"total": 4, "succeeded": 1, "failed": 3}


@pytest.mark.parametrize(("status", "stops"), [(200, False), (304, False), (399, False), (400, True), (503, True)])
async def test_stop_counts_statuses_from_400(status: int, stops: bool) -> None:
    """`stop`: an item that ends with a status >= 400 stops the batch, another does not."""
    api = Api({"/a": answer(status=status, headers=())})
    options = {"on_error": "stop", "execution": "sequential"}
    reply = await send_batch(BatchMiddleware(api), items("a", "b"), options=options)
    assert failures(reply) == [None, (424, "stopped") if stops else None]


async def test_stop_counts_what_the_batch_layer_refuses() -> None:
    """`stop`: an item that the batch layer answers with a status >= 400 stops the batch as well."""
    api = Api()
    batch = [*items("a"), {"path": "//b"}, *items("c")]
    options = {"on_error": "stop", "execution": "sequential"}
    reply = await send_batch(BatchMiddleware(api), batch, options=options)
    assert failures(reply) == [None, (400, "invalid_path"), (424, "stopped")]
    assert api.targets == ["/a"]


async def test_stop_answers_dependants_too() -> None:
    """`stop`: the rest, dependants of the failed item included, is answered 424."""
    api = Api({"/a": answer(status=500)})
    batch = [*items("a"), {"path": "/b", "depends_on": ["a"]}, {"path": "/c"}]
    options = {"on_error": "stop", "execution": "sequential"}
    reply = await send_batch(BatchMiddleware(api), batch, options=options)
    assert [entry["status"] for entry in reply.responses] == [500, 424, 424]
    assert api.targets == ["/a"]
