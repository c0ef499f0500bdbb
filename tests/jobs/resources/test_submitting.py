"""Submitting over HTTP: what is accepted is durable, what is refused leaves nothing, as with a batch at once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pytest

from batchproxy import Batch, RateLimited
from batchproxy.engine.settings import KiB
from batchproxy.jobs.resources.streaming import Stream
from batchproxy.jobs.store import JobState, StoreSettings, opened
from batchproxy.observe.logs import AccessLog, as_text
from tests.jobs.place import Place
from tests.protocol.api import Api, answer, value
from tests.protocol.exchange import JSON, Exchange, HeaderMap
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, ASYNC, BOB, LINES, Site, job_id, location, rows, site, until

# So long that a few are more than what is held back of lines.
LONG: JSON = {"path": "/long", "method": "POST", "body": "x" * 10_000}
MANY: list[JSON] = [LONG] * 30


def by_hand(**jobs: Any) -> dict[str, Any]:
    return {"worker": False, **jobs}


# Accepted


@on_a_loop
async def test_a_batch_becomes_a_job(place: Place) -> None:
    """With `Prefer: respond-async`: 202 with where it is, when to ask, what was applied; and it is there for good."""
    async with site(place, jobs=by_hand()) as here:
        reply = await here.send([{"path": "/a"}, {"path": "/b"}])
        path = location(reply)
        assert path.startswith("/batch/jobs/")
        assert reply.header("preference-applied") == "respond-async"
        assert reply.header("vary") == "Prefer"
        assert reply.header("cache-control") == "no-store"
        assert int(reply.header("retry-after") or "") >= 1
        job = reply.json()
        assert (job["id"], job["state"], job["counts"]["total"]) == (job_id(path), "queued", 2)
        assert job["links"]["self"] == path
    async with opened(StoreSettings(url=place.url)) as later:
        assert (await later.jobs.get(job["id"], None)).state is JobState.QUEUED


@on_a_loop
async def test_the_access_log_tells_of_the_job(sqlite: Place) -> None:
    """The line of the batch has the id of the job, and how many items that has; a refused one has neither."""
    records: list[Mapping[str, Any]] = []
    log = AccessLog(records.append)
    async with site(sqlite, jobs=by_hand(), observers=[log]) as here:
        asked: Any = log.around(here.app)
        logged = Site(asked, here.store)
        path = location(await logged.send([{"path": "/a"}, {"path": "/b"}]))
        assert (await logged.send([{"path": "/a"}], headers={**ASYNC, "idempotency-key": ""})).status == 400
    taken, refused = records
    assert (taken["msg"], taken["job.id"], taken["batch.items"]) == ("batch", job_id(path), 2)
    assert f"2 items, 0 failed  job.id={job_id(path)}" in as_text(taken).decode()
    assert ("job.id" in refused, refused["batch.items"]) == (False, 0)


@on_a_loop
async def test_items_are_answered_as_in_a_batch(place: Place) -> None:
    """Each result of a job is the entry that the same batch has when it is answered at once."""
    api = Api(
        {
            "/text": answer("a\nb", headers=[("content-type", "text/plain")]),
            "/binary": answer(b"\xff", headers=[("set-cookie", "a"), ("set-cookie", "b")]),
            "/lines": answer('{\n"a": 1}'),
            "/empty": answer("", status=204),
            "/fails": answer(status=404),
        }
    )
    paths = ["/a?b=c", "/text", "/binary", "/lines", "/empty", "/fails", "//", "/batch", "/batch/jobs"]
    items: list[JSON] = [{"id": f"i{number}", "path": path} for number, path in enumerate(paths)]
    items.append({"path": "/b", "depends_on": ["i5"]})
    items.append({"path": "/p", "method": "POST", "body": {"x": 1}, "headers": {"X-One": "1"}})
    async with site(place, api) as here:
        at_once = (await here.send(items, headers=ANN)).json()
        path = await here.submitted(items)
        await here.ended(path)
        assert [each.target for each in api.arrived if each.path == "/p"] == ["/p", "/p"]
        first, second = (each.headers for each in api.arrived if each.path == "/p")
        with_key = {name for name, _ in second} - {name for name, _ in first}
        assert with_key <= {"idempotency-key"}
        entries = await here.results(path)
        assert [entry.pop("index") for entry in entries] == list(range(len(items)))
        outcomes = [entry.pop("outcome") for entry in entries]
        assert entries == at_once["responses"]
        assert outcomes == ["ok" if each["status"] < 400 else "error" for each in entries]
        lines = (await here.get(f"{path}/results", headers={**ANN, "accept": LINES})).lines
        assert [line.get("body") for line in lines[:-1]] == [entry.get("body") for entry in entries]


@on_a_loop
async def test_without_the_preference_nothing_changes(sqlite: Place) -> None:
    """A batch that does not ask for it is answered at once, and nothing is kept."""
    async with site(sqlite) as here:
        for prefer in ("return=minimal", "x-respond-async", "wait=3", 'y="respond-async"'):
            reply = await here.send([{"path": "/a"}], headers={**ANN, "prefer": prefer})
            assert [entry["status"] for entry in reply.responses] == [200]
        assert await rows(sqlite) == {}


@pytest.mark.parametrize("prefer", ["respond-async, wait=20", "wait=20,respond-async", 'Respond-Async; x, WAIT="20"'])
@on_a_loop
async def test_who_waits_gets_the_answer_itself(sqlite: Place, prefer: str) -> None:
    """With `wait=N`, a job that ends in time is answered as the batch at once is."""
    items: list[JSON] = [{"path": "/a", "id": "x"}, {"path": "//"}, {"path": "/b"}]
    async with site(sqlite) as here:
        at_once = await here.send(items, headers=ANN)
        reply = await here.send(items, headers={**ANN, "prefer": prefer})
        assert reply.status == 200
        assert reply.json() == at_once.json()
        assert reply.header("preference-applied") == "wait=20"
        assert (reply.header("content-location") or "").endswith("/results")
        lines = await here.send(items, headers={**ANN, "prefer": prefer, "accept": LINES})
        assert [line.get("index") for line in lines.lines] == [0, 1, 2, None]
        assert lines.lines[-1]["summary"] == at_once.json()["summary"]
        nothing = await here.send([], headers={**ANN, "prefer": prefer})
        assert nothing.json() == {"responses": [], "summary": {"total": 0, "succeeded": 0, "failed": 0}}


@on_a_loop
async def test_many_results_are_one_answer(sqlite: Place) -> None:
    """What is answered in time is whole, however many pages it was read in."""
    async with site(sqlite, jobs={"max_items": 1000}) as here:
        reply = await here.send(
            [{"path": f"/{n}"} for n in range(250)], headers={**ANN, "prefer": "respond-async,wait=25"}
        )
        assert [json.dumps(entry["body"]["target"]) for entry in reply.responses] == [f'"/{n}"' for n in range(250)]


@on_a_loop
async def test_an_answer_whose_job_is_removed_meanwhile_is_cut_off(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes what came for all of it; and it is no fault of the server."""
    begun: list[Stream] = []
    begin = Stream.begin

    async def told(self: Stream, *args: Any, **options: Any) -> None:
        begun.append(self)
        await begin(self, *args, **options)

    monkeypatch.setattr(Stream, "begin", told)
    async with site(sqlite, jobs={"max_items": 1000}) as here:
        body = json.dumps({"requests": [{"path": f"/{n}"} for n in range(250)]}).encode()
        headers = {**ANN, "content-type": "application/json", "prefer": "respond-async, wait=25"}
        reader = here.begin("POST", "/batch", headers=headers, body=body)
        reader.stop_reading()
        await until(lambda: bool(begun))
        [job] = (await here.get("/batch/jobs")).json()["jobs"]
        assert (await here.ask("DELETE", job["links"]["self"])).status == 204
        reader.read_on()
        await reader.task
        assert len(reader.sent) > 1
        assert all(message.get("more_body", True) for _, message in reader.sent)


@on_a_loop
async def test_who_waits_in_vain_gets_the_job(sqlite: Place) -> None:
    """A job that does not end in time is answered with 202, and goes on."""
    async with site(sqlite, jobs=by_hand(wait=1)) as here:
        reply = await here.send([{"path": "/a"}], headers={**ANN, "prefer": "respond-async, wait=9"})
        assert reply.status == 202
        assert reply.header("preference-applied") == "respond-async, wait=1"


async def waiting(here: Site) -> Exchange:
    """A client whose job is there, and who waits for its end."""
    body = json.dumps({"requests": [{"path": "/a"}]}).encode()
    headers = {**ANN, "content-type": "application/json", "prefer": "respond-async, wait=20"}
    exchange = here.begin("POST", "/batch", headers=headers, body=body)

    async def is_there() -> bool:
        return bool((await here.store.jobs.list(None)).jobs)

    await until(is_there)
    return exchange


@on_a_loop
async def test_who_leaves_while_he_waits_leaves_the_job(sqlite: Place) -> None:
    """A job that was accepted is done, whether anybody waits for it or not."""
    async with site(sqlite, jobs=by_hand()) as here:
        exchange = await waiting(here)
        exchange.leave()
        await exchange.task
        assert exchange.sent == []
        assert (await here.store.jobs.list(None)).jobs


@on_a_loop
async def test_who_waits_for_what_cannot_be_read_any_more_gets_the_job(sqlite: Place) -> None:
    """What was accepted is never answered as if it were not: it would be sent once more."""
    async with site(sqlite, jobs=by_hand()) as here:
        exchange = await waiting(here)
        with closing(sqlite3.connect(sqlite.settings().file, timeout=20)) as connection, connection:
            connection.execute("UPDATE batchproxy_job SET gone = 'deleted'")
        reply = await exchange.finished()
        assert (await here.get(location(reply))).status == 404


@on_a_loop
async def test_minimal_bodies_are_left_out(sqlite: Place) -> None:
    """`return=minimal` is kept with the job."""
    async with site(sqlite, Api({"/no": answer("{}", status=404)})) as here:
        items: list[JSON] = [{"path": "/a"}, {"path": "/no"}]
        reply = await here.send(items, headers={**ANN, "prefer": "respond-async, return=minimal"})
        assert reply.header("preference-applied") == "respond-async, return=minimal"
        await here.ended(location(reply))
        assert ["body" in entry for entry in await here.results(location(reply))] == [False, True]


# Lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \n"], ids=["lf", "crlf", "blank lines"])
@pytest.mark.parametrize("many", [[], MANY], ids=["few", "many"])
@on_a_loop
async def test_lines_are_items(place: Place, many: list[JSON], end: bytes) -> None:
    """One item a line; a byte order mark, empty lines, and a missing last end do not matter."""
    api = Api()
    items: list[JSON] = [
        *many,
        {"path": "/a", "id": "first"},
        {"path": "/b", "method": "PUT", "body": [1, "é"]},
        {"path": "//"},
    ]
    lines: list[JSON | bytes] = [b"\xef\xbb\xbf" + json.dumps(items[0]).encode(), *items[1:]]
    async with site(place, api) as here:
        reply = await here.send_lines(lines, end=end, piece=997)
        job = await here.ended(location(reply))
        assert job["counts"] == {**job["counts"], "total": len(items), "completed": len(items) - 1, "failed": 1}
        results = await here.results(location(reply), "limit=1000")
        assert [result.get("id") for result in results[len(many) :]] == ["first", None, None]
        assert results[-2]["body"]["body"] == '[1, "\\u00e9"]'
        assert results[-1]["error"] == "invalid_path"
    without_end = b"\n".join(json.dumps(item).encode() for item in items)
    async with site(place, api, jobs=by_hand()) as here:
        reply = await here.ask("POST", "/batch", headers={**ASYNC, "content-type": LINES}, body=without_end)
        assert reply.json()["counts"]["total"] == len(items)


@on_a_loop
async def test_options_may_stand_in_the_first_line(sqlite: Place) -> None:
    """A first line with `options` alone is about all items."""
    api = Api({"/no": answer(status=500)})
    async with site(sqlite, api) as here:
        options: JSON = {"options": {"execution": "sequential", "on_error": "stop"}}
        path = location(await here.send_lines([options, {"path": "/no"}, {"path": "/a"}]))
        job = await here.ended(path)
        assert job["counts"]["total"] == 2
        assert [result.get("error") for result in await here.results(path)] == [None, "stopped"]
        assert api.targets == ["/no"]


# Refused, as a batch at once


INVALID: list[Any] = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"{", id="cut off"),
    pytest.param(b"\xff{}", id="not UTF-8"),
    pytest.param(b'{"requests": [{"path": "/a"}, {"url": "/b"}]}', id="unknown member"),
    pytest.param(b'{"requests": [{"path": "/a"}, {"method": "GET"}]}', id="missing member"),
    pytest.param(b'{"requests": [{"path": "/a", "id": "x"}, {"path": "/b", "id": "x"}]}', id="duplicate id"),
    pytest.param(b'{"requests": [{"path": "/a", "depends_on": ["y"]}]}', id="unknown id"),
    pytest.param(
        b'{"requests": [{"path": "/", "id": "a", "depends_on": ["b"]}, {"path": "/", "id": "b", "depends_on": ["a"]}]}',
        id="cycle",
    ),
    pytest.param(b'{"requests": [{"path": "/{x}", "vars": {"x": "y"}}]}', id="wrong vars"),
    pytest.param(b'{"requests": [{"path": "/{x}", "vars": {"x": "y#/body"}}]}', id="vars of nobody"),
    pytest.param(b'{"requests": [], "options": {"execution": "fast"}}', id="wrong option"),
    pytest.param(b'{"requests": [], "options": {"timeout": 0}}', id="wrong timeout"),
    pytest.param(b"[]", id="not an object"),
]


@pytest.mark.parametrize("body", INVALID)
@on_a_loop
async def test_what_is_no_batch_is_no_job(sqlite: Place, body: bytes) -> None:
    """The same status, code, pointer and words as when it is to be answered at once; and nothing is left."""
    async with site(sqlite) as here:
        at_once = await here.send_bytes(body, headers=ANN)
        reply = await here.send_bytes(body)
        assert reply.refusal == at_once.refusal
        assert reply.problem == at_once.problem
        assert await rows(sqlite) == {}


FAULTS: list[Any] = [
    pytest.param(b"{", "malformed_json", None, id="cut off"),
    pytest.param(b'{"path": "/\xff"}', "malformed_json", None, id="not UTF-8"),
    pytest.param(b'{"path": "/a"}, {"path": "/b"}', "malformed_json", None, id="two items"),
    pytest.param(b'{"path": "/a"}], "options": {"on_error": "stop"', "malformed_json", None, id="out of its line"),
    pytest.param(b'["/a"]', "invalid_batch", None, id="not an object"),
    pytest.param(b'{"url": "/a"}', "invalid_batch", "/url", id="unknown member"),
    pytest.param(b'{"path": "/a", "headers": {"x": 1}}', "invalid_batch", "/headers", id="wrong type"),
    pytest.param(b'{"options": {}}', "invalid_batch", "/options", id="options that come late"),
    pytest.param(b'{"path": "/a", "id": "first"}', "duplicate_id", "/id", id="duplicate id"),
]


@pytest.mark.parametrize(("line", "code", "pointer"), FAULTS)
@pytest.mark.parametrize("many", [[], MANY], ids=["few", "many"])
@on_a_loop
async def test_a_fault_is_said_to_be_in_its_line(
    sqlite: Place, many: list[JSON], line: bytes, code: str, pointer: str | None
) -> None:
    """The number of the line, and a pointer into that; and nothing is left of the lines before."""
    async with site(sqlite) as here:
        reply = await here.send_lines([{"path": "/a", "id": "first"}, b"", *many, line, {"path": "/b"}])
        assert (*reply.refusal, reply.problem["line"]) == (400, code, pointer, 3 + len(many))
        assert reply.problem["detail"].startswith(f"Line {3 + len(many)}: ")
        if code == "duplicate_id":
            assert reply.problem["detail"].endswith("already that of line 1.")
        assert await rows(sqlite) == {}


@pytest.mark.parametrize("many", [[], MANY], ids=["few", "many"])
@on_a_loop
async def test_a_fault_of_the_options_is_in_the_first_line(sqlite: Place, many: list[JSON]) -> None:
    """A wrong option, and options beside something else."""
    async with site(sqlite) as here:
        reply = await here.send_lines([b"", {"options": {"on_error": "x"}}, {"path": "/a"}, *many])
        assert (*reply.refusal, reply.problem["line"]) == (400, "invalid_batch", "/options/on_error", 2)
        reply = await here.send_lines([{"options": {}, "x": 1}, {"path": "/a"}, *many])
        assert (*reply.refusal, reply.problem["line"]) == (400, "invalid_batch", None, 1)
        assert await rows(sqlite) == {}


@on_a_loop
async def test_only_json_and_lines_are_taken(sqlite: Place) -> None:
    """Other types, codings, and lines that do not ask for a job, are refused; so is an answer in another form."""
    async with site(sqlite) as here:
        for headers, code in (
            ({**ASYNC, "content-type": "text/plain"}, "unsupported_media_type"),
            ({**ASYNC, "content-type": LINES, "content-encoding": "gzip"}, "unsupported_media_type"),
            ({**ASYNC, "content-encoding": "gzip"}, "unsupported_media_type"),
            ({**ANN, "content-type": LINES}, "unsupported_media_type"),
            ({**ASYNC, "accept": "text/html"}, "not_acceptable"),
        ):
            assert (await here.send_bytes(b'{"path":"/a"}', headers=headers)).problem["code"] == code
        assert await rows(sqlite) == {}


# Limits


@on_a_loop
async def test_there_may_be_so_many_items(sqlite: Place) -> None:
    """More than `max_items` are refused; a job may have more than a batch."""
    async with site(sqlite, jobs=by_hand(max_items=40), max_items=2) as here:
        assert location(await here.send([{"path": "/a"}] * 40))
        assert (await here.send([{"path": "/a"}] * 41)).refusal == (413, "too_many_items", "/requests")
        assert location(await here.send_lines([{"path": "/a"}] * 40))
        assert (await here.send_lines([{"path": "/a"}] * 41)).problem["code"] == "too_many_items"
        assert location(await here.send_lines([*MANY, *[{"path": "/a"}] * 10]))
        reply = await here.send_lines([*MANY, *[{"path": "/a"}] * 11])
        assert (reply.status, reply.problem["code"]) == (413, "too_many_items")
        assert "Line 41 " in reply.problem["detail"]
        assert len((await here.store.jobs.list(None)).jobs) == 3


@on_a_loop
async def test_it_may_be_so_large(sqlite: Place) -> None:
    """More than `max_bytes` are refused, declared or not; JSON is bounded as a batch, lines each as one."""
    async with site(sqlite, jobs=by_hand(max_bytes=400_000), max_batch_bytes=50_000) as here:
        assert location(await here.send_lines(MANY))
        reply = await here.send_lines([*MANY, *MANY])
        assert (reply.status, reply.problem["code"]) == (413, "batch_too_large")
        chunked = {**ASYNC, "transfer-encoding": "chunked"}
        reply = await here.send_lines([*MANY, *MANY], headers=chunked)
        assert (reply.status, reply.problem["code"], reply.header("connection")) == (413, "batch_too_large", "close")
        assert (await here.send([LONG] * 5)).problem["code"] == "batch_too_large"
        reply = await here.send_lines([{"path": "/a"}, {"path": "/a", "body": "x" * 60_000}], headers=chunked)
        assert reply.problem["detail"].startswith("Line 2 ")
        assert len((await here.store.jobs.list(None)).jobs) == 1


@on_a_loop
async def test_items_that_wait_go_together(place: Place) -> None:
    """Items that wait for each other, or keep an order, are of one chunk; more than a batch may have is refused."""
    async with site(place, jobs=by_hand(), max_batch_bytes=500_000) as here:
        chain: list[JSON] = [
            {"path": f"/{n}", "id": f"i{n}", **({"depends_on": [f"i{n - 1}"]} if n else {})} for n in range(9)
        ]
        padding: list[JSON] = [{"path": "/p"}] * 200
        for reply in (
            await here.send([*padding, *chain]),
            await here.send_lines([*padding, *chain]),
            await here.send(padding, options={"execution": "ordered_writes"}),
            await here.send([*MANY, *chain]),
            await here.send_lines([*chain, *MANY]),
            await here.send_lines([{"options": {"execution": "sequential"}}, *MANY]),
            await here.send(MANY, options={"on_error": "stop"}),
        ):
            assert location(reply)
        claims = await here.claims()
        assert sorted(claim.n for claim in claims) == [30, 30, 39, 39, 200, 209, 209]
        [first, *_] = [claim for claim in claims if claim.n == 39]
        assert len(await here.store.inputs.items(first)) == 39
        for reply in (
            await here.send_lines([*chain, *MANY, *MANY]),
            await here.send_lines([{"options": {"execution": "sequential"}}, *MANY, *MANY]),
            await here.send([{"path": "/p"}] * 10_001, options={"on_error": "stop"}),
        ):
            assert (reply.status, reply.problem["code"]) == (413, "ordered_job_too_large")
        reply = await here.send_lines([*MANY, *chain])
        assert (reply.problem["code"], reply.problem["line"]) == ("ordered_job_too_large", len(MANY) + 2)
        assert "as one JSON document anywhere" in reply.problem["detail"]


@on_a_loop
async def test_values_go_from_item_to_item(place: Place) -> None:
    """`depends_on` and `vars` work in a job as they do in a batch."""
    api = Api({"/new": value({"id": 7}, status=201), "/no": answer(status=500)})
    async with site(place, api) as here:
        path = location(
            await here.send_lines(
                [
                    {"path": "/things/{n}", "vars": {"n": "new#/body/id"}, "id": "use"},
                    {"path": "/new", "method": "POST", "id": "new"},
                    {"path": "/after", "depends_on": ["no"]},
                    {"path": "/no", "id": "no"},
                ]
            )
        )
        await here.ended(path)
        results = await here.results(path)
        assert results[0]["body"]["target"] == "/things/7"
        assert [result.get("error") for result in results] == [None, None, "dependency_failed", None]


@on_a_loop
async def test_caps_hold_for_the_whole_job(place: Place) -> None:
    """`max_per_batch` counts all items of a job, also where they go to the store page by page."""
    async with site(place, max_per_batch={"POST /long": 5}) as here:
        path = location(await here.send_lines([*MANY, *MANY]))
        await here.ended(path)
        errors = [result.get("error") for result in await here.results(path, "limit=1000")]
        assert errors == [None] * 5 + ["too_many_for_route"] * 55


@on_a_loop
async def test_a_deadline_is_kept(sqlite: Place) -> None:
    """The `timeout` of the options is that of the job, if it is less than the server's; also when it is tried again."""
    async with site(sqlite, jobs=by_hand(deadline=1000)) as here:
        for timeout, seconds in ((10, 10), (5000, 1000), (None, 1000)):
            reply = await here.send([{"path": "/a"}], options={} if timeout is None else {"timeout": timeout})
            job = await here.store.jobs.get(job_id(location(reply)), None)
            assert job.expires_at is not None
            assert job.expires_at - job.created_at == pytest.approx(seconds)
            await here.ask("POST", f"{location(reply)}/cancel")
            await here.finalize()
            again = await here.ask("POST", f"{location(reply)}/retry")
            job = await here.store.jobs.get(job_id(location(again)), None)
            assert job.expires_at is not None
            assert job.expires_at - job.created_at == pytest.approx(seconds)
            await here.ask("POST", f"{location(again)}/cancel")
            await here.finalize()


# Guards


@on_a_loop
async def test_guards_see_jobs(sqlite: Place) -> None:
    """A guard refuses a job as it refuses a batch, sees all of its items at once, and may refuse some."""
    seen: list[int] = []

    async def guard(batch: Batch) -> Batch:
        seen.append(len(batch.items))
        if len(batch.items) > 200:
            raise RateLimited("Too much at once.", retry_after=7)
        return batch.refuse(1, "Not this one.")

    api = Api()
    async with site(sqlite, api, guards=[guard]) as here:
        for path in (
            location(await here.send([{"path": "/a"}, {"path": "/b"}])),
            location(await here.send_lines([{"path": "/a"}, {"path": "/b"}, *MANY])),
        ):
            await here.ended(path)
            assert [result.get("error") for result in await here.results(path)][:2] == [None, "forbidden"]
        reply = await here.send_lines([{"path": "/a"}] * 201)
        assert (reply.status, reply.problem["code"], reply.header("retry-after")) == (429, "rate_limited", "7")
        assert seen == [2, 32, 201]
        assert "/b" not in api.targets
    async with site(sqlite, api, guards=[guard], max_batch_bytes=20_000) as here:
        reply = await here.send_lines([*MANY], headers={**ASYNC, "transfer-encoding": "chunked"})
        assert (reply.status, reply.problem["code"]) == (413, "batch_too_large")


# Idempotency


def with_key(key: str, headers: HeaderMap = ASYNC) -> HeaderMap:
    return {**headers, "idempotency-key": key}


@on_a_loop
async def test_a_key_stands_for_one_job(place: Place) -> None:
    """The same key and body are the same job, another body is a conflict; for somebody else the key is another."""
    items: list[JSON] = [{"path": "/a"}]
    async with site(place, jobs=by_hand()) as here:
        first = location(await here.send(items, headers=with_key('"k-1"')))
        assert location(await here.send(items, headers=with_key('"k-1"'))) == first
        assert location(await here.send(items, headers=with_key("k-1"))) == first
        reply = await here.send([{"path": "/b"}], headers=with_key('"k-1"'))
        assert (reply.status, reply.problem["code"]) == (422, "key_conflict")
        assert location(await here.send(items, headers=with_key('"k-2"'))) != first
        assert location(await here.send(items, headers=with_key('"k-1"', {**BOB, "prefer": "respond-async"}))) != first
        lines = location(await here.send_lines(MANY, headers=with_key("k-3")))
        assert location(await here.send_lines(MANY, headers=with_key("k-3"))) == lines
        assert (await here.send_lines([*MANY, LONG], headers=with_key("k-3"))).status == 422
        assert len((await here.store.jobs.list(None)).jobs) == 4


@on_a_loop
async def test_a_key_whose_job_is_being_stored_is_busy(place: Place) -> None:
    """Until a submission has ended, another one with its key is refused with 409; if it ends in nothing, it is free."""
    async with site(place, jobs=by_hand()) as here:
        body = b"".join(json.dumps(line).encode() + b"\n" for line in MANY)
        headers = {**with_key("k"), "content-type": LINES, "transfer-encoding": "chunked"}
        exchange = here.begin("POST", "/batch", headers=headers, body=body, complete=False)

        async def is_being_stored() -> bool:
            return bool(await rows(place))

        await until(is_being_stored)
        reply = await here.send_lines(MANY, headers=with_key("k"))
        assert (reply.status, reply.problem["code"]) == (409, "key_busy")
        assert reply.header("retry-after")
        exchange.leave()
        await exchange.task
        assert location(await here.send_lines(MANY, headers=with_key("k")))


@on_a_loop
async def test_a_key_has_a_form(sqlite: Place) -> None:
    """A key is one string, quoted or not, of at most 255 characters."""
    async with site(sqlite) as here:
        for key in ("", '""', '"a', "a b", '"' + "x" * 256 + '"', '"é"', "a,b", '"a"b'):
            reply = await here.send([{"path": "/a"}], headers=with_key(key))
            assert (reply.status, reply.problem["code"]) == (400, "invalid_idempotency_key"), key
        assert await rows(sqlite) == {}


# Quotas


@on_a_loop
async def test_an_owner_may_have_so_many_jobs(place: Place) -> None:
    """Over the number of open jobs: 429 with `Retry-After`; others do not feel it."""
    async with site(place, store={"open_jobs": 2}, jobs=by_hand()) as here:
        for _ in range(2):
            await here.submitted([{"path": "/a"}])
        reply = await here.send([{"path": "/a"}])
        assert (reply.status, reply.problem["code"]) == (429, "quota_exceeded")
        assert int(reply.header("retry-after") or "") > 0
        assert await here.submitted([{"path": "/a"}], headers={**BOB, "prefer": "respond-async"})


@on_a_loop
async def test_an_owner_may_have_so_many_bytes(place: Place) -> None:
    """Over the bytes that may be stored: 507, and nothing is left of what was too much."""
    async with site(place, store={"stored_bytes": 1024 * KiB}, jobs=by_hand()) as here:
        lines: list[JSON] = [LONG] * 60
        await here.send_lines(lines)
        before = await rows(place)
        reply = await here.send_lines(lines)
        assert (reply.status, reply.problem["code"]) == (507, "quota_exceeded")
        assert await rows(place) == before


# Clients that are slow, or leave


@on_a_loop
async def test_who_leaves_amid_his_lines_leaves_nothing(place: Place) -> None:
    """A submission that is broken off is not there, and leaves nothing behind."""
    async with site(place, jobs=by_hand()) as here:
        body = b"".join(json.dumps(line).encode() + b"\n" for line in MANY)
        headers = {**ASYNC, "content-type": LINES, "transfer-encoding": "chunked"}
        exchange = here.begin("POST", "/batch", headers=headers, body=body, complete=False)

        async def is_being_stored() -> bool:
            return bool(await rows(place))

        await until(is_being_stored)
        assert (await here.get("/batch/jobs")).json()["jobs"] == []
        exchange.leave()
        await exchange.task
        assert exchange.sent == []
        assert await rows(place) == {}


@on_a_loop
async def test_who_pauses_amid_his_lines_is_given_up(sqlite: Place) -> None:
    """A pause that is too long ends the submission, and the connection."""
    async with site(sqlite, jobs=by_hand(), read_timeout=0.1) as here:
        body = b"".join(json.dumps(line).encode() + b"\n" for line in MANY)
        headers = {**ASYNC, "content-type": LINES, "transfer-encoding": "chunked"}
        reply = await here.begin("POST", "/batch", headers=headers, body=body, complete=False).answered()
        assert (reply.status, reply.problem["code"], reply.header("connection")) == (408, "request_timeout", "close")
        assert await rows(sqlite) == {}


@on_a_loop
async def test_a_submission_that_is_cancelled_leaves_nothing(place: Place) -> None:
    """As when the server stops in the midst of it."""
    async with site(place, jobs=by_hand()) as here:
        body = b"".join(json.dumps(line).encode() + b"\n" for line in MANY)
        headers = {**ASYNC, "content-type": LINES, "transfer-encoding": "chunked"}
        exchange = here.begin("POST", "/batch", headers=headers, body=body, complete=False)

        async def is_being_stored() -> bool:
            return bool(await rows(place))

        await until(is_being_stored)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        assert await rows(place) == {}
