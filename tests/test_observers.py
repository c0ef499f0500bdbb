"""Observers: they are told what became of every item and every batch, and cannot change it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchproxy import BatchMiddleware, Failure
from batchproxy.engine.events import BatchEnded, ItemEnded
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import Api, answer
from tests.protocol.exchange import ask, exchange_of, send_batch, written


class Told:
    def __init__(self) -> None:
        self.items: list[ItemEnded] = []
        self.batches: list[BatchEnded] = []

    def item_ended(self, event: ItemEnded) -> None:
        self.items.append(event)

    def batch_ended(self, event: BatchEnded) -> None:
        self.batches.append(event)

    @property
    def statuses(self) -> dict[int, int]:
        return {each.result.index: each.result.status for each in self.items}


@on_virtual_time
async def test_every_item_is_told_of_once() -> None:
    """Whether it ran, was refused, skipped, stopped or never started: one event for each item, as it was sent."""
    told = Told()
    app = BatchMiddleware(Api({"/slow": answer('{"id": 9}', takes=2.0)}), observers=[told], deny=["/secret"])
    batch = [
        {"id": "slow", "path": "/slow"},
        {"path": "/secret"},
        {"path": "/items/{id}", "vars": {"id": "slow#/body/id"}},
        {"path": "/x", "depends_on": ["bad"]},
        {"id": "bad", "path": "/../x"},
    ]
    reply = await send_batch(app, batch)
    assert told.statuses == {0: 200, 1: 403, 2: 200, 3: 424, 4: 400}
    assert len(told.items) == 5
    by_index = {each.result.index: each for each in told.items}
    assert by_index[2].item.path == b"/items/9"
    assert by_index[0].elapsed == pytest.approx(2.0)
    assert by_index[1].elapsed == 0.0
    (ended,) = told.batches
    assert (ended.status, ended.code, ended.succeeded, ended.failed) == (200, None, 2, 3)
    assert ended.request_id == reply.header("x-request-id")
    assert (ended.streamed, ended.client_left, ended.path) == (False, False, "/batch")


@on_virtual_time
async def test_deadlines_and_stops_are_told() -> None:
    """Items that a deadline, a failure or a departed client kept from starting are told of, too."""
    told = Told()
    app = BatchMiddleware(Api({"/slow": answer(takes=9.0)}), observers=[told], concurrency=1)
    await send_batch(app, written([{"path": "/slow"}, {"path": "/x"}], {"timeout": 1}))
    assert [each.result.failure for each in told.items] == [Failure.BATCH_TIMEOUT, Failure.NOT_STARTED]
    told.items.clear()
    exchange = exchange_of(app, [{"path": "/slow"}, {"path": "/x"}])
    await asyncio.sleep(1)
    exchange.leave()
    await exchange.task
    assert sorted(each.result.index for each in told.items) == [0, 1]
    assert [each.client_left for each in told.batches] == [False, True]


@on_virtual_time
async def test_a_refused_batch_is_told() -> None:
    """A batch that is refused as a whole has a status and a code, and no items."""
    told = Told()
    app = BatchMiddleware(Api(), observers=[told])
    await ask(app, body=b"{", headers={"content-type": "application/json"})
    (ended,) = told.batches
    assert (ended.status, ended.code, ended.batch, told.items) == (400, "malformed_json", None, [])


@on_virtual_time
async def test_notes_reach_the_observer() -> None:
    """What an app that stands for another server reports beside its answer is in the event."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"]["batchproxy"]["report"](None, notes={"upstream": "orders"})
        await answer()(scope, receive, send)

    told = Told()
    await send_batch(BatchMiddleware(app, observers=[told]), [{"path": "/a"}])
    assert told.items[0].notes == {"upstream": "orders"}
    assert told.items[0].result.failure is None


@on_virtual_time
async def test_an_observer_that_raises_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its exception is logged; answers, and the other observers, are as without it."""

    class Broken(Told):
        def item_ended(self, event: ItemEnded) -> None:
            raise RuntimeError("no")

        def batch_ended(self, event: BatchEnded) -> None:
            raise RuntimeError("no")

    told = Told()
    reply = await send_batch(BatchMiddleware(Api(), observers=[Broken(), told]), [{"path": "/a"}])
    assert [entry["status"] for entry in reply.responses] == [200]
    assert (len(told.items), len(told.batches)) == (1, 1)
    assert [record.message for record in caplog.records] == ["observer.failed observer=Broken"] * 2
