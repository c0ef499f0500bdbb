"""Results with a content coding: whether they have one, that each has its own version, and that they stay live."""

from __future__ import annotations

import gzip
import zlib

import pytest

from batchproxy.engine.errors import NotAcceptable
from batchproxy.jobs.resources.coding import Codings, Gzip
from batchproxy.jobs.store import ItemResult, Outcome
from tests.jobs.place import Place
from tests.protocol.exchange import Exchange, HeaderMap
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, LINES, site, until
from .test_watching import BY_HAND, ITEMS, completed, ok

ZIPPED: HeaderMap = {**ANN, "accept-encoding": "gzip"}


@pytest.mark.parametrize(
    ("asked", "is_gzip"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, deflate, br", True),
        ("gzip;q=0.001", True),
        ("gzip ; q=0.5 , identity;q=0.5", True),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.3, gzip;q=0.4", True),
        ("gzip;q=0", False),
        ("gzip;q=nonsense", False),
        ("*", True),
        ("*;q=0.8, gzip;q=0.5", False),
        ("*, gzip;q=0", False),
        ("*;q=0, gzip", True),
        ("identity;q=0, *", True),
        ("br, deflate", False),
        ("*;q=0, identity", False),
        (",,gzip,", True),
    ],
)
def test_the_coding_is_the_one_that_is_asked_for(asked: str | None, is_gzip: bool) -> None:
    """Quality values count, the more specific name wins, and without a word there is no coding."""
    headers = {} if asked is None else {b"accept-encoding": asked.encode()}
    assert Codings(headers).prefers_gzip() is is_gzip


@pytest.mark.parametrize("asked", ["*;q=0", "identity;q=0", "identity;q=0, br", "gzip;q=0, identity;q=0"])
@on_a_loop
async def test_where_no_coding_will_do(sqlite: Place, asked: str) -> None:
    """Who takes neither gzip nor the plain content gets nothing."""
    with pytest.raises(NotAcceptable):
        Codings({b"accept-encoding": asked.encode()}).prefers_gzip()
    async with site(sqlite, jobs=BY_HAND) as here:
        reply = await here.get(f"{await completed(here)}/results", headers={**ANN, "accept-encoding": asked})
        assert (reply.status, reply.problem["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("accept", ["application/json", LINES])
@pytest.mark.parametrize("query", ["", "order=completion", "limit=2"])
@on_a_loop
async def test_the_same_results_with_gzip(sqlite: Place, accept: str, query: str) -> None:
    """The content is the same one; its version is another, and each is known by its own."""
    async with site(sqlite, jobs=BY_HAND) as here:
        target = f"{await completed(here)}/results?{query}"
        plain = await here.get(target, headers={**ANN, "accept": accept})
        zipped = await here.get(target, headers={**ZIPPED, "accept": accept})
        assert gzip.decompress(zipped.body) == plain.body
        assert (plain.header("content-encoding"), zipped.header("content-encoding")) == (None, "gzip")
        for reply in (plain, zipped):
            assert reply.header("vary") == "Accept, Accept-Encoding"
            assert reply.header("content-type") == accept
        tags = [reply.header("etag") for reply in (plain, zipped)]
        assert len({str(tag).removeprefix("W/") for tag in tags}) == 2
        for headers, own, other in ((ANN, tags[0], tags[1]), (ZIPPED, tags[1], tags[0])):
            for tag, status in ((own, 304), (other, 200)):
                asked: HeaderMap = {**headers, "accept": accept, "if-none-match": tag}
                reply = await here.get(target, headers=asked)
                assert (reply.status, reply.header("vary")) == (status, "Accept, Accept-Encoding")


@on_a_loop
async def test_large_parts_are_coded_too(sqlite: Place) -> None:
    """They are compressed outside of the loop."""
    body = b'"%b"' % (b"abc" * 100_000)
    async with site(sqlite, jobs=BY_HAND) as here:
        results = [ItemResult(seq=seq, outcome=Outcome.OK, status=200, body=body) for seq in range(5)]
        path = await completed(here, *results)
        for accept in ("application/json", LINES):
            plain = await here.get(f"{path}/results", headers={**ANN, "accept": accept})
            zipped = await here.get(f"{path}/results", headers={**ZIPPED, "accept": accept})
            assert len(plain.body) > 5 * len(body)
            assert len(zipped.body) < len(plain.body) / 20
            assert gzip.decompress(zipped.body) == plain.body


@on_a_loop
async def test_who_follows_with_gzip_gets_each_result_when_it_is_there(sqlite: Place) -> None:
    """Each part can be read before the next one comes."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        follower = here.begin("GET", f"{path}/results?follow=true", headers=ZIPPED)
        [claim] = await here.claims()
        for seq in claim.open_seqs:
            await here.settle(claim, ok(seq))
            await until(lambda number=seq + 1: read_so_far(follower).count(b'{"index"') == number)
        assert not follower.task.done()
        await here.finalize()
        reply = await follower.finished()
        assert gzip.decompress(reply.body).endswith(b'"complete":true}\n')
        assert reply.header("etag") is None


def read_so_far(exchange: Exchange) -> bytes:
    body = b"".join(message.get("body", b"") for _, message in exchange.sent)
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)


@on_a_loop
async def test_whoever_has_a_part_can_read_it() -> None:
    """Also when it was empty, small, or large enough for a thread."""
    coder, read = Gzip(), zlib.decompressobj(16 + zlib.MAX_WBITS)
    for content in (b"a", b"", b"b" * 200_000, b"c"):
        assert read.decompress(await coder.part(content)) == content
    assert read.decompress(await coder.end(b"d")) == b"d"
    assert read.eof
