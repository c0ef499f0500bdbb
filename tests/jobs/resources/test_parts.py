"""Parts of the results of an ended job: which ranges get which bytes, what a part costs, and when there are none."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import Any

import pytest

from batchproxy.jobs.resources import content
from batchproxy.jobs.resources.content import Content, Mark
from batchproxy.jobs.resources.ranges import Range, asked_range
from batchproxy.jobs.resources.reading import Asked
from batchproxy.jobs.store import ItemResult, JobStore, Outcome, Page
from tests.jobs.place import Place
from tests.protocol.exchange import JSON, HeaderMap
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, LINES, Site, site, until
from .test_watching import BY_HAND, ITEMS, completed, ok

NDJSON: HeaderMap = {**ANN, "accept": LINES}
N = 350


@pytest.fixture(autouse=True)
def _close_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each page, though the contents of these tests are small."""
    monkeypatch.setattr(content, "_STRIDE", 1000)


async def many(here: Site, n: int = N) -> str:
    """An ended job of several pages, with bodies of different sizes, and failures in between."""
    items: list[JSON] = [{"path": f"/{number}", "id": f"i{number}"} for number in range(n)]
    path = await here.submitted(items)
    for claim in await here.claims():
        await here.settle(claim, *map(_result, claim.open_seqs))
    await here.finalize()
    return path


def _result(seq: int) -> ItemResult:
    if seq % 7 == 0:
        return ItemResult(seq=seq, outcome=Outcome.ERROR, failure="timeout", custom_id=f"i{seq}")
    return ItemResult(seq=seq, outcome=Outcome.OK, status=200, body=b'"%b"' % (b"x" * (seq % 50)), custom_id=f"i{seq}")


async def part(here: Site, target: str, asked: str, **headers: str) -> tuple[int, bytes, str | None]:
    reply = await here.get(target, headers={**NDJSON, "range": asked, **headers})
    if reply.status == 206:
        assert reply.header("content-length") == str(len(reply.body))
    return reply.status, reply.body, reply.header("content-range")


# What is asked for


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("bytes=0-0", Range(0, 0)),
        ("bytes=5-", Range(5, None)),
        ("bytes=-5", Range(None, 5)),
        ("Bytes=1-2", Range(1, 2)),
        ("bytes= 1-2 ", Range(1, 2)),
        ("bytes=2-1", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("bytes=1", None),
        ("bytes 1-2", None),
        ("items=1-2", None),
        ("bytes=0x1-2", None),
        ("bytes=+1-2", None),
        ("bytes=1-2; q=1", None),
        ("bytes=" + "9" * 19 + "-", None),
        ("", None),
    ],
)
def test_what_is_a_range(given: str, found: Range | None) -> None:
    """One range of bytes; of anything else the whole content is sent."""
    assert asked_range({b"range": given.encode()}, '"v"') == found


@pytest.mark.parametrize(
    ("given", "counts"),
    [('"v"', True), (' "v" ', True), ('"w"', False), ('W/"v"', False), ("Sun, 06 Nov 1994 08:49:37 GMT", False)],
)
def test_a_range_of_one_version(given: str, counts: bool) -> None:
    """`If-Range` names the version that somebody has a part of; of another one the part would not fit."""
    found = asked_range({b"range": b"bytes=1-2", b"if-range": given.encode()}, '"v"')
    assert (found is not None) is counts
    assert asked_range({b"range": b"bytes=1-2", b"if-range": b'W/"v"'}, 'W/"v"') is None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Range(0, 0), range(1)),
        (Range(3, None), range(3, 10)),
        (Range(3, 99), range(3, 10)),
        (Range(9, 9), range(9, 10)),
        (Range(10, None), None),
        (Range(None, 3), range(7, 10)),
        (Range(None, 99), range(10)),
        (Range(None, 0), None),
    ],
)
def test_what_there_is_of_a_range(asked: Range, found: range | None) -> None:
    """It is cut to the content; nothing is left of one behind its end."""
    assert asked.within(10) == found
    assert asked.within(0) is None


# Parts


@pytest.mark.parametrize("query", ["", "outcome=ok", "limit=130", "limit=30&outcome=error", "follow=true"])
@on_a_loop
async def test_parts_are_those_of_the_whole(sqlite: Place, query: str) -> None:
    """Wherever a part begins and ends, its bytes are those of the whole; asked for first, and when marks are there."""
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await many(here)}/results?{query}"
        first = await part(here, target, "bytes=100-299")
        whole = (await here.get(target, headers=NDJSON)).body
        size = len(whole)
        assert first == (206, whole[100:300], f"bytes 100-299/{size}")
        starts: Iterable[int] = (0, 1000, size // 2, whole.index(b'{"cursor"'), size - 1)
        for start in starts:
            for asked, stop in ((f"{start}-", size), (f"{start}-{start}", start + 1), (f"{start}-{start + 9999}", 0)):
                stop = min(stop or start + 10_000, size)
                expected = (206, whole[start:stop], f"bytes {start}-{stop - 1}/{size}")
                assert await part(here, target, f"bytes={asked}") == expected
        assert await part(here, target, "bytes=-77") == (206, whole[-77:], f"bytes {size - 77}-{size - 1}/{size}")


@on_a_loop
async def test_a_part_from_a_cursor_on(sqlite: Place) -> None:
    """The content from a cursor on is one of its own."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await many(here)
        cursor = (await here.get(f"{path}/results?limit=150", headers=NDJSON)).lines[-1]["cursor"]
        target = f"{path}/results?after={cursor}"
        whole = (await here.get(target, headers=NDJSON)).body
        assert whole.startswith(b'{"index":150,')
        assert (await part(here, target, "bytes=5-"))[:2] == (206, whole[5:])


@on_a_loop
async def test_a_content_of_nothing_but_its_end(sqlite: Place) -> None:
    """Of none of the results there is one line."""
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await completed(here)}/results?outcome=unknown"
        whole = (await here.get(target, headers=NDJSON)).body
        assert (await part(here, target, "bytes=1-"))[:2] == (206, whole[1:])


@on_a_loop
async def test_a_part_goes_on_where_the_whole_was_cut(place: Place) -> None:
    """With the version of what is there already; also in another process, which knows nothing of it yet."""
    async with site(place, jobs=BY_HAND) as here:
        path = await many(here)
        reply = await here.get(f"{path}/results", headers=NDJSON)
        tag = str(reply.header("etag"))
        assert reply.header("accept-ranges") == "bytes"
    async with site(place, jobs=BY_HAND) as here:
        status, rest, _ = await part(here, f"{path}/results", "bytes=20000-", **{"if-range": tag})
        assert (status, rest) == (206, reply.body[20000:])
        for other in ('"another"', f"W/{tag}", tag.replace('"', "")):
            answered = await part(here, f"{path}/results", "bytes=20000-", **{"if-range": other})
            assert answered == (200, reply.body, None)


@on_a_loop
async def test_a_range_behind_the_end(sqlite: Place) -> None:
    """416 says how large the content is."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await completed(here)
        size = len((await here.get(f"{path}/results", headers=NDJSON)).body)
        for asked in (f"bytes={size}-", "bytes=-0", "bytes=99999999-100000000"):
            reply = await here.get(f"{path}/results", headers={**NDJSON, "range": asked})
            assert (reply.status, reply.problem["code"]) == (416, "range_not_satisfiable")
            assert reply.header("content-range") == f"bytes */{size}"


@on_a_loop
async def test_where_there_are_no_parts(sqlite: Place) -> None:
    """Of what still grows, of pages, in the order of completion, with a coding, of several at once, and of heads."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        assert (await part(here, f"{path}/results", "bytes=1-"))[0] == 200
        [claim] = await here.claims()
        await here.settle(claim, *(ok(seq) for seq in range(5)))
        await here.finalize()
        target = f"{path}/results"
        for query, headers in (
            ("", ANN),
            ("order=completion", NDJSON),
            ("", {**NDJSON, "accept-encoding": "gzip, identity;q=0"}),
        ):
            reply = await here.get(f"{target}?{query}", headers={**headers, "range": "bytes=1-"})
            assert (reply.status, reply.header("accept-ranges")) == (200, None)
        assert (await part(here, target, "bytes=0-1,2-3"))[0] == 200
        head = await here.ask("HEAD", target, headers={**NDJSON, "range": "bytes=1-"})
        assert (head.status, head.header("accept-ranges")) == (200, "bytes")


@on_a_loop
async def test_a_part_is_of_the_plain_content(sqlite: Place) -> None:
    """As `curl --compressed` asks: it counts what it has written, which is not coded."""
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await many(here)}/results"
        zipped = await here.get(target, headers={**NDJSON, "accept-encoding": "gzip"})
        whole = gzip.decompress(zipped.body)
        assert zipped.header("accept-ranges") is None
        asked: HeaderMap = {**NDJSON, "accept-encoding": "gzip", "range": "bytes=999-"}
        reply = await here.get(target, headers=asked)
        assert (reply.status, reply.header("content-encoding"), reply.body) == (206, None, whole[999:])
        # What fits to the coded content is not a part of this one.
        reply = await here.get(target, headers={**asked, "if-range": zipped.header("etag")})
        assert (reply.status, gzip.decompress(reply.body)) == (200, whole)


@on_a_loop
async def test_a_head_has_a_length_once_it_is_known(sqlite: Place) -> None:
    """Not before, for the content would have to be made for it."""
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await completed(here)}/results"
        head = await here.ask("HEAD", target, headers=NDJSON)
        assert (head.status, head.header("content-length"), head.body) == (200, None, b"")
        whole = await here.get(target, headers=NDJSON)
        assert whole.header("content-length") is None
        again = await here.get(target, headers=NDJSON)
        head = await here.ask("HEAD", target, headers=NDJSON)
        assert again.header("content-length") == head.header("content-length") == str(len(whole.body))
        assert again.body == whole.body


@pytest.mark.parametrize("asked", [None, "bytes=10-"])
@on_a_loop
async def test_what_is_removed_meanwhile_is_cut_off(
    sqlite: Place, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is not in the content gets into it, for somebody may go on behind it later."""
    passed: list[Mark] = []
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await many(here)
        await here.get(f"{path}/results", headers=NDJSON)
        monkeypatch.setattr(Content, "note", lambda _, mark: passed.append(mark))
        reader = here.begin("GET", f"{path}/results", headers={**NDJSON, "range": asked})
        reader.stop_reading()
        await until(lambda: bool(passed))
        assert (await here.ask("DELETE", path)).status == 204
        reader.read_on()
        await reader.task
        body = b"".join(message.get("body", b"") for _, message in reader.sent)
        assert body
        assert b"not_found" not in body
        assert all(message.get("more_body", True) for _, message in reader.sent)


# What it costs


@on_a_loop
async def test_what_is_read_for_a_part(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the first one everything is passed once; whoever comes then begins close to where he wants to go on."""
    read = 0

    async def counted(store: JobStore, asked: Asked, after: str | None, limit: int) -> Page:
        nonlocal read
        found = await store.results.in_order(asked.job_id, asked.owner, after=after, limit=limit)
        read += len(found.results)
        return found

    monkeypatch.setattr("batchproxy.jobs.resources.content.page", counted)
    monkeypatch.setattr("batchproxy.jobs.resources.reading.page", counted)

    async def cost(asked: str) -> int:
        nonlocal read
        read = 0
        assert (await part(here, target, asked))[0] == 206
        return read

    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await many(here)}/results"
        assert await cost("bytes=-1") == N + 50
        assert await cost("bytes=-1") == 50
        assert await cost("bytes=0-0") == 100
        assert await cost("bytes=-20000") <= 250
        # Who has read all of it has measured it.
        other = f"{await many(here)}/results"
        await here.get(other, headers=NDJSON)
        target = other
        assert await cost("bytes=-1") == 50


@on_a_loop
async def test_who_leaves_while_it_is_measured_leaves_the_work_behind(
    sqlite: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on from there."""
    seen: list[Any] = []
    note = Content.note

    def noted(self: Content, mark: Mark) -> None:
        seen.append(mark.offset)
        note(self, mark)
        if len(seen) == 2:
            reader.leave()

    monkeypatch.setattr(Content, "note", noted)
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await many(here)}/results"
        reader = here.begin("GET", target, headers={**NDJSON, "range": "bytes=-1"})
        await reader.task
        assert reader.sent == []
        before = len(seen)
        assert before < 5
        assert (await part(here, target, "bytes=-1"))[0] == 206
        assert 0 not in seen[before:]


def test_marks_are_bounded() -> None:
    """However large a content is, there are so many at most, all over it."""
    made = Content(Asked("job", "ann", by_completion=False, after=None, limit=None, outcomes=()))
    step, n = 5000, 100_000
    for number in range(n):
        made.note(Mark(number * step, str(number), None))
    assert len(made._marks) <= content._MOST_MARKS
    for offset in (0, 1, n * step // 3, n * step):
        assert 0 <= offset - made.before(offset).offset <= n * step // 100


@on_a_loop
async def test_contents_that_are_remembered_are_bounded(sqlite: Place) -> None:
    """Those that were asked for last."""
    async with site(sqlite, jobs=BY_HAND) as here:
        kept = content.Contents(here.store)
        asked = Asked("job", "ann", by_completion=False, after=None, limit=None, outcomes=())
        first = kept.of("0", asked)
        for number in range(content._MOST_CONTENTS - 1):
            kept.of(str(number + 1), asked)
        assert kept.of("0", asked) is first
        second = kept.of("1", asked)
        for number in range(content._MOST_CONTENTS - 1):
            kept.of(f"more {number}", asked)
        assert kept.of("1", asked) is second
        assert kept.of("0", asked) is not first
