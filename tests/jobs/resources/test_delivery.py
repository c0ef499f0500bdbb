"""How items are delivered that may not be sent twice: as the batch says, or else its endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from asgi_lifespan import LifespanManager

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.engine.errors import SettingError
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings, opened
from tests.jobs.place import Place
from tests.protocol.api import Api, answer
from tests.protocol.exchange import JSON
from tests.proxy.on_a_loop import on_a_loop
from tests.serving import StartupFailed, serve

from .site import Site, job_id, location, settings, site

POST: JSON = {"path": "/pay", "method": "POST", "body": {"amount": 1}}
MANY: list[JSON] = [{**POST, "body": "x" * 100_000}] * 3
"""More than what is held back of lines."""


def keys(api: Api) -> list[str | None]:
    """The key of each request: what is sent at least once has one, always the same."""
    return [dict(each.headers).get("idempotency-key") for each in api.arrived]


@pytest.mark.parametrize(
    ("said", "many"),
    [("at_least_once", []), ("at_least_once", MANY), ("at_most_once", []), (None, [])],
    ids=["least", "least of many", "most", "nothing"],
)
@on_a_loop
async def test_a_batch_says_how(place: Place, said: str | None, many: list[JSON]) -> None:
    """Whether an item that failed on the way may be sent again: as the options say, as JSON and as lines."""
    api = Api({"/pay": answer(status=504)})
    options: JSON = {} if said is None else {"delivery": said}
    async with site(place, api) as here:
        path = location(await here.send_lines([{"options": options}, POST, *many]))
        assert (await here.ended(path))["delivery"] == (said or "at_most_once")
        count = 1 + len(many)
        if said == "at_least_once":
            assert len(api.arrived) == count * 5
            assert set(keys(api)) == {f"{job_id(path)}-{seq}" for seq in range(count)}
        else:
            assert keys(api) == [None] * count
        api.arrived.clear()
        again = (await here.ask("POST", f"{path}/retry")).json()
        assert again["delivery"] == (said or "at_most_once")
        await here.ended(again["links"]["self"])
        assert len(api.arrived) == count * (5 if said == "at_least_once" else 1)


@on_a_loop
async def test_endpoints_have_a_way_of_their_own(sqlite: Place) -> None:
    """One of them, or all; a batch may say another, in either direction."""
    chosen = settings(sqlite, endpoint_delivery={"/orders": "at_least_once"}, worker=False)
    app = BatchMiddleware(Api(), jobs=chosen, endpoints=[Endpoint(path="/orders"), Endpoint(path="/pay")])
    async with LifespanManager(app), opened(chosen.store) as seen:
        here = Site(app, seen)
        expected = {
            ("/orders", None): "at_least_once",
            ("/pay", None): "at_most_once",
            ("/orders", "at_most_once"): "at_most_once",
            ("/pay", "at_least_once"): "at_least_once",
        }
        for (path, said), shown in expected.items():
            options: JSON = None if said is None else {"delivery": said}
            assert (await here.send([POST], options=options, path=path)).json()["delivery"] == shown
        kinds = {kind.name: kind for kind in app.jobs.kinds}  # type: ignore[union-attr]
        batches = []
        for claim in await seen.claims.claim("by hand", 10):
            job = await seen.jobs.get(claim.lease.job, None)
            batches.append((job.endpoint, kinds[job.kind].batch(job, await seen.inputs.items(claim)).delivery))
        assert sorted(batches) == [
            ("/orders", "at_least_once"),
            ("/orders", "at_most_once"),
            ("/pay", "at_least_once"),
            ("/pay", "at_most_once"),
        ]
        for path in ("/orders", "/pay"):
            said_of = (await here.get(path)).json()["jobs"]
            assert said_of["delivery"] == said_of["schema"]["options"]["delivery"]["default"] == expected[path, None]


@pytest.mark.parametrize("value", ["twice", None, 1])
@on_a_loop
async def test_another_way_is_refused(sqlite: Place, value: Any) -> None:
    async with site(sqlite, jobs={"worker": False}) as here:
        reply = await here.send([POST], options={"delivery": value})
        assert reply.refusal == (400, "invalid_batch", "/options/delivery")
        assert "`at_most_once` or `at_least_once`" in reply.problem["detail"]
        reply = await here.send([POST], options={"delivry": "at_most_once"})
        assert reply.refusal == (400, "invalid_batch", "/options/delivry")
        assert "did you mean `delivery`?" in reply.problem["detail"]


@pytest.mark.parametrize("said", ["at_most_once", {"/batch": "twice"}])
def test_wrong_settings_are_refused(said: Any) -> None:
    with pytest.raises(SettingError, match="endpoint_delivery"):
        JobsSettings(store=StoreSettings(url="sqlite:///x"), endpoint_delivery=said)


def test_a_path_without_endpoint_stops_the_start(sqlite: Place) -> None:
    """It may be misspelt, and then another delivery than the one that is meant would count."""
    app = BatchMiddleware(Api(), jobs=settings(sqlite, endpoint_delivery={"/bach": "at_least_once"}))
    with pytest.raises(StartupFailed, match="endpoint_delivery"), serve(app):
        pass
