"""Serial routes: of the items of a batch that take one, one runs at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from batchproxy.engine.routing import Route, RouteTable
from tests.protocol.api import Api, answer
from tests.protocol.exchange import exchange_of, failures, send_batch, written
from tests.protocol.virtual_time import now

from .on_virtual_time import on_virtual_time

ROUTES = RouteTable(
    [
        Route(upstream="any", path="/"),
        Route(upstream="shop", path="/checkout", serial=True),
        Route(upstream="bank", path="/transfer", serial=True),
        Route(upstream="gate", path="/login", max_per_batch=2),
    ]
)
SLOW = answer(takes=1.0)


class Counting(Api):
    """Remembers how many items of each first segment ran at once."""

    def __init__(self, slow: tuple[str, ...]) -> None:
        super().__init__(dict.fromkeys(slow, SLOW))
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        name = scope["path"].split("/")[1]
        self.now[name] = self.now.get(name, 0) + 1
        self.most[name] = max(self.most.get(name, 0), self.now[name])
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.now[name] -= 1


def items(*paths: str) -> list[dict[str, Any]]:
    return [{"path": path} for path in paths]


@on_virtual_time
async def test_one_at_a_time_and_in_order() -> None:
    """Items of a serial route run one after another in request order; others run beside them."""
    api = Counting(("/checkout/1", "/checkout/2", "/checkout/3", "/transfer/1", "/transfer/2", "/x/1", "/x/2"))
    batch = items("/checkout/1", "/x/1", "/checkout/2", "/transfer/1", "/checkout/3", "/transfer/2", "/x/2")
    reply = await send_batch(BatchMiddleware(api, routes=ROUTES), batch)
    assert [entry["status"] for entry in reply.responses] == [200] * 7
    assert api.most == {"checkout": 1, "transfer": 1, "x": 2}
    assert [target for target in api.targets if "checkout" in target] == ["/checkout/1", "/checkout/2", "/checkout/3"]
    assert now() == pytest.approx(3.0)


@on_virtual_time
async def test_no_place_is_held_by_who_waits() -> None:
    """Items that wait for their turn take neither the places of the batch nor those of the process."""
    api = Counting(("/checkout/1", "/checkout/2", "/checkout/3", "/x/1"))
    middleware = BatchMiddleware(api, routes=ROUTES, concurrency=2)
    reply = await send_batch(middleware, items("/checkout/1", "/checkout/2", "/checkout/3", "/x/1"))
    assert [entry["status"] for entry in reply.responses] == [200] * 4
    # The item behind the three began with the first.
    assert [each.at for each in api.arrived if each.target == "/x/1"] == [0.0]


@on_virtual_time
async def test_a_lane_waits_for_the_real_end() -> None:
    """After a deadline the next item starts only when the task of the last one has ended: its write may still run."""

    async def stubborn(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(5)

    api = Api({"/checkout/1": stubborn})
    reply = await send_batch(
        BatchMiddleware(api, routes=ROUTES), [{"path": "/checkout/1", "timeout": 1}, {"path": "/checkout/2"}]
    )
    assert failures(reply) == [(504, "timeout"), None]
    assert [each.at for each in api.arrived] == [0.0, 6.0]


@on_virtual_time
async def test_who_waits_when_the_batch_stops_is_answered() -> None:
    """`on_error: stop` and the deadline of the batch answer those that wait for their turn, too."""
    api = Api({"/x/1": answer(status=500), "/checkout/1": SLOW})
    app = BatchMiddleware(api, routes=ROUTES)
    reply = await send_batch(app, written_with(items("/checkout/1", "/checkout/2", "/x/1"), on_error="stop"))
    assert failures(reply) == [None, (424, "stopped"), None]
    reply = await send_batch(app, written_with(items("/checkout/1", "/checkout/2", "/checkout/3"), timeout=0.5))
    assert failures(reply) == [(504, "batch_timeout"), (503, "not_started"), (503, "not_started")]


def written_with(batch: list[dict[str, Any]], **options: Any) -> bytes:
    return written(batch, options)


@on_virtual_time
async def test_who_waits_when_the_client_leaves_never_runs() -> None:
    """Nothing new starts once the client is gone, whoever's turn it would be."""
    api = Api({"/checkout/1": SLOW})
    exchange = exchange_of(BatchMiddleware(api, routes=ROUTES), items("/checkout/1", "/checkout/2"))
    await asyncio.sleep(0.5)
    exchange.leave()
    await exchange.task
    assert api.targets == ["/checkout/1"]


@on_virtual_time
async def test_values_can_lead_into_a_lane() -> None:
    """An item whose path is known only when it has its values takes its turn like any other."""
    api = Counting(("/checkout/1", "/checkout/2"))
    api.routes["/first"] = answer('{"id": 2}')
    batch = [
        {"path": "/checkout/1"},
        {"id": "first", "path": "/first"},
        {"path": "/checkout/{n}", "vars": {"n": "first#/body/id"}},
    ]
    reply = await send_batch(BatchMiddleware(api, routes=ROUTES), batch)
    assert [entry["status"] for entry in reply.responses] == [200] * 3
    assert api.most["checkout"] == 1


@on_virtual_time
async def test_a_route_has_a_cap_of_its_own() -> None:
    """Items beyond the cap of a route are refused, in whatever spelling they name it."""
    api = Api()
    batch = items("/login", "/login/", "/%6cogin", "/other", "/login/again")
    reply = await send_batch(BatchMiddleware(api, routes=ROUTES), batch)
    assert failures(reply) == [None, None, (429, "too_many_for_route"), None, (429, "too_many_for_route")]
    assert len(api.arrived) == 3


@on_virtual_time
async def test_writes_in_order_and_lanes_together() -> None:
    """`ordered_writes` and serial routes do not wait for each other for ever."""
    api = Counting(("/checkout/1", "/checkout/2", "/checkout/3"))
    batch: list[dict[str, Any]] = [
        {"path": "/checkout/1"},
        {"path": "/checkout/2", "method": "POST"},
        {"path": "/checkout/3", "method": "POST"},
        {"path": "/checkout/1"},
    ]
    reply = await send_batch(BatchMiddleware(api, routes=ROUTES), written_with(batch, execution="ordered_writes"))
    assert [entry["status"] for entry in reply.responses] == [200] * 4
    assert api.most["checkout"] == 1
