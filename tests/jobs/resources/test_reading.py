"""Reading results and progress: before the end and after, in both orders, page by page and as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from batchproxy.jobs.resources import reading
from batchproxy.jobs.store import WORKER_LOST, ItemResult, Outcome
from tests.jobs.place import Place
from tests.protocol.api import Api
from tests.protocol.exchange import JSON, Exchange, HeaderMap
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, LINES, Site, site, until
from .test_watching import BY_HAND, ITEMS, completed, failed, ok

NDJSON: HeaderMap = {**ANN, "accept": LINES}
SMALL: Mapping[str, Any] = {"chunk_items": 2}


def indexes(results: list[JSON]) -> list[int]:
    return [result["index"] for result in results if "index" in result]


async def lines(here: Site, path: str, query: str = "") -> list[JSON]:
    return (await here.get(f"{path}/results?{query}", headers=NDJSON)).lines


# Results


@on_a_loop
async def test_results_can_be_read_before_the_end(place: Place) -> None:
    """In the order of the input up to the first that is missing; in that of completion all that are there."""
    async with site(place, jobs=BY_HAND, store=SMALL) as here:
        path = await here.submitted(ITEMS)
        claims = sorted(await here.claims(), key=lambda claim: claim.first_seq)
        await here.settle(claims[1], ok(3))
        await here.settle(claims[0], ok(0))
        reply = (await here.get(f"{path}/results")).json()
        assert (indexes(reply["results"]), reply["complete"]) == ([0], False)
        assert sorted(indexes(await here.results(path, "order=completion"))) == [0, 3]
        assert [line.get("complete") for line in await lines(here, path)] == [None, False]
        following = reply["next"]
        assert indexes((await here.get(following)).json()["results"]) == []
        await here.settle(claims[0], failed(1))
        await here.settle(claims[1], ok(2))
        await here.settle(claims[2], ok(4))
        reply = (await here.get(following)).json()
        # Nothing more comes, but the job has not ended yet.
        assert (indexes(reply["results"]), reply["complete"]) == ([1, 2, 3, 4], False)
        await here.finalize()
        reply = (await here.get(reply["next"])).json()
        assert reply == {"results": [], "cursor": reply["cursor"], "complete": True, "next": None}


@pytest.mark.parametrize("order", ["input", "completion"])
@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
@on_a_loop
async def test_pages_lead_on(place: Place, order: str, limit: int) -> None:
    """Page by page, each result comes once; a filter leaves out the others."""
    items: list[JSON] = [{"path": f"/{n}", "id": f"i{n}"} for n in range(9)]
    async with site(place, jobs=BY_HAND, store=SMALL) as here:
        path = await here.submitted(items)
        for claim in reversed(await here.claims()):
            await here.settle(claim, *(failed(seq) if seq % 3 == 0 else ok(seq) for seq in claim.open_seqs))
        await here.finalize()
        for query, wanted in (
            ("", range(9)),
            ("&outcome=error", [0, 3, 6]),
            ("&outcome=ok,unknown", [1, 2, 4, 5, 7, 8]),
        ):
            found: list[JSON] = []
            target = f"{path}/results?order={order}&limit={limit}{query}"
            while target:
                page = (await here.get(target)).json()
                assert len(page["results"]) <= limit
                found += page["results"]
                target = page["next"]
            assert sorted(indexes(found)) == list(wanted)
            assert order == "completion" or indexes(found) == list(wanted)
            streamed = await lines(here, path, f"order={order}{query}")
            assert [line for line in streamed if "index" in line] == found
            assert streamed[-1]["complete"] is True


@on_a_loop
async def test_pages_without_results_lead_on_too(sqlite: Place) -> None:
    """Where what is asked for comes late, some steps give nothing, and are not the end."""
    async with site(sqlite, jobs=BY_HAND, store={"chunk_items": 1}) as here:
        path = await here.submitted([{"path": f"/{n}"} for n in range(70)])
        for claim in await here.claims():
            await here.settle(claim, *(failed(seq) if seq == 69 else ok(seq) for seq in claim.open_seqs))
        assert indexes(await lines(here, path, "order=completion&outcome=error")) == [69]
        assert indexes(await lines(here, path, "order=input&outcome=error")) == [69]


@on_a_loop
async def test_lines_come_to_their_limit_and_go_on_from_their_cursor(place: Place) -> None:
    """With a limit the stream ends early, and its last line leads on; without, all pages are in it."""
    items: list[JSON] = [{"path": f"/{n}"} for n in range(450)]
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(items)
        for claim in await here.claims():
            await here.settle(claim, *(ok(seq) for seq in claim.open_seqs))
        await here.finalize()
        everything = await lines(here, path)
        assert indexes(everything) == list(range(450))
        # Behind each page stands how to go on from there, for who is cut off.
        marks = [number for number, line in enumerate(everything) if "cursor" in line]
        assert len(marks) == 5
        rest = await lines(here, path, f"after={everything[marks[1]]['cursor']}")
        assert indexes(rest) == list(range(200, 450))
        first = await lines(here, path, "limit=130")
        assert (indexes(first), first[-1]["complete"]) == (list(range(130)), False)
        then = await lines(here, path, f"after={first[-1]['cursor']}&limit=1000")
        assert (indexes(then), then[-1]["complete"]) == (list(range(130, 450)), True)


@pytest.mark.parametrize("order", ["input", "completion"])
@on_a_loop
async def test_who_follows_gets_each_result_when_it_is_there(place: Place, order: str) -> None:
    """`follow=true` goes on until the job has ended, whoever works on it."""
    async with site(place, jobs=BY_HAND, store=SMALL) as here:
        path = await here.submitted(ITEMS)
        follower = here.begin("GET", f"{path}/results?follow=true&order={order}")
        seen: list[int] = []
        for claim in sorted(await here.claims(), key=lambda claim: claim.first_seq):
            for seq in claim.open_seqs:
                await here.settle(claim, ok(seq))
                seen.append(seq)
                await until(lambda: bool(follower.sent) and received(follower) == seen)
        assert not follower.task.done()
        await here.finalize()
        reply = await follower.finished()
        assert indexes(reply.lines) == [0, 1, 2, 3, 4]
        assert reply.lines[-1]["complete"] is True
        assert reply.header("x-accel-buffering") == "no"


def received(exchange: Exchange) -> list[int]:
    body = b"".join(message.get("body", b"") for _, message in exchange.sent)
    return [
        int(line.partition(b",")[0].partition(b":")[2]) for line in body.split(b"\n") if line.startswith(b'{"index"')
    ]


@on_a_loop
async def test_a_stream_ends_with_a_cursor(sqlite: Place) -> None:
    """When the server stops, when the job is removed, or when it has lasted long enough; nobody waits for ever."""
    async with site(sqlite, jobs={**BY_HAND, "stream_timeout": 1}) as here:
        path = await here.submitted(ITEMS)
        [claim] = await here.claims()
        await here.settle(claim, ok(0))
        reply = await here.get(f"{path}/results?follow=true")
        assert (indexes(reply.lines), reply.lines[-1]["complete"]) == ([0], False)
    async with site(sqlite, jobs=BY_HAND) as here:
        follower = here.begin("GET", f"{path}/results?follow=true&after={reply.lines[-1]['cursor']}")
        await until(lambda: bool(follower.sent))
        here.app.drain(1)
        assert (await follower.finished()).lines[-1]["complete"] is False
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await completed(here)
        left = here.begin("GET", f"{path}/results?follow=true&outcome=unknown")
        assert (await left.finished()).lines == [{"cursor": left.so_far().lines[0]["cursor"], "complete": True}]


@on_a_loop
async def test_a_stream_in_which_nothing_comes_shows_that_it_lives(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in between cut a connection that is silent for a minute or so. What it says is as good as before."""
    monkeypatch.setattr(reading, "HEARTBEAT", 0.01)
    async with site(sqlite, jobs={**BY_HAND, "poll": 0.02}) as here:
        path = await here.submitted(ITEMS)
        follower = here.begin("GET", f"{path}/results?follow=true")
        await until(lambda: len(follower.sent) >= 3)
        sign = follower.so_far().lines[0]
        follower.leave()
        await follower.task
        assert sign["complete"] is False
        [claim] = await here.claims()
        await here.settle(claim, ok(0))
        assert indexes(await here.results(path, f"after={sign['cursor']}")) == [0]


@on_a_loop
async def test_a_follower_that_leaves_is_let_go(sqlite: Place) -> None:
    """Nothing goes on for nobody; nor for a reader that takes nothing."""
    async with site(sqlite, jobs=BY_HAND, write_timeout=0.1) as here:
        path = await here.submitted(ITEMS)
        for rest in ("/results?follow=true", "/events"):
            follower = here.begin("GET", path + rest)
            await until(lambda exchange=follower: bool(exchange.sent))
            follower.leave()
            await follower.task
        follower = here.begin("GET", f"{path}/results?follow=true")
        follower.stop_reading()
        await follower.task
        assert follower.sent == []


@on_a_loop
async def test_a_job_that_is_removed_ends_its_followers(sqlite: Place) -> None:
    """They are told why, in their own form."""
    async with site(sqlite, jobs={**BY_HAND, "poll": 20}) as here:
        for rest in ("/results?follow=true", "/events"):
            path = await here.submitted(ITEMS)
            await here.ask("POST", f"{path}/cancel")
            follower = here.begin("GET", path + rest)
            await until(lambda exchange=follower: bool(exchange.sent))
            # Of this the app has no hint, and before the next poll there is nothing left to see.
            await here.finalize()
            assert (await here.ask("DELETE", path)).status == 204
            body = (await follower.finished()).body
            assert b'"code":"not_found"' in body
            assert b'"complete":true' not in body
            assert b"event: ended" not in body


FATES = {
    Outcome.CANCELLED: (503, "cancelled"),
    Outcome.EXPIRED: (504, "expired"),
    Outcome.UNKNOWN: (504, "unknown"),
}


@on_a_loop
async def test_what_was_not_answered_is_said_in_the_form_of_the_dialect(sqlite: Place) -> None:
    """Items that the API has not answered have a status, a code, and a problem document."""
    async with site(sqlite, jobs=BY_HAND) as here:
        items: list[JSON] = [{"path": "/a", "id": "x"}] + [{"path": "/a"}] * 5
        results = [
            ItemResult(seq=seq, outcome=outcome, custom_id="x" if seq == 0 else None)
            for seq, outcome in enumerate(FATES)
        ]
        results.append(ItemResult(seq=3, outcome=Outcome.ERROR, failure=WORKER_LOST, detail="Lost three times."))
        results.append(ItemResult(seq=4, outcome=Outcome.ERROR, status=504, failure="timeout", detail="Too late."))
        results.append(ItemResult(seq=5, outcome=Outcome.ERROR, status=502, failure="something_new"))
        path = await completed(here, *results, items=items)
        found = await here.results(path)
        assert found[0]["id"] == "x"
        assert [(each["outcome"], each["status"], each["error"]) for each in found] == [
            *((outcome.value, status, code) for outcome, (status, code) in FATES.items()),
            ("error", 500, "worker_lost"),
            ("error", 504, "timeout"),
            ("error", 502, "something_new"),
        ]
        for each in found:
            assert each["headers"] == {"content-type": "application/problem+json"}
            assert (each["body"]["status"], each["body"]["code"]) == (each["status"], each["error"])
            assert each["body"]["type"] == f"/batch#{each['error']}"
            assert each["body"]["detail"]
        assert found[3]["body"]["detail"] == "Lost three times."


@on_a_loop
async def test_every_item_keeps_its_id(place: Place) -> None:
    """Also those of which nobody who did them has told: of the end of the job, or after a lost worker."""
    async with site(place, jobs=BY_HAND, store={"chunk_items": 4}) as here:
        path = await here.submitted([{"path": "/a", **({"id": f"i{n}"} if n % 3 else {})} for n in range(12)])
        ids = [f"i{n}" if n % 3 else None for n in range(12)]
        [first, *others] = await here.claims()
        await here.settle(
            first,
            ItemResult(seq=0, outcome=Outcome.OK, status=200),
            ItemResult(seq=1, outcome=Outcome.UNKNOWN),
            ItemResult(seq=2, outcome=Outcome.ERROR, failure=WORKER_LOST),
            ItemResult(seq=3, outcome=Outcome.OK, status=200),
        )
        await here.ask("POST", f"{path}/cancel")
        await here.store.claims.release([each.lease for each in others])
        await here.finalize()
        for query in ("", "order=completion", "limit=1000"):
            found = sorted(await here.results(path, query), key=lambda each: each["index"])
            assert [each.get("id") for each in found] == ids
        page = (await here.get(f"{path}/results?outcome=cancelled&limit=3")).json()
        assert [each.get("id") for each in page["results"]] == ids[4:7]


@on_a_loop
async def test_results_of_an_ended_job_have_a_version(sqlite: Place) -> None:
    """It differs with what is asked for; while the job runs there is none."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        assert (await here.get(f"{path}/results")).header("etag") is None
        [claim] = await here.claims()
        await here.settle(claim, *(ok(seq) for seq in range(5)))
        await here.finalize()
        asked = [("", ANN), ("limit=2", ANN), ("order=completion", ANN), ("outcome=ok", ANN), ("", NDJSON)]
        tags = [(await here.get(f"{path}/results?{query}", headers=headers)).header("etag") for query, headers in asked]
        assert len({*tags}) == len(tags)
        for (query, headers), tag in zip(asked, tags, strict=True):
            reply = await here.get(f"{path}/results?{query}", headers={**headers, "if-none-match": tag})
            assert (reply.status, reply.body) == (304, b"")
        for headers in (ANN, NDJSON):
            head = await here.ask("HEAD", f"{path}/results", headers=headers)
            assert (head.status, head.body) == (200, b"")


@on_a_loop
async def test_the_form_is_negotiated(sqlite: Place) -> None:
    """JSON or lines; who follows gets lines, and events are events."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await completed(here)
        for rest, accept, media_type in (
            ("/results", "*/*", "application/json"),
            ("/results", f"{LINES}, application/json;q=0.5", LINES),
            ("/results?follow=true", "*/*", LINES),
            ("/events", "text/event-stream", "text/event-stream; charset=utf-8"),
        ):
            assert (await here.get(path + rest, headers={**ANN, "accept": accept})).header("content-type") == media_type
        for rest, accept in (
            ("/results", "text/csv"),
            ("/results?follow=true", "application/json"),
            ("/events", LINES),
        ):
            assert (await here.get(path + rest, headers={**ANN, "accept": accept})).problem["code"] == "not_acceptable"


# Progress


def parsed(body: bytes) -> list[dict[str, str]]:
    blocks = [block for block in body.decode().split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


@on_a_loop
async def test_progress_comes_as_events(place: Place) -> None:
    """The job each time that it has changed; the last event says that it has ended."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        listener = here.begin("GET", f"{path}/events")
        await until(lambda: len(listener.sent) >= 3)
        [claim] = await here.claims()
        for seq in claim.open_seqs:
            await here.settle(claim, ok(seq))
        await here.finalize()
        reply = await listener.finished()
        assert reply.header("content-type") == "text/event-stream; charset=utf-8"
        first, *events = parsed(reply.body)
        assert first == {"retry": "2000"}
        assert [event["event"] for event in events] == ["progress"] * (len(events) - 1) + ["ended"]
        assert len({event["id"] for event in events}) == len(events)
        assert '"state":"queued"' in events[0]["data"]
        assert '"state":"completed"' in events[-1]["data"]


@on_a_loop
async def test_who_comes_back_gets_only_news(place: Place) -> None:
    """`Last-Event-ID` names what was seen; after the end there is nothing to come back for."""
    async with site(place, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        listener = here.begin("GET", f"{path}/events")
        await until(lambda: len(listener.sent) >= 3)
        listener.leave()
        await listener.task
        [_, seen] = parsed(b"".join(message.get("body", b"") for _, message in listener.sent))
        again = here.begin("GET", f"{path}/events", headers={**ANN, "last-event-id": seen["id"]})
        await until(lambda: len(again.sent) >= 2)
        [claim] = await here.claims()
        await here.settle(claim, *(ok(seq) for seq in range(5)))
        await here.finalize()
        events = parsed((await again.finished()).body)[1:]
        assert events[-1]["event"] == "ended"
        assert seen["id"] not in [event["id"] for event in events]
        last: HeaderMap = {**ANN, "last-event-id": events[-1]["id"]}
        assert (await here.get(f"{path}/events", headers=last)).status == 204
        [_, only] = parsed((await here.get(f"{path}/events")).body)
        assert only["id"] == events[-1]["id"]
        head = await here.ask("HEAD", f"{path}/events")
        assert (head.status, head.body, head.header("content-length")) == (200, b"", None)
        assert head.header("content-type") == "text/event-stream; charset=utf-8"


@on_a_loop
async def test_following_while_a_worker_works(place: Place) -> None:
    """All together: the worker of the app, somebody who follows, and somebody who watches."""
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async with site(place, Api({"/slow": slow})) as here:
        path = await here.submitted([{"path": "/slow"}, *[{"path": f"/{n}"} for n in range(300)]])
        follower = here.begin("GET", f"{path}/results?follow=true&order=completion")
        listener = here.begin("GET", f"{path}/events")
        await until(lambda: len(received(follower)) == 300)
        gate.set()
        found = (await follower.finished()).lines
        assert sorted(indexes(found)) == list(range(301))
        assert indexes(found)[-1] == 0
        assert parsed((await listener.finished()).body)[-1]["event"] == "ended"
