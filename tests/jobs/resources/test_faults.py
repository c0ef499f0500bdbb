"""When the store cannot do it: each of its errors has an answer, which says nothing of where it lies."""

from __future__ import annotations

import sqlite3

import pytest

from batchproxy.jobs.resources.problems import problem_of
from batchproxy.jobs.store import (
    BadCursor,
    Gone,
    JobsError,
    KeyBusy,
    KeyConflict,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    SchemaForeign,
    SchemaNewer,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnreachable,
    WrongState,
)
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, LINES, site, until
from .test_submitting import MANY
from .test_watching import BY_HAND, ITEMS, completed

WHERE = "/secret/place/jobs.db is locked"
ERRORS: list[tuple[JobsError, int, str, bool]] = [
    (NotFound(WHERE), 404, "not_found", False),
    (Gone(WHERE), 410, "gone", False),
    (KeyBusy("Busy."), 409, "key_busy", True),
    (KeyConflict("Conflict."), 422, "key_conflict", False),
    (WrongState("State."), 409, "wrong_state", False),
    (BadCursor("Cursor."), 400, "bad_cursor", False),
    (LeaseLost(WHERE), 408, "request_timeout", False),
    (QuotaExceeded("open_jobs", 3), 429, "quota_exceeded", True),
    (QuotaExceeded("stored_bytes", 3), 507, "quota_exceeded", False),
    (StoreBusy(WHERE), 503, "store_busy", True),
    (StoreFull(WHERE), 507, "store_full", True),
    (StoreUnreachable(WHERE), 503, "store_unreachable", True),
    (StoreReadOnly(WHERE), 503, "store_read_only", False),
    (StoreCorrupt(WHERE), 503, "store_corrupt", False),
    (StoreMissing(WHERE), 503, "store_missing", False),
    (SchemaNewer(WHERE), 503, "schema_newer", False),
    (SchemaForeign(WHERE), 503, "schema_foreign", False),
]


@pytest.mark.parametrize(("error", "status", "code", "passes"), ERRORS, ids=lambda each: getattr(each, "code", None))
def test_each_error_has_an_answer(error: JobsError, status: int, code: str, passes: bool) -> None:
    """Status and code; `Retry-After` where the same may go well later; no path or host."""
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert (b"retry-after" in dict(problem.headers)) == passes
    assert "secret" not in problem.detail


def test_no_error_is_forgotten() -> None:
    """All that the store raises is in the table."""

    def leaves(kind: type[JobsError]) -> set[type[JobsError]]:
        return {kind}.union(*map(leaves, kind.__subclasses__()))

    known = {type(error) for error, *_ in ERRORS}
    ours = {each for each in leaves(JobsError) if each.__module__.startswith("batchproxy.jobs.")}
    assert {each.__name__ for each in ours - known} <= {"JobsError", "StoreError"}


@on_a_loop
async def test_a_store_that_is_locked_is_said_to_be(sqlite: Place) -> None:
    """Whoever wants to write is asked to come back; who reads, reads on; a submission leaves nothing."""
    async with site(sqlite, jobs=BY_HAND, store={"wait": 0.05}) as here:
        path = await completed(here)
        lock = sqlite3.connect(sqlite.folder / "jobs.db", isolation_level=None)
        try:
            lock.execute("BEGIN IMMEDIATE")
            for reply in (
                await here.send(ITEMS),
                await here.send_lines(MANY),
                await here.ask("POST", f"{path}/cancel"),
                await here.ask("DELETE", path),
            ):
                assert (reply.status, reply.problem["code"]) == (503, "store_busy")
                assert int(reply.header("retry-after") or "") > 0
            assert (await here.get(path)).status == 200
            assert len(await here.results(path)) == len(ITEMS)
        finally:
            lock.rollback()
            lock.close()
        assert [job.id for job in (await here.store.jobs.list(None)).jobs] == [path.rpartition("/")[2]]
        assert await here.submitted(ITEMS)


@on_a_loop
async def test_a_submission_that_was_taken_away_is_told(sqlite: Place) -> None:
    """One that pauses longer than the store waits for it is given up, whatever the server's own patience."""
    async with site(sqlite, jobs=BY_HAND, store={"submit": 0.01}) as here:
        body = b"".join(b'{"path":"/a","body":"%b"}\n' % (b"x" * 1000) for _ in range(300))
        headers = {**ANN, "prefer": "respond-async", "content-type": LINES, "transfer-encoding": "chunked"}
        exchange = here.begin("POST", "/batch", headers=headers, body=body, complete=False)

        async def is_swept() -> bool:
            return bool((await here.store.retention.sweep()).purged)

        await until(is_swept)
        exchange.feed(body, complete=True)
        reply = await exchange.finished()
        assert (reply.status, reply.problem["code"]) == (408, "request_timeout")
        assert (await here.get("/batch/jobs")).json()["jobs"] == []
