"""Jobs as resources: who sees which, what is shown, how it is waited for, and how they are stopped and removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.engine.model import Message, Receive, Scope, Send
from batchproxy.jobs.store import ItemResult, Outcome, Parked
from tests.jobs.place import Place
from tests.protocol.api import Api, answer, value
from tests.protocol.exchange import JSON, Exchange, HeaderMap
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, ASYNC, BOB, QUICK, Site, job_id, location, site, until

BY_HAND: Mapping[str, Any] = {"worker": False}
ITEMS: list[JSON] = [{"path": f"/{n}", "id": f"i{n}"} for n in range(5)]
ROUTES = [
    ("GET", ""),
    ("HEAD", ""),
    ("DELETE", ""),
    ("GET", "/events"),
    ("GET", "/results"),
    ("POST", "/cancel"),
    ("POST", "/retry"),
]


def ok(seq: int) -> ItemResult:
    return ItemResult(seq=seq, outcome=Outcome.OK, status=200, body=b"{}", custom_id=f"i{seq}")


def failed(seq: int, status: int = 500) -> ItemResult:
    return ItemResult(seq=seq, outcome=Outcome.ERROR, status=status, custom_id=f"i{seq}")


async def completed(here: Site, *results: ItemResult, items: list[JSON] = ITEMS, headers: HeaderMap = ASYNC) -> str:
    """A job that has ended with these results."""
    path = await here.submitted(items, headers=headers)
    [claim] = await here.claims()
    await here.settle(claim, *(results or [ok(seq) for seq in claim.open_seqs]))
    await here.finalize()
    return path


# Owners


@on_a_loop
async def test_jobs_of_others_are_not_there(place: Place) -> None:
    """On each resource somebody else's job is as one that never was, and nothing happens to it."""
    async with site(place, jobs=BY_HAND) as here:
        for path in (await completed(here), await here.submitted(ITEMS)):
            job = await here.store.jobs.get(job_id(path), None)
            nowhere = path[:-4] + "ffff"
            for method, rest in ROUTES:
                foreign = await here.ask(method, path + rest, headers=BOB)
                nobodys = await here.ask(method, nowhere + rest, headers=BOB)
                assert (foreign.status, foreign.body) == (404, nobodys.body), (method, rest)
                assert nobodys.status == 404
                if method != "HEAD":
                    assert foreign.problem["code"] == "not_found"
                assert await here.store.jobs.get(job_id(path), None) == job


@on_a_loop
async def test_a_list_is_of_ones_own(place: Place) -> None:
    """The list has the jobs of whoever asks, the newest first, by pages and by states."""
    async with site(place, jobs=BY_HAND) as here:
        done = await completed(here)
        paths = [done] + [await here.submitted(ITEMS) for _ in range(3)]
        await here.submitted(ITEMS, headers={**BOB, "prefer": "respond-async"})
        everything = (await here.get("/batch/jobs")).json()
        assert [job["links"]["self"] for job in everything["jobs"]] == paths[::-1]
        assert everything["next"] is None
        found: list[str] = []
        target = "/batch/jobs?limit=3"
        while target:
            reply = await here.get(target)
            page = reply.json()
            found += [job["links"]["self"] for job in page["jobs"]]
            target = page["next"]
            assert reply.header("link") == (f'<{target}>; rel="next"' if target else None)
        assert found == paths[::-1]
        chosen = (await here.get("/batch/jobs?state=completed,failed")).json()["jobs"]
        assert [job["links"]["self"] for job in chosen] == [done]
        following = (await here.get("/batch/jobs?state=queued&limit=1")).json()["next"]
        assert len((await here.get(following)).json()["jobs"]) == 1
        assert len((await here.get("/batch/jobs", headers=BOB)).json()["jobs"]) == 1
        assert (await here.get("/batch/jobs", headers={"authorization": "Bearer eve"})).json()["jobs"] == []


@on_a_loop
async def test_each_endpoint_has_its_own_jobs(sqlite: Place) -> None:
    """A job of one endpoint is not there at another."""
    endpoints = [Endpoint(path="/batch"), Endpoint(path="/other", max_items=1)]
    async with site(sqlite, jobs=BY_HAND, endpoints=endpoints) as here:
        path = await here.submitted(ITEMS)
        assert (await here.get(path)).status == 200
        assert (await here.get(path.replace("/batch", "/other"))).status == 404
        assert (await here.get("/other/jobs")).json()["jobs"] == []


@on_a_loop
async def test_without_a_principal_there_are_no_jobs(sqlite: Place) -> None:
    """Who is nobody in particular has no jobs, unless all of them are to share theirs."""
    nobody: HeaderMap = {"prefer": "respond-async"}
    async with site(sqlite, jobs=BY_HAND) as here:
        reply = await here.send(ITEMS, headers=nobody)
        assert (reply.status, reply.problem["code"]) == (403, "no_principal")
        assert (await here.get("/batch/jobs", headers={})).status == 403
    async with site(sqlite, jobs={**BY_HAND, "anonymous": True}) as here:
        path = await here.submitted(ITEMS, headers=nobody)
        assert (await here.get(path, headers={})).status == 200
        assert (await here.get(path)).status == 404


# One job


@on_a_loop
async def test_a_job_is_shown_as_it_goes(place: Place) -> None:
    """State, counts, progress, times, and links; with an estimate of its end as soon as there can be one."""
    async with site(place, jobs=BY_HAND, store={"keep": 1000}) as here:
        path = await here.submitted(ITEMS)
        reply = await here.get(path)
        queued = reply.json()
        assert (queued["state"], queued["progress"], queued["eta"]) == ("queued", 0, None)
        assert queued["counts"]["pending"] == 5
        assert int(reply.header("retry-after") or "") >= 1
        [claim] = await here.claims()
        await here.settle(claim, ok(0), failed(1))
        async with here.store.checkpointer() as checkpointer:
            await checkpointer.park(claim.lease, Parked(seq=2, attempt=1, due_in=60))
        running = (await here.get(path)).json()
        assert (running["state"], running["progress"]) == ("running", 0.4)
        assert running["counts"] == {
            "total": 5,
            "completed": 1,
            "failed": 1,
            "cancelled": 0,
            "expired": 0,
            "unknown": 0,
            "in_flight": 2,
            "retrying": 1,
            "pending": 0,
        }
        assert running["started_at"] <= running["eta"] <= running["deadline"]
        assert set(running["links"]) == {"self", "events", "results", "cancel"}
        await here.settle(claim, ok(2), ok(3), ok(4))
        await here.finalize()
        reply = await here.get(path)
        done = reply.json()
        assert (done["state"], done["progress"], done["eta"]) == ("completed", 1, None)
        assert done["created_at"] <= done["started_at"] <= done["finished_at"] < done["kept_until"]
        assert reply.header("retry-after") is None
        assert set(done["links"]) == {"self", "events", "results", "retry"}


@on_a_loop
async def test_a_version_that_is_known_is_not_sent_again(place: Place) -> None:
    """`If-None-Match` gives 304 until something has happened; `HEAD` is as `GET` without its content."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        tag = (await here.get(path)).header("etag")
        assert tag is not None
        for known in (tag, f'"x", {tag}', tag.removeprefix("W/"), "*"):
            reply = await here.get(path, headers={**ANN, "if-none-match": known})
            assert (reply.status, reply.body, reply.header("etag")) == (304, b"", tag)
        [claim] = await here.claims()
        await here.settle(claim, ok(0))
        reply = await here.get(path, headers={**ANN, "if-none-match": tag})
        assert reply.status == 200
        assert reply.header("etag") != tag
        head = await here.ask("HEAD", path)
        assert (head.status, head.body, head.header("etag")) == (200, b"", reply.header("etag"))


@on_a_loop
async def test_who_waits_is_told_at_the_end(place: Place) -> None:
    """`Prefer: wait=N` answers as soon as the job has ended."""
    async with site(place, jobs={**BY_HAND, "poll": 20}) as here:
        path = await here.submitted(ITEMS)
        asked = here.begin("GET", path, headers={**ANN, "prefer": "wait=25"})
        [claim] = await here.claims()
        await here.settle(claim, *(ok(seq) for seq in range(4)))
        assert not asked.sent
        await here.settle(claim, ok(4))
        await here.finalize()
        if place.is_sqlite:
            # No hint goes from one process to the other.
            asked.leave()
            await asked.task
            asked = here.begin("GET", path, headers={**ANN, "prefer": "wait=25"})
        reply = await asked.finished()
        assert reply.json()["state"] == "completed"
        assert reply.header("preference-applied") == "wait=25"


@on_a_loop
async def test_who_waits_for_news_is_told_of_the_next(place: Place) -> None:
    """With `If-None-Match` it answers as soon as anything has changed; if nothing does, with 304 when time is over."""
    async with site(place, jobs={**BY_HAND, "wait": 1}) as here:
        path = await here.submitted(ITEMS)
        tag = (await here.get(path)).header("etag")
        known = {**ANN, "if-none-match": tag, "prefer": "wait=1"}
        assert (await here.get(path, headers=known)).status == 304
    async with site(place, jobs=BY_HAND) as here:
        asked = here.begin("GET", path, headers={**ANN, "if-none-match": tag, "prefer": "wait=25"})
        [claim] = await here.claims()
        reply = await asked.finished()
        assert (reply.status, reply.json()["counts"]["in_flight"]) == (200, 5)
        await here.settle(claim, ok(0))
        # What is known is old already.
        assert (await here.get(path, headers={**ANN, "if-none-match": tag, "prefer": "wait=25"})).status == 200


@on_a_loop
async def test_who_waits_and_leaves_is_let_go(sqlite: Place) -> None:
    """Nothing waits for a client that has left, nor when the server stops."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        longer_than_the_test: HeaderMap = {**ANN, "prefer": "wait=60"}
        asked = here.begin("GET", path, headers=longer_than_the_test)
        await asyncio.sleep(0)
        asked.leave()
        await asked.task
        assert not asked.sent
        asked = here.begin("GET", path, headers=longer_than_the_test)
        await asyncio.sleep(0)
        here.app.drain(1)
        assert (await asked.finished()).json()["state"] == "queued"


# Stopping and removing


@on_a_loop
async def test_a_layer_that_repeats_the_body_keeps_nobody_busy(sqlite: Place) -> None:
    """As those do that have read it before: they are asked now and then whether the client has left."""
    calls = 0
    async with site(sqlite, jobs={**BY_HAND, "wait": 1, "stream_timeout": 1}) as here:
        path = await here.submitted(ITEMS)

        async def layer(scope: Scope, receive: Receive, send: Send) -> None:
            async def again() -> Message:
                nonlocal calls
                calls += 1
                return {"type": "http.request", "body": b"", "more_body": False}

            await here.app(scope, again, send)

        for rest, wish in (("", "wait=1"), ("/events", None)):
            headers: HeaderMap = {**ANN, "prefer": wish}
            reply = await Exchange(layer, method="GET", path=path + rest, headers=headers).finished()
            assert reply.status == 200
    assert calls < 100


@on_a_loop
async def test_a_job_can_be_cancelled(place: Place) -> None:
    """What is done stays, the rest is cancelled; asked again, nothing changes."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        [claim] = await here.claims()
        await here.settle(claim, ok(0), failed(1))
        for _ in range(2):
            reply = await here.ask("POST", f"{path}/cancel")
            assert (reply.status, reply.json()["state"]) == (202, "cancelling")
            assert reply.json()["cancel_requested_at"] is not None
        await here.store.claims.release([claim.lease])
        await here.finalize()
        reply = await here.ask("POST", f"{path}/cancel")
        assert (reply.status, reply.json()["state"]) == (200, "cancelled")
        results = await here.results(path)
        assert [result["outcome"] for result in results] == ["ok", "error", "cancelled", "cancelled", "cancelled"]
        assert (results[2]["status"], results[2]["error"]) == (503, "cancelled")
        assert results[2]["body"]["code"] == "cancelled"


@on_a_loop
async def test_delete_stops_first_and_removes_then(place: Place) -> None:
    """`DELETE` cancels a job that runs, and removes one that has ended; then it is not there."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        for _ in range(2):
            reply = await here.ask("DELETE", path)
            assert (reply.status, reply.json()["state"]) == (202, "cancelling")
        await here.finalize()
        reply = await here.ask("DELETE", path)
        assert (reply.status, reply.body) == (204, b"")
        for method, rest in ROUTES:
            assert (await here.ask(method, path + rest)).status == 404


@on_a_loop
async def test_a_job_whose_time_is_over_is_gone(place: Place) -> None:
    """Once it was removed for its age: 410 for its owner, 404 for others."""
    async with site(place, jobs=BY_HAND, store={"keep": 0.001}) as here:
        path = await completed(here)

        async def is_swept() -> bool:
            return bool((await here.store.retention.sweep()).purged)

        await until(is_swept)
        for method, rest in ROUTES:
            reply = await here.ask(method, path + rest)
            assert reply.status == 410
            if method != "HEAD":
                assert reply.problem["code"] == "gone"
            assert (await here.ask(method, path + rest, headers=BOB)).status == 404


# Trying again


@on_a_loop
async def test_what_failed_can_be_tried_again(place: Place) -> None:
    """A new job of the items that failed, in their order, with the credentials of whoever asks; linked to the old."""
    answers = {"/1": answer(status=500), "/3": answer(status=503)}
    api = Api(answers)
    async with site(place, api, jobs={"work": replace(QUICK, attempts=1, rests=1)}) as here:
        path = await here.submitted(ITEMS)
        await here.ended(path)
        api.routes.clear()
        api.arrived.clear()
        reply = await here.ask("POST", f"{path}/retry", headers={**ANN, "x-trace": "second"})
        again = location(reply)
        assert reply.json()["retry_of"] == job_id(path)
        await here.ended(again)
        assert [(result["id"], result["index"], result["outcome"]) for result in await here.results(again)] == [
            ("i1", 0, "ok"),
            ("i3", 1, "ok"),
        ]
        assert api.targets == ["/1", "/3"]
        assert {arrived.header("x-trace") for arrived in api.arrived} == {"second"}
        reply = await here.ask("POST", f"{again}/retry")
        assert (reply.status, reply.problem["code"]) == (409, "wrong_state")


@on_a_loop
async def test_some_of_what_failed_can_be_chosen(place: Place) -> None:
    """By outcome; one that succeeded is not done twice; a key stands for one retry; a running job has none."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted([{"path": f"/{n}"} for n in range(250)])
        assert (await here.ask("POST", f"{path}/retry")).problem["code"] == "wrong_state"
        claims = await here.claims()
        for claim in claims[:-1]:
            await here.settle(claim, *(ok(seq) if seq % 10 else failed(seq) for seq in claim.open_seqs))
        await here.ask("POST", f"{path}/cancel")
        await here.store.claims.release([claims[-1].lease])
        await here.finalize()
        for query, total in (
            ("", 70),
            ("?outcome=error", 20),
            ("?outcome=cancelled", 50),
            ("?outcome=cancelled,error", 70),
        ):
            reply = await here.ask("POST", f"{path}/retry{query}")
            assert (reply.status, reply.json()["counts"]["total"]) == (202, total)
        assert (await here.ask("POST", f"{path}/retry?outcome=unknown")).status == 409
        assert (await here.ask("POST", f"{path}/retry?outcome=ok")).problem["code"] == "invalid_query"
        with_key: HeaderMap = {**ANN, "idempotency-key": "again"}
        first = location(await here.ask("POST", f"{path}/retry", headers=with_key))
        assert location(await here.ask("POST", f"{path}/retry", headers=with_key)) == first
        other = await here.ask("POST", f"{path}/retry?outcome=error", headers=with_key)
        assert (other.status, other.problem["code"]) == (422, "key_conflict")


@on_a_loop
async def test_a_retry_is_judged_as_a_whole(sqlite: Place) -> None:
    """By the policy of now: caps count over all of its items, and what they had refused before may go now."""
    items: list[JSON] = [{"path": "/a", "method": "POST"}] * 250
    async with site(sqlite, jobs=BY_HAND, max_per_batch={"POST /a": 100}) as here:
        path = await here.submitted(items)
        for claim in await here.claims():
            await here.settle(claim, *(failed(seq) for seq in claim.open_seqs))
        await here.finalize()
    async with site(sqlite, max_per_batch={"POST /a": 120}) as here:
        again = location(await here.ask("POST", f"{path}/retry"))
        await here.ended(again)
        outcomes = [result.get("error") for result in await here.results(again, "limit=1000")]
        assert outcomes == [None] * 120 + ["too_many_for_route"] * 130


@on_a_loop
async def test_items_that_waited_are_tried_again_with_what_they_waited_for(place: Place) -> None:
    """Sources that succeeded give their values now; those that failed are waited for once more."""
    items: list[JSON] = [
        {"id": "new", "path": "/new", "method": "POST"},
        {"id": "bad", "path": "/bad"},
        {"id": "use", "path": "/use/{n}", "vars": {"n": "new#/body/id"}},
        {"id": "both", "path": "/both/{n}/{m}", "vars": {"n": "new#/body/id", "m": "bad#/body/id"}},
        {"id": "then", "path": "/then/{m}", "vars": {"m": "bad#/body/id"}, "depends_on": ["new"]},
        {"id": "plain", "path": "/plain", "depends_on": ["bad", "new"]},
    ]
    api = Api({"/new": value({"id": 7}), "/bad": answer(status=404), "/use/7": answer(status=404)})
    async with site(place, api) as here:
        path = await here.submitted(items)
        await here.ended(path)
        assert [result["status"] for result in await here.results(path)] == [200, 404, 404, 424, 424, 424]
        api.routes.clear()
        api.routes["/bad"] = value({"id": 8})
        api.arrived.clear()
        again = location(await here.ask("POST", f"{path}/retry"))
        await here.ended(again)
        results = await here.results(again)
        assert [(result["id"], result["status"], result.get("error")) for result in results] == [
            ("bad", 200, None),
            ("use", 200, None),
            ("both", 424, "reference_failed"),
            ("then", 200, None),
            ("plain", 200, None),
        ]
        assert sorted(api.targets) == ["/bad", "/plain", "/then/8", "/use/7"]


# The rest


MEANINGLESS = [
    ("GET", "/batch/jobs/", 404, "not_found"),
    ("GET", "/batch/jobs/x", 404, "not_found"),
    ("GET", "/batch/jobs/{id}/", 404, "not_found"),
    ("GET", "/batch/jobs/{id}/nothing", 404, "not_found"),
    ("GET", "/batch/jobs/{id}/results/1", 404, "not_found"),
    ("POST", "/batch/jobs", 405, "method_not_allowed"),
    ("PUT", "/batch/jobs/{id}", 405, "method_not_allowed"),
    ("GET", "/batch/jobs/{id}/cancel", 405, "method_not_allowed"),
    ("DELETE", "/batch/jobs/{id}/results", 405, "method_not_allowed"),
    ("GET", "/batch/jobs?x=1", 400, "invalid_query"),
    ("GET", "/batch/jobs?limit=0", 400, "invalid_query"),
    ("GET", "/batch/jobs?limit=101", 400, "invalid_query"),
    ("GET", "/batch/jobs?limit=1&limit=2", 400, "invalid_query"),
    ("GET", "/batch/jobs?state=storing", 400, "invalid_query"),
    ("GET", "/batch/jobs?state=", 400, "invalid_query"),
    ("GET", "/batch/jobs?&&", 400, "invalid_query"),
    ("GET", "/batch/jobs?after=%FF", 400, "invalid_query"),
    ("GET", "/batch/jobs?after=%00", 400, "invalid_query"),
    ("GET", "/batch/jobs?after=!", 400, "bad_cursor"),
    ("GET", "/batch/jobs/{id}/results?order=x", 400, "invalid_query"),
    ("GET", "/batch/jobs/{id}/results?outcome=fine", 400, "invalid_query"),
    ("GET", "/batch/jobs/{id}/results?limit=1001", 400, "invalid_query"),
    ("GET", "/batch/jobs/{id}/results?follow=yes", 400, "invalid_query"),
    ("GET", "/batch/jobs/{id}/results?after=zzz", 400, "bad_cursor"),
]


@on_a_loop
async def test_what_means_nothing_is_refused(sqlite: Place) -> None:
    """Unknown paths, methods and parameters are problem documents; `Allow` says what there is."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        for method, target, status, code in MEANINGLESS:
            reply = await here.ask(method, target.replace("{id}", job_id(path)))
            assert (reply.status, reply.problem["code"]) == (status, code), (method, target)
            assert (reply.header("allow") is not None) == (status == 405)


@on_a_loop
async def test_paths_beside_belong_to_the_app(sqlite: Place) -> None:
    """`/batch/jobsx` is none of ours; nor is anything, without jobs."""
    api = Api()
    async with site(sqlite, api, jobs=BY_HAND) as here:
        await here.get("/batch/jobsx")
        await here.get("/batch/job")
        await Site(BatchMiddleware(api), here.store).get("/batch/jobs")
        assert api.targets == ["/batch/jobsx", "/batch/job", "/batch/jobs"]
        options = await here.ask("OPTIONS", "/batch/jobs")
        assert (options.status, options.header("allow")) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("path", ["/batch/jobs", "/batch%2Fjobs", "/%62atch/jobs", "/batch/jobs/{id}/cancel"])
@on_a_loop
async def test_items_reach_no_jobs(sqlite: Place, path: str) -> None:
    """An item may not be what concerns jobs, neither at once nor in a job."""
    api = Api()
    async with site(sqlite, api) as here:
        target = path.replace("{id}", job_id(await here.submitted([])))
        for method in ("GET", "POST", "DELETE"):
            item: JSON = {"path": target, "method": method}
            [entry] = (await here.send([item], headers=ANN)).responses
            assert (entry["status"], entry["error"]) == (400, "nested_batch")
            job = await here.submitted([item])
            await here.ended(job)
            [result] = await here.results(job)
            assert (result["status"], result["error"]) == (400, "nested_batch")
        assert api.targets == []


# Browsers


FOREIGN: list[HeaderMap] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
]


@on_a_loop
async def test_pages_of_other_sites_are_refused(sqlite: Place) -> None:
    """They can neither submit nor read nor stop anything."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        before = await here.store.jobs.get(job_id(path), None)
        for page in FOREIGN:
            headers: HeaderMap = {**ANN, **page}
            replies = [
                await here.send(ITEMS, headers={**ASYNC, **page}),
                await here.get("/batch/jobs", headers=headers),
            ]
            for method, rest in ROUTES:
                if method != "HEAD":
                    replies.append(await here.ask(method, path + rest, headers=headers))
            assert [(reply.status, reply.problem["code"]) for reply in replies] == [(403, "cross_site")] * len(replies)
            assert await here.store.jobs.get(job_id(path), None) == before
        assert len((await here.store.jobs.list(None)).jobs) == 1


@on_a_loop
async def test_trusted_pages_may_use_jobs(sqlite: Place) -> None:
    """A trusted origin is told what it may send, and may read the answers and the headers that matter."""
    origin = "https://app.example.com"
    page: HeaderMap = {"origin": origin, "sec-fetch-site": "cross-site"}
    async with site(sqlite, jobs=BY_HAND, trusted_origins=[origin]) as here:
        reply = await here.send(ITEMS, headers={**ASYNC, **page})
        path = location(reply)
        assert reply.header("access-control-allow-origin") == origin
        exposed = reply.header("access-control-expose-headers") or ""
        assert {"Location", "ETag", "Link", "Retry-After", "Preference-Applied"} <= set(exposed.split(", "))
        asking = {**page, "access-control-request-method": "DELETE", "access-control-request-headers": "if-none-match"}
        preflight = await here.ask("OPTIONS", path, headers=asking)
        assert preflight.status == 204
        assert "DELETE" in (preflight.header("access-control-allow-methods") or "")
        assert preflight.header("access-control-allow-headers") == "if-none-match"
        assert (await here.get(path, headers={**ANN, **page})).header("access-control-allow-origin") == origin
        foreign = await here.ask("OPTIONS", path, headers={**asking, "origin": "https://evil.example"})
        assert foreign.header("access-control-allow-origin") is None


@on_a_loop
async def test_an_item_of_a_page_sets_no_cookie(sqlite: Place) -> None:
    """As in a batch that is answered at once; it is remembered that a page sent the job."""
    page: HeaderMap = {**ASYNC, "origin": "http://api.example", "sec-fetch-site": "same-origin"}
    async with site(sqlite) as here:
        path = await here.submitted([{"path": "/a", "headers": {"cookie": "a=b"}}], headers=page)
        await here.ended(path)
        [result] = await here.results(path)
        assert result["error"] == "header_refused"
        assert json.dumps(result).count("a=b") == 0
