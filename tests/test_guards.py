"""Guards, and what an app knows of the batch that an item came with: the owner's own rules, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from batchproxy import Batch, BatchMiddleware, Endpoint, Failure, Guard, InFlight, RateLimited, Refusal, Refused
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import Api, answer
from tests.protocol.exchange import JSON, App, Receive, Scope, Send, failures, send_batch, written
from tests.serving import Response, Server, ask, serve

JSON_BODY = [("Content-Type", "application/json")]
FORMS = ["application/json", "application/x-ndjson", "text/event-stream"]


class Shop:
    """A real small app; `seen` are the items that reached it, each with its mark."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, JSON]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mark = scope.get("extensions", {}).get("batchproxy")
        self.seen.append((scope["path"], mark))
        await answer(json.dumps(scope["path"]))(scope, receive, send)

    @property
    def paths(self) -> list[str]:
        return sorted(path for path, _ in self.seen)


def post(server: Server, items: Sequence[JSON] | bytes, *headers: tuple[str, str], path: str = "/batch") -> Response:
    body = items if isinstance(items, bytes) else written(items)
    return ask(server, "POST", path, [*JSON_BODY, *headers], body)


def statuses(response: Response) -> list[int]:
    assert response.status == 200, response.body
    return [entry["status"] for entry in response.json()["responses"]]


# Refusing


async def closed(batch: Batch) -> Batch:
    raise Refused("Closed on Sundays.")


async def too_fast(batch: Batch) -> Batch:
    raise RateLimited("Slow down.", retry_after=42)


async def nothing_is_deleted(batch: Batch) -> Batch:
    for item in batch.items:
        if item.method == "DELETE":
            batch = batch.refuse(item.index, "Nothing is deleted here.")
    return batch


@pytest.mark.parametrize("accept", FORMS)
@pytest.mark.parametrize(
    ("guard", "status", "code", "detail", "retry_after"),
    [
        (closed, 403, "forbidden", "Closed on Sundays.", None),
        (too_fast, 429, "rate_limited", "Slow down.", "42"),
    ],
)
def test_a_guard_refuses_the_whole_batch(
    guard: Guard, status: int, code: str, detail: str, retry_after: str | None, accept: str
) -> None:
    """A refused batch is a problem document in any form, with the guard's words, and nothing of it has run."""
    shop = Shop()
    with serve(BatchMiddleware(shop, guards=[guard]), lifespan="off") as server:
        response = post(server, [{"path": "/a"}], ("Accept", accept))
    assert (response.status, response.header("content-type")) == (status, "application/problem+json")
    assert (response.json()["code"], response.json()["detail"]) == (code, detail)
    assert response.header("retry-after") == retry_after
    assert response.header("cache-control") == "no-store"
    assert shop.seen == []


def test_a_guard_refuses_one_item_and_what_depends_on_it() -> None:
    """One refused item is answered 403 with the guard's words; its dependants fail with it, the others run."""
    shop = Shop()
    items: list[JSON] = [
        {"path": "/a"},
        {"id": "gone", "method": "DELETE", "path": "/b"},
        {"path": "/c", "depends_on": ["gone"]},
        {"path": "/d"},
    ]
    with serve(BatchMiddleware(shop, guards=[nothing_is_deleted]), lifespan="off") as server:
        entries = post(server, items).json()["responses"]
    assert [entry["status"] for entry in entries] == [200, 403, 424, 200]
    assert (entries[1]["error"], entries[1]["body"]["detail"]) == ("forbidden", "Nothing is deleted here.")
    assert shop.paths == ["/a", "/d"]


def test_a_guard_is_of_its_endpoint() -> None:
    """Another endpoint, and the app itself, are not guarded by it."""
    shop = Shop()
    endpoints = [Endpoint(path="/closed", guards=[closed]), Endpoint(path="/open")]
    with serve(BatchMiddleware(shop, endpoints=endpoints), lifespan="off") as server:
        assert post(server, [{"path": "/a"}], path="/closed").status == 403
        assert statuses(post(server, [{"path": "/a"}], path="/open")) == [200]
        assert ask(server, "GET", "/a").status == 200


# Counting


class Quota:
    """Each caller may spend so many points; a write costs five, anything else one. An example of an owner's rule."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.spent: Counter[bytes] = Counter()

    async def __call__(self, batch: Batch) -> Batch:
        key = dict(batch.caller.inherited).get(b"x-key", b"")
        costs = {
            item.index: 1 if item.method == "GET" else 5 for item in batch.items if item.index not in batch.refused
        }
        if self.spent[key] >= self.points:
            raise RateLimited("The quota is spent.", retry_after=60)
        for index, cost in costs.items():
            if self.spent[key] + cost > self.points:
                batch = batch.refuse(index, f"{cost} points are more than there are left.")
            else:
                self.spent[key] += cost
        return batch


def test_a_guard_counts_the_cost_of_a_batch() -> None:
    """The cost of a batch is that of its items: a caller gets in many small batches what it gets in a large one."""
    shop = Shop()
    items: list[JSON] = [{"path": "/a"}, {"path": "/b", "method": "POST"}, {"path": "/c", "method": "PUT"}]
    with serve(BatchMiddleware(shop, guards=[Quota(7)]), lifespan="off") as server:
        assert statuses(post(server, items, ("X-Key", "ada"))) == [200, 200, 403]
        assert statuses(post(server, items, ("X-Key", "ada"))) == [200, 403, 403]
        refused = post(server, items, ("X-Key", "ada"))
        assert (refused.status, refused.header("retry-after")) == (429, "60")
        assert statuses(post(server, items, ("X-Key", "bob"))) == [200, 200, 403]
    assert shop.paths == ["/a", "/a", "/a", "/b", "/b"]


@pytest.mark.parametrize(
    "body",
    [
        b"nope",
        b'{"requests": 7}',
        written([{"path": "/a"}] * 4),
        written([{"path": "/a", "depends_on": ["x"]}]),
        written([{"id": "x", "path": "/a", "depends_on": ["x"]}]),
    ],
    ids=["no json", "no batch", "too many items", "an unknown id", "a cycle"],
)
def test_what_is_no_batch_counts_for_no_guard(body: bytes) -> None:
    """A batch that cannot run is refused before a guard has counted it."""
    quota = Quota(1)
    with serve(BatchMiddleware(Shop(), guards=[quota], max_items=3), lifespan="off") as server:
        assert post(server, body).status in (400, 413)
        assert ask(server, "GET", "/batch").status == 200
        assert quota.spent == Counter()
        assert statuses(post(server, [{"path": "/a"}])) == [200]


def test_what_is_refused_already_is_seen_as_such() -> None:
    """A guard sees the items with those that were refused before it, by the reader, the policy and other guards."""
    seen: list[Batch] = []

    async def looks(batch: Batch) -> Batch:
        seen.append(batch)
        return batch

    items: list[JSON] = [
        {"id": "x", "path": "/a?b=c", "headers": {"X-Own": "1"}},
        {"path": "/../a"},
        {"path": "/secret"},
        {"path": "/d", "method": "DELETE"},
    ]
    batch = BatchMiddleware(Shop(), guards=[nothing_is_deleted, looks], deny=["/secret"])
    with serve(batch, lifespan="off") as server:
        assert statuses(post(server, items, ("Authorization", "Bearer ada"))) == [200, 400, 403, 403]
    (batch_seen,) = seen
    assert {index: refusal.failure for index, refusal in batch_seen.refused.items()} == {
        1: Failure.INVALID_PATH,
        2: Failure.FORBIDDEN,
        3: Failure.FORBIDDEN,
    }
    first = batch_seen.items[0]
    assert (first.id, first.method, first.path, first.query, first.headers) == (
        "x",
        "GET",
        b"/a",
        b"b=c",
        ((b"x-own", b"1"),),
    )
    assert (b"authorization", b"Bearer ada") in batch_seen.caller.inherited
    assert batch_seen.caller.client is not None
    assert batch_seen.caller.client[0] == "127.0.0.1"


# Faulty guards


async def returns_nothing(batch: Batch) -> Any:
    return None


async def returns_the_items(batch: Batch) -> Any:
    return batch.items


async def returns_yes(batch: Batch) -> Any:
    return True


async def raises(batch: Batch) -> Batch:
    raise LookupError("secret")


async def refuses_what_is_not_there(batch: Batch) -> Batch:
    return batch.refuse(len(batch.items), "there is none")


async def cancels(batch: Batch) -> Batch:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    "guard", [returns_nothing, returns_the_items, returns_yes, raises, refuses_what_is_not_there, cancels]
)
def test_a_faulty_guard_lets_nothing_through(guard: Guard) -> None:
    """When a guard fails or returns anything but a batch, the request fails, nothing runs, and the server lives on."""
    shop = Shop()
    pool = InFlight(1, queue=0)
    endpoints = [Endpoint(path="/batch", guards=[guard], in_flight=pool), Endpoint(path="/open", in_flight=pool)]
    with serve(BatchMiddleware(shop, endpoints=endpoints), lifespan="off") as server:
        response = post(server, [{"path": "/a"}])
        assert response.status == 500
        assert b"secret" not in response.body
        assert shop.seen == []
        assert (pool.used, pool.wanted) == (0, 0)
        assert statuses(post(server, [{"path": "/b"}], path="/open")) == [200]


@on_virtual_time
async def test_a_guard_with_a_wrong_result_is_named() -> None:
    """The error tells which guard it was and what it returned."""
    with pytest.raises(TypeError, match=r"returns_yes.*returned bool"):
        await send_batch(BatchMiddleware(Shop(), guards=[returns_yes]), [{"path": "/a"}])


@on_virtual_time
async def test_a_guard_may_take_its_time() -> None:
    """A guard may wait; meanwhile its batch holds no place, and the time is not taken off the items' deadlines."""
    pool = InFlight(1, queue=0)

    async def waits(batch: Batch) -> Batch:
        await asyncio.sleep(100)
        assert (pool.used, pool.wanted) == (0, 0)
        return batch

    api = Api({"/a": answer(takes=10)})
    reply = await send_batch(BatchMiddleware(api, guards=[waits], in_flight=pool), [{"path": "/a"}])
    assert (failures(reply), reply.at) == ([None], 110)


# What an app knows of the batch


def test_an_app_knows_that_it_serves_an_item() -> None:
    """The mark tells the batch, which guards saw, the index and how many items there are; a lone request has none."""
    ids: list[str] = []

    async def notes(batch: Batch) -> Batch:
        ids.append(batch.id)
        return batch

    shop = Shop()
    with serve(BatchMiddleware(shop, guards=[notes]), lifespan="off") as server:
        for _ in range(2):
            assert statuses(post(server, [{"path": "/0"}, {"path": "/../1"}, {"path": "/2"}])) == [200, 400, 200]
        assert ask(server, "GET", "/alone").status == 200
    marks = [(path, mark and {key: mark[key] for key in ("batch", "index", "count")}) for path, mark in shop.seen]
    assert len(set(ids)) == 2
    assert marks == [
        ("/0", {"batch": ids[0], "index": 0, "count": 3}),
        ("/2", {"batch": ids[0], "index": 2, "count": 3}),
        ("/0", {"batch": ids[1], "index": 0, "count": 3}),
        ("/2", {"batch": ids[1], "index": 2, "count": 3}),
        ("/alone", None),
    ]
    assert all(isinstance(mark, dict) and callable(mark["report"]) for _, mark in shop.seen[:4])


@pytest.mark.parametrize("path", ["/a", "/batch"])
def test_nobody_outside_can_claim_to_serve_an_item(path: str) -> None:
    """A mark that something in front has put into the scope is taken off: it is no item, and its batch is a batch."""
    shop = Shop()

    async def pretends(scope: Scope, receive: Receive, send: Send) -> None:
        forged = {"batch": "b", "index": 0, "count": 1, "report": print}
        await BatchMiddleware(shop)({**scope, "extensions": {"batchproxy": forged}}, receive, send)

    with serve(pretends, lifespan="off") as server:
        assert post(server, [{"path": "/x"}], path=path).status == 200
    assert [mark is not None for _, mark in shop.seen] == [path == "/batch"]


@pytest.mark.parametrize("failure", Failure)
@on_virtual_time
async def test_an_app_that_stands_for_another_server_reports(failure: Failure) -> None:
    """What such an app reports through the mark is the item's answer, with its status and code."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["batchproxy"]["report"](failure, "as it was")

    entry = (await send_batch(BatchMiddleware(app), [{"path": "/a"}])).only
    assert (entry["status"], entry["error"], entry["body"]["detail"]) == (failure.status, failure.value, "as it was")


# A limiter inside the app


class Limiter:
    """A rate limiter of the usual kind: so many requests of one client to one path."""

    def __init__(self, app: App, most: int) -> None:
        self.app = app
        self.most = most
        self.counts: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        key = (scope["client"][0], scope["path"])
        self.counts[key] += 1
        if self.counts[key] > self.most:
            await JSONResponse({}, 429, {"Retry-After": "60"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def limited_app(*, batch_inside: bool) -> tuple[Starlette, list[bytes]]:
    """An app with a login that is limited to five attempts, and a batch endpoint added before or after the limiter."""
    attempts: list[bytes] = []

    async def login(asked: Request) -> JSONResponse:
        attempts.append(await asked.body())
        return JSONResponse({})

    layers = [Middleware(Limiter, most=5), Middleware(BatchMiddleware)]
    return (
        Starlette(
            routes=[Route("/login", login, methods=["POST"])], middleware=layers if batch_inside else layers[::-1]
        ),
        attempts,
    )


@pytest.mark.parametrize("batch_inside", [True, False])
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_limiter_inside_the_app_sees_every_item(batch_inside: bool, mode: str) -> None:
    """A batch of a hundred logins gets as far as a hundred lone ones: the limiter counts each, whatever its address."""
    app, attempts = limited_app(batch_inside=batch_inside)
    items = [
        {"method": "POST", "path": "/login", "body": number, "headers": {"X-Attempt": str(number)}}
        for number in range(100)
    ]
    with serve(app) as server:
        response = ask(server, "POST", "/batch", JSON_BODY, written(items, {"execution": mode}))
        assert statuses(response) == [200] * 5 + [429] * 95
        refused = response.json()["responses"][5:]
        assert {entry["headers"]["retry-after"] for entry in refused} == {"60"}
        assert not any("error" in entry for entry in refused)
        assert ask(server, "POST", "/login", JSON_BODY, b"1").status == 429
    assert attempts == [str(number).encode() for number in range(5)]


def test_a_cap_for_a_route_needs_no_guard() -> None:
    """`max_per_batch` lets so many items of a batch reach a route, however it is spelled."""
    app, attempts = limited_app(batch_inside=True)
    batch = BatchMiddleware(app, max_per_batch={"POST /login": 2})
    paths = ["/login", "/log%69n", "/login?x=1", "/login/", "/login"]
    with serve(batch) as server:
        entries = post(server, [{"method": "POST", "path": path} for path in paths]).json()["responses"]
    assert [entry.get("error") for entry in entries] == [None, None, *["too_many_for_route"] * 3]
    assert len(attempts) == 2


def test_guards_are_called_as_any_async_callable() -> None:
    """A guard is a function, a method or an object: what is awaited with the batch."""

    class Owner:
        def __init__(self) -> None:
            self.calls = 0

        async def method(self, batch: Batch) -> Batch:
            self.calls += 1
            return batch.refuse(0, "by a method")

    owner = Owner()
    guards: list[Callable[[Batch], Awaitable[Batch]]] = [owner.method, Quota(100)]
    with serve(BatchMiddleware(Shop(), guards=guards), lifespan="off") as server:
        assert statuses(post(server, [{"path": "/a"}, {"path": "/b"}])) == [403, 200]
    assert owner.calls == 1


def test_a_refusal_may_say_another_reason() -> None:
    """An item may be refused with any failure of the protocol, such as a limit for its route."""

    async def caps(batch: Batch) -> Batch:
        return batch.refuse(1, "One is enough.", failure=Failure.TOO_MANY_FOR_ROUTE)

    async def looks(batch: Batch) -> Batch:
        assert batch.refused == {1: Refusal(Failure.TOO_MANY_FOR_ROUTE, "One is enough.")}
        return batch

    with serve(BatchMiddleware(Shop(), guards=[caps, looks]), lifespan="off") as server:
        assert statuses(post(server, [{"path": "/a"}, {"path": "/b"}])) == [200, 429]
