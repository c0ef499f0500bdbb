"""Reading results: in either order none is missed and none comes twice, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import random
from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest

from batchproxy.jobs.store import BadCursor, Claim, Entry, Gone, ItemResult, JobStore, Outcome, Page
from tests.proxy.on_a_loop import on_a_loop

from ..place import Place, claim, complete, end, error, ok, settle, submit

FULL = ItemResult(
    seq=0,
    outcome=Outcome.ERROR,
    status=503,
    headers=((b"a", b"1"), (b"a", b"\xff")),
    body=b"\x00\xff" * 10_000,
    custom_id="c-1",
    failure="timeout",
    detail="It took too long.",
    attempts=3,
    started_at=1.5,
    finished_at=2.5,
)


def forged(content: Any) -> str:
    """A cursor that nobody has given out."""
    return urlsafe_b64encode(msgspec.msgpack.encode(content)).rstrip(b"=").decode()


@on_a_loop
async def test_a_result_comes_back_as_it_was(place: Place) -> None:
    """All of it, whether its body lies in the row or outside."""
    async with place.opened() as store:
        job = await submit(store, 3)
        results = [FULL, ok(1, b"small"), ItemResult(seq=2, outcome=Outcome.OK, status=200, body=b"x" * 8193)]
        await settle(store, await claim(store), results)
        assert (await store.results.in_order(job.id, "ann")).results == tuple(results)
        assert await store.results.of(job.id, [2, 0, 7]) == [results[0], results[2]]


@on_a_loop
async def test_any_detail_is_kept(place: Place) -> None:
    """Also one that holds what no database takes for text, or nothing that is committed along with it would be."""
    async with place.opened() as store:
        job = await submit(store, 2)
        told = msgspec.structs.replace(error(0), detail="who is \0 or \ud800, é?")
        await settle(store, await claim(store), [told, ok(1)])
        first, second = (await store.results.in_order(job.id, "ann")).results
        assert (first.detail, second.outcome) == ("who is \ufffd or ?, é?", Outcome.OK)


@on_a_loop
async def test_in_order_they_come_up_to_the_first_gap(place: Place) -> None:
    """What is behind it comes later, and then nothing is missed."""
    async with place.opened() as store:
        job = await submit(store, 6)
        one, two = await store.claims.claim("w", 2)
        await settle(store, two)
        await settle(store, one, [ok(0), ok(2)])
        first = await store.results.in_order(job.id, "ann")
        assert ([each.seq for each in first.results], first.complete) == ([0], False)
        await settle(store, one, [ok(1)])
        rest = await store.results.in_order(job.id, "ann", after=first.cursor)
        assert ([each.seq for each in rest.results], rest.complete) == ([1, 2, 3, 4, 5], False)
        await end(store)
        last = await store.results.in_order(job.id, "ann", after=rest.cursor)
        assert (last.results, last.complete) == ((), True)


@on_a_loop
@pytest.mark.parametrize("order", ["in_order", "in_completion_order"])
async def test_pages_hold_what_is_asked_for(place: Place, order: str) -> None:
    """So many results, of these outcomes; the cursor goes on behind what was left out."""
    async with place.opened(chunk_items=7) as store:
        job = await submit(store, 50)
        for claimed in await store.claims.claim("w", 50):
            await settle(store, claimed, [error(seq) if seq % 5 == 0 else ok(seq) for seq in claimed.open_seqs])
        await end(store)
        read = getattr(store.results, order)
        for outcomes, wanted in (((), range(50)), ((Outcome.ERROR,), range(0, 50, 5)), ((Outcome.UNKNOWN,), ())):
            seqs: list[int] = []
            cursor = None
            for _ in range(60):
                page: Page = await read(job.id, "ann", after=cursor, limit=3, outcomes=outcomes)
                seqs += [each.seq for each in page.results]
                cursor = page.cursor
                assert len(page.results) <= 3
                if page.complete:
                    break
            assert sorted(seqs) == list(wanted)


@on_a_loop
@pytest.mark.parametrize("order", ["in_order", "in_completion_order"])
async def test_pages_are_bounded_in_bytes(place: Place, order: str) -> None:
    """However large the bodies are: at least one result, and not many."""
    async with place.opened() as store:
        job = await submit(store, 3)
        claimed = await claim(store)
        await settle(store, claimed, [ok(seq, bytes(5 * 1024 * 1024)) for seq in claimed.open_seqs])
        cursor, sizes = None, []
        for _ in range(3):
            page: Page = await getattr(store.results, order)(job.id, "ann", after=cursor)
            cursor = page.cursor
            sizes.append(len(page.results))
        assert sizes == [1, 1, 1]


@on_a_loop
async def test_a_follower_misses_nothing_and_gets_nothing_twice(place: Place) -> None:
    """While several writers commit in an order that nobody knows."""
    n = 120
    async with place.opened(chunk_items=10) as store:
        job = await submit(store, n)
        claims = await store.claims.claim("w", 20)
        seen: list[int] = []

        async def follow() -> None:
            cursor = None
            while True:
                page = await store.results.in_completion_order(job.id, "ann", after=cursor, limit=7)
                cursor = page.cursor
                seen.extend(each.seq for each in page.results)
                if page.complete:
                    return

        following = asyncio.create_task(follow())
        await asyncio.gather(*(_write(store, claims[part::3]) for part in range(3)))
        await end(store)
        await following
        assert sorted(seen) == list(range(n))


async def _write(store: JobStore, claims: list[Claim]) -> None:
    said = [(claimed.lease, seq) for claimed in claims for seq in claimed.open_seqs]
    random.Random(1).shuffle(said)
    while said:
        some, said = said[:4], said[4:]
        await store.checkpoints.write([Entry(lease=lease, results=(ok(seq),)) for lease, seq in some])


@on_a_loop
async def test_cursors_are_checked(place: Place) -> None:
    """Nonsense, one of another job, and one of the other order are refused."""
    async with place.opened() as store:
        job, other = await submit(store, 3), await submit(store, 3)
        await complete(store)
        in_order = (await store.results.in_order(job.id, "ann", limit=1)).cursor
        foreign = (await store.results.in_completion_order(other.id, "ann", limit=1)).cursor
        for wrong in ("", "x", "é", "AAAA", in_order, foreign):
            with pytest.raises(BadCursor):
                await store.results.in_completion_order(job.id, "ann", after=wrong)
        for number in (-1, 2**31, 2**64 - 1):
            with pytest.raises(BadCursor):
                await store.results.in_order(job.id, "ann", after=forged(["i", job.id, number]))
            for position in ([number, {}], [0, {number: 0}], [0, {0: number}]):
                with pytest.raises(BadCursor):
                    await store.results.in_completion_order(job.id, "ann", after=forged(["c", job.id, *position]))
        for wrong in ("!", forged("a\0"), forged("z")):
            with pytest.raises(BadCursor):
                await store.jobs.list("ann", after=wrong)


@on_a_loop
async def test_content_that_is_removed_meanwhile_is_gone(sqlite: Place) -> None:
    """The blob of a page that is being read: an error, not half a body."""
    async with sqlite.opened(inline_bytes=0) as store:
        job = await submit(store, 3)
        await settle(store, await claim(store), [ok(0, b"body")])
        for path in sqlite.folder.rglob("results-*"):
            path.unlink()
        with pytest.raises(Gone):
            await store.results.in_order(job.id, "ann")


@on_a_loop
async def test_jobs_are_listed_by_owner(place: Place) -> None:
    """The newest first, page by page, by state and kind."""
    async with place.opened() as store:
        mine = [await submit(store, 1) for _ in range(5)]
        other = await submit(store, 1, owner="bob", kind="openai")
        first = await store.jobs.list("ann", limit=3)
        assert first.cursor is not None
        rest = await store.jobs.list("ann", limit=3, after=first.cursor)
        assert rest.cursor is None
        assert [each.id for each in (*first.jobs, *rest.jobs)] == [each.id for each in reversed(mine)]
        assert [each.id for each in (await store.jobs.list(None, kind="openai")).jobs] == [other.id]
        await store.ending.cancel(mine[0].id, "ann")
        listed = await store.jobs.list("ann", states=[mine[1].state], limit=10)
        assert [each.id for each in listed.jobs] == [each.id for each in reversed(mine[1:])]
        assert listed.jobs[0].counts.total == 1
