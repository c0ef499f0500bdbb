"""What is tried again, when, and until when; and upstreams that want a rest."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from batchproxy.engine.errors import Failure, SettingError
from batchproxy.engine.model import Headers, Item, Receive, Result, Scope, Send, failed
from batchproxy.engine.policy import Policy
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.jobs.store import JobState, Limits
from batchproxy.jobs.working import Delivery, JobWorker, WorkSettings, upstreams
from batchproxy.jobs.working.backoff import Ruling, is_repeatable, pause, retry_after, ruling
from batchproxy.jobs.working.upstreams import Gates
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.settings import CircuitBreaker, Upstream
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, Script, response, upstream

from .lines import Api, Lines, ended, get, post, quick, results, store_at, submit, until

NEVER = CircuitBreaker(consecutive_failures=10_000)
AGAIN = {"delivery": "at_least_once"}


# Decisions


@pytest.mark.parametrize(
    ("result", "flags", "repeatable", "expected"),
    [
        (Result(0, 200), "", True, Ruling.FINAL),
        (Result(0, 500), "", True, Ruling.FINAL),
        (Result(0, 404), "", True, Ruling.FINAL),
        (Result(0, 429), "", False, Ruling.REFUSED),
        (Result(0, 503), "", False, Ruling.REFUSED),
        (Result(0, 502), "", True, Ruling.FAILED),
        (Result(0, 504), "", True, Ruling.FAILED),
        (Result(0, 502), "", False, Ruling.FINAL),
        (failed(0, Failure.TIMEOUT, ""), "UT", True, Ruling.FAILED),
        (failed(0, Failure.TIMEOUT, ""), "UT", False, Ruling.FINAL),
        (failed(0, Failure.TRUNCATED, ""), "", True, Ruling.FAILED),
        (failed(0, Failure.BAD_RESPONSE, ""), "UPE", False, Ruling.FINAL),
        (failed(0, Failure.UNREACHABLE, ""), "UC", True, Ruling.FAILED),
        (failed(0, Failure.UNREACHABLE, ""), "UC", False, Ruling.FINAL),
        (failed(0, Failure.UNREACHABLE, ""), "UF", False, Ruling.REFUSED),
        (failed(0, Failure.UNREACHABLE, ""), "UF,UF", True, Ruling.REFUSED),
        (failed(0, Failure.UNREACHABLE, ""), "UC,UF", False, Ruling.FINAL),
        (failed(0, Failure.UNREACHABLE, ""), None, False, Ruling.FINAL),
        (failed(0, Failure.UPSTREAM_OVERLOADED, ""), "UO", False, Ruling.REFUSED),
        (failed(0, Failure.UPSTREAM_OVERLOADED, ""), "UC,UH", False, Ruling.FINAL),
        (failed(0, Failure.UPSTREAM_OVERLOADED, ""), "UC,UH", True, Ruling.FAILED),
        (failed(0, Failure.APP_ERROR, ""), "", True, Ruling.FINAL),
        (failed(0, Failure.RESPONSE_TOO_LARGE, ""), "", True, Ruling.FINAL),
        (failed(0, Failure.TOO_MANY_FOR_ROUTE, ""), "", True, Ruling.FINAL),
    ],
)
def test_what_is_tried_again(result: Result, flags: str | None, repeatable: bool, expected: Ruling) -> None:
    """Failures that may pass, if nothing can be done twice by it; an overload always."""
    notes = {} if flags is None else {"flags": flags}
    assert ruling(result, notes, repeatable=repeatable) is expected


@pytest.mark.parametrize(
    ("method", "delivery", "headers", "expected"),
    [
        *((method, Delivery.AT_MOST_ONCE, (), True) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")),
        *((method, Delivery.AT_MOST_ONCE, (), False) for method in ("POST", "PATCH")),
        ("POST", Delivery.AT_LEAST_ONCE, (), True),
        ("POST", Delivery.AT_MOST_ONCE, ((b"idempotency-key", b"mine"),), True),
    ],
)
def test_what_may_be_sent_again(method: str, delivery: Delivery, headers: Headers, expected: bool) -> None:
    """RFC 9110, section 9.2.2; and whoever brings a key of his own has said so."""
    assert is_repeatable(Item(0, method, b"/", headers=headers), delivery) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), None),
        (((b"retry-after", b"7"),), 7.0),
        (((b"retry-after", b"soon"),), None),
        (((b"retry-after", b"-7"),), None),
        (((b"retry-after", b"9" * 40),), None),
        (((b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"), (b"date", b"Fri, 31 Dec 1999 23:59:49 GMT")), 10.0),
        (((b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"), (b"date", b"Sat, 01 Jan 2000 00:00:00 GMT")), 0.0),
        (((b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"), (b"date", b"yesterday")), 0.0),
    ],
)
def test_what_an_upstream_asks_for(headers: Headers, expected: float | None) -> None:
    """RFC 9110, section 10.2.3: seconds or a date; by the clock of the upstream, if it tells that."""
    assert retry_after(headers) == expected


def test_a_date_without_a_clock() -> None:
    """Then it is by ours."""
    asked = retry_after(((b"retry-after", formatdate(time.time() + 100, usegmt=True).encode()),))
    assert asked is not None
    assert 90 < asked < 101


def test_pauses_grow_and_are_spread() -> None:
    """Full jitter between 0 and a bound that doubles up to the longest; on top of what was asked for."""
    settings = WorkSettings(first_backoff=1, longest_backoff=8, longest_rest=100)
    for attempt, most in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (5000, 8)):
        drawn = [pause(attempt, None, settings) for _ in range(200)]
        assert 0 <= min(drawn) < most / 4
        assert most * 0.75 < max(drawn) <= most
        assert all(50 <= pause(attempt, 50.0, settings) <= 58 for _ in range(20))
    assert 100 <= pause(1, 1e6, settings) <= 101


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"limits": []}, {"limits": {"a": 5}}, {"limits": {5: Limits()}}, {"grace": -1}, {"poll": "1"}],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    """They stop the start."""
    with pytest.raises(SettingError):
        WorkSettings(**wrong)


# Items


@on_a_loop
async def test_an_overload_is_no_failure(place: Place, tmp_path: Path) -> None:
    """Items wait and are tried again, writes as well, for nothing was done; more often than failures are."""
    api = Api(tmp_path)
    for n in range(5):
        api.moods[str(n)] = [Response(status_code=503), Response(status_code=429, headers={"retry-after": "0"})] * 3
    async with store_at(place) as store, JobWorker(store, [Lines(api.app)], quick(attempts=2)):
        items = [post(f"/moods/{n}") for n in range(5)]
        job = await ended(store, await submit(store, items))
        assert (job.counts.ok, job.counts.unknown) == (5, 0)
        assert [each.attempts for each in await results(store, job.id)] == [7] * 5
        assert set(api.ledger.counted.values()) == {7}


@on_a_loop
async def test_a_failure_that_may_pass(sqlite: Place, tmp_path: Path) -> None:
    """Is tried so often, across leases, and is the result then; of a write it is the result at once."""
    api = Api(tmp_path)
    bad = [Response(status_code=502)]
    api.moods |= {"once": bad * 1, "always": bad * 50, "write": bad * 50, "keyed": bad * 2}
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick(attempts=3)):
        items = [
            get("/moods/once"),
            get("/moods/always"),
            post("/moods/write"),
            post("/moods/keyed", headers={"idempotency-key": "mine"}),
        ]
        job = await ended(store, await submit(store, items))
        found = [(each.status, each.attempts) for each in await results(store, job.id)]
        assert found == [(200, 2), (502, 3), (502, 1), (200, 3)]
        assert api.ledger.counted == {"GET once": 2, "GET always": 3, "POST write": 1, "POST keyed": 3}
        assert api.headers["keyed"]["idempotency-key"] == "mine"


@on_a_loop
async def test_an_item_has_its_time(sqlite: Place, tmp_path: Path) -> None:
    """Its own if that is shorter, else that of the settings; a write that has passed it is not sent again."""
    api = Api(tmp_path)
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick(attempts=2, item_timeout=0.2)):
        items = [get("/gated/read"), post("/gated/write", timeout=0.05)]
        job = await ended(store, await submit(store, items))
        found = [(each.failure, each.attempts) for each in await results(store, job.id)]
        assert found == [("timeout", 2), ("timeout", 1)]
        assert api.left == 3


@on_a_loop
async def test_no_attempt_is_made_after_the_deadline(sqlite: Place, tmp_path: Path) -> None:
    """If the next one would come too late, the last answer is the result."""
    api = Api(tmp_path)
    api.moods["a"] = [Response(status_code=503, headers={"retry-after": "500"})]
    async with store_at(sqlite) as store, JobWorker(store, [Lines(api.app)], quick()):
        job = await ended(store, await submit(store, [get("/moods/a")], deadline=300))
        assert (job.state, job.counts.failed) == (JobState.COMPLETED, 1)
        assert [(each.status, each.attempts) for each in await results(store, job.id)] == [(503, 1)]


@on_a_loop
async def test_keys_of_items_are_stable(sqlite: Place, tmp_path: Path) -> None:
    """Each item that may be sent twice, and is no read, has one key, the same at every attempt."""
    api = Api(tmp_path)
    keys: list[tuple[str, str | None]] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        keys.append((scope["method"], (headers.get(b"idempotency-key") or b"none").decode()))
        await api.app(scope, receive, send)

    api.moods["b"] = [Response(status_code=502)] * 2
    async with store_at(sqlite) as store, JobWorker(store, [Lines(noting)], quick()):
        items = [get("/moods/a"), post("/moods/b"), {"method": "PUT", "path": "/items/c"}]
        job = await ended(store, await submit(store, items, options=AGAIN))
        assert sorted(keys) == [
            ("GET", "none"),
            *[("POST", f"{job.id}-1")] * 3,
            ("PUT", f"{job.id}-2"),
        ]
    keys.clear()
    async with store_at(sqlite) as store, JobWorker(store, [Lines(noting)], quick()):
        await ended(store, await submit(store, [post("/items/once")]))
        assert keys == [("POST", "none")]


# Upstreams


@on_a_loop
async def test_limits_hold_for_all_workers(place: Place, tmp_path: Path) -> None:
    """So many at once, however many places they have themselves; who needs his no more gives them back."""
    api = Api(tmp_path)
    limits = {"/batch": Limits(max_in_flight=3)}
    async with store_at(place, lease=600) as store:
        workers = [JobWorker(store, [Lines(api.app)], quick(concurrency=4, limits=limits)) for _ in range(2)]
        async with workers[0], workers[1]:
            job_id = await submit(store, [get(f"/gated/{n}") for n in range(40)], endpoint="/batch")
            await until(lambda: api.in_flight == 3)
            api.open_gate()
            assert (await ended(store, job_id)).counts.ok == 40
        assert api.most == 3


@on_a_loop
async def test_a_rate_holds_for_all_workers(sqlite: Place, tmp_path: Path) -> None:
    """The burst at once, the others as the time goes by."""
    api = Api(tmp_path)
    limits = {"/batch": Limits(rate=20, per=1, burst=5)}
    async with store_at(sqlite) as store:
        workers = [JobWorker(store, [Lines(api.app)], quick(limits=limits)) for _ in range(2)]
        async with workers[0], workers[1]:
            began = time.monotonic()
            await ended(store, await submit(store, [get(f"/items/{n}") for n in range(20)], endpoint="/batch"))
            assert time.monotonic() - began > 15 / 20 * 0.9


@on_a_loop
async def test_upstreams_that_are_not_used_any_more_are_forgotten(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of batches of OpenAI clients choose the names; where something is in flight, nothing is forgotten."""
    async with store_at(sqlite) as store:
        gates = Gates(store, {"/limited": Limits(max_in_flight=5)}, 2, lambda: None)
        gates.worker = "w"
        now = asyncio.get_running_loop().time
        names = ("/v1/a", "/v1/b", "/limited")
        for name in names:
            while not gates[name].enter(now()):
                await asyncio.sleep(0.01)
        gates["/v1/b"].leave()
        known = {name: gates[name] for name in names}
        await gates.keep_places()
        assert {name: gates[name] for name in names} == known
        monkeypatch.setattr(upstreams, "_FORGOTTEN", -3600.0)
        await gates.keep_places()
        assert {name for name in names if gates[name] is known[name]} == {"/v1/a", "/limited"}
        gates["/v1/a"].leave()
        gates["/limited"].leave()
        await gates.aclose()


@on_a_loop
async def test_an_upstream_that_wants_a_rest_is_left_alone_by_all(place: Place, tmp_path: Path) -> None:
    """For as long as it says, also by a worker that has asked it nothing yet; another upstream goes on meanwhile."""
    api = Api(tmp_path)
    policy = Policy(routes=RouteTable([Route(upstream="busy", path="/moods"), Route(upstream="free", path="/items")]))
    kind = Lines(api.app, policy)
    api.moods["first"] = [Response(status_code=429, headers={"retry-after": "600"})]
    async with store_at(place) as store:
        async with JobWorker(store, [kind], quick()):
            first = await submit(store, [get("/moods/first")])

            async def is_parked() -> bool:
                return (await store.jobs.get(first, None)).counts.parked == 1

            await until(is_parked)
        async with JobWorker(store, [kind], quick()):
            mixed = await submit(store, [item for n in range(5) for item in (get(f"/moods/{n}"), get(f"/items/{n}-"))])

            async def are_done() -> bool:
                return (await store.jobs.get(mixed, None)).counts.ok == 5

            await until(are_done)
        assert sorted(api.ledger.lines) == ["GET 0-", "GET 1-", "GET 2-", "GET 3-", "GET 4-", "GET first"]
        assert 400 < (await store.limiter.take("busy", "w", Limits(), items=1, places=1)).wait <= 600


@on_a_loop
async def test_work_that_cannot_go_on_makes_room(place: Place, tmp_path: Path) -> None:
    """A chunk whose upstream wants a long rest is put off, though nothing else could be claimed beside it."""
    api = Api(tmp_path)
    kind = Lines(api.app, Policy(routes=RouteTable([Route(upstream="busy", path="/moods"), Route(upstream="free")])))
    api.moods["first"] = [Response(status_code=429, headers={"retry-after": "60"})]
    async with store_at(place) as store, JobWorker(store, [kind], quick(chunks=1, concurrency=1)):
        waiting = await submit(store, [get("/moods/first"), get("/moods/second")])
        await until(lambda: api.ledger.lines)
        assert (await ended(store, await submit(store, [get("/items/a")]))).counts.ok == 1
        assert api.ledger.lines == ["GET first", "GET a"]
        assert (await store.jobs.get(waiting, None)).counts.leased == 0


# Over the network


@asynccontextmanager
async def proxied(script: Script) -> AsyncIterator[tuple[Lines, Any]]:
    """A kind whose items go through the reverse proxy to an upstream that plays the script."""
    async with upstream(script) as played:
        routes = RouteTable([Route(upstream="orders")])
        proxy = ReverseProxy(routes, {"orders": Upstream(url=played.url)})
        proxy.open()
        try:
            yield Lines(proxy, Policy(max_items=1000, routes=routes)), played
        finally:
            await proxy.aclose()


@on_a_loop
async def test_an_overload_over_the_network(place: Place) -> None:
    """The upstream named by the proxy is left alone; then every item arrives, each once more than it was refused."""
    refusing = response(b"", b"retry-after: 1", status=b"429 Too Many Requests")
    heads: list[bytes] = []
    refused: list[bytes] = []

    async def script(peer: Peer) -> None:
        while head := await peer.request():
            heads.append(head)
            if len(refused) < 2:
                refused.append(head.split(b" ")[1])
                await peer.write(refusing)
            else:
                await peer.write(response(b"done"))

    async with (
        proxied(script) as (kind, _),
        store_at(place) as store,
        JobWorker(store, [kind], quick(concurrency=2)),
    ):
        job = await ended(store, await submit(store, [post(f"/{n}") for n in range(10)]))
        assert job.counts.ok == 10
        assert len(heads) == 12
        found = await results(store, job.id)
        # On a slow machine the first one is refused twice, before the second one is sent.
        assert [each.attempts for each in found] == [1 + refused.count(b"/%d" % n) for n in range(10)]
        assert {each.body for each in found} == {b"done"}


@on_a_loop
async def test_a_write_whose_connection_breaks_is_not_sent_again(sqlite: Place) -> None:
    """The upstream has read it, and nobody knows what it did; a read is asked again."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        while head := await peer.request():
            heads.append(head.partition(b" HTTP")[0])
            if heads.count(heads[-1]) == 1 or heads[-1].startswith(b"POST"):
                peer.reset()
                return
            await peer.write(response(b"done"))

    async with proxied(script) as (kind, _), store_at(sqlite) as store, JobWorker(store, [kind], quick()):
        job = await ended(store, await submit(store, [post("/write"), get("/read")]))
        found = await results(store, job.id)
        assert [(each.status, each.failure) for each in found] == [(502, "unreachable"), (200, None)]
        assert heads.count(b"POST /write") == 1
        assert heads.count(b"GET /read") == 2


@on_a_loop
async def test_an_upstream_that_is_not_there_yet(place: Place, tmp_path: Path) -> None:
    """That is no failure either, of writes as little as of reads, for nothing was sent: they wait until it is there."""
    path = str(tmp_path / "s")
    routes = RouteTable([Route(upstream="orders")])
    proxy = ReverseProxy(routes, {"orders": Upstream(url=f"unix:{path}", circuit_breaker=NEVER)})
    proxy.open()
    tried = Counter[str]()

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        tried[scope["path"]] += 1
        await proxy(scope, receive, send)

    kind = Lines(counting, Policy(routes=routes))
    try:
        async with store_at(place) as store, JobWorker(store, [kind], quick(attempts=2)):
            job_id = await submit(store, [post(f"/{n}") for n in range(20)])
            await until(lambda: max(tried.values(), default=0) > 3)
            async with upstream(path=path) as played:
                job = await ended(store, job_id)
                assert (job.counts.ok, job.counts.unknown) == (20, 0)
                assert len(b"".join(bytes(peer.received) for peer in played.peers).split(b"POST ")) == 21
    finally:
        await proxy.aclose()
