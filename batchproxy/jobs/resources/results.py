"""The results of a job as they are answered: as a page or as lines, coded or not, as a whole or in part.

Knows: which answer a request for results gets. Must not know: how an entry looks, whose a job is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import msgspec

from ... import answer, request
from ...endpoint import Endpoint, Visit
from ...engine.model import Headers
from ..store import Job, JobStore, Outcome
from .coding import Codings, Gzip
from .content import Content, Contents
from .entries import JSON, NDJSON, Entries
from .problems import NotSatisfiable
from .ranges import Range, asked_range
from .reading import PAGE, Asked, page, write_lines
from .streaming import Stream, cut_off
from .watching import Watch
from .wishes import Query, is_known

_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_MOST_ON_A_PAGE = 1000
_encode = msgspec.json.encode


def _installed() -> str:
    try:
        return version("batchproxy")
    except PackageNotFoundError:
        return ""


_RELEASE = _installed()
"""Another one may write the same results otherwise."""


class Wanted(NamedTuple):
    """What a request for results asks for."""

    asked: Asked
    query: Query
    media_type: str
    follows: bool
    codings: Codings


def wanted(visit: Visit, job_id: str, owner: str) -> Wanted:
    """Raises `BadQuery` and `NotAcceptable`."""
    query = Query(visit.scope.get("query_string", b""), ("after", "follow", "limit", "order", "outcome"))
    follows = query.choice("follow", "false", ("false", "true")) == "true"
    accept = visit.fields.get(b"accept")
    offered = (NDJSON,) if follows else (JSON, NDJSON)
    media_type = request.negotiate(None if accept is None else accept.decode("latin-1"), offered)
    is_page = media_type == JSON
    has_limit = query.text("limit") is not None
    limit = query.number("limit", PAGE, most=_MOST_ON_A_PAGE if is_page else 10**9)
    asked = Asked(
        job_id,
        owner,
        by_completion=query.choice("order", "input", ("completion", "input")) == "completion",
        after=query.text("after"),
        limit=limit if is_page or has_limit else None,
        outcomes=tuple(Outcome(each) for each in query.choices("outcome", _OUTCOMES)),
    )
    return Wanted(asked, query, media_type, follows, Codings(visit.fields))


class ResultsAnswer:
    """Made once for each endpoint."""

    def __init__(self, store: JobStore, endpoint: Endpoint) -> None:
        self._store = store
        self._endpoint = endpoint
        self._contents = Contents(store)

    async def give(
        self,
        visit: Visit,
        asks: Wanted,
        job: Job,
        entries: Entries,
        headers: Headers,
        watching: Callable[[], AbstractAsyncContextManager[Watch]],
    ) -> None:
        """`headers` are those of each answer. Raises `JobsError` as long as nothing was said."""
        is_gzip = asks.codings.prefers_gzip()
        # Parts are those of the lines as they are; and of what does not change any more.
        has_parts = job.is_terminal and asks.media_type == NDJSON and not asks.asked.by_completion
        wanted_range: Range | None = None
        about: Headers = ((b"vary", b"Accept, Accept-Encoding"),)
        if job.is_terminal:
            tag = self._tag(visit, job, asks)
            if has_parts and visit.scope["method"] == "GET" and asks.codings.plain:
                wanted_range = asked_range(visit.fields, f'"{tag}"')
                is_gzip = is_gzip and wanted_range is None
            # What a compressor writes is the same bytes only as long as it is the same compressor.
            etag = f'W/"{tag}-gzip"' if is_gzip else f'"{tag}"'
            about = ((b"etag", etag.encode("ascii")), *about)
            if is_known(visit.fields, etag):
                await visit.send(answer.start(304, (*about, *headers)))
                await visit.send(answer.body(b""))
                return
        if is_gzip:
            about = ((b"content-encoding", b"gzip"), *about)
        headers = (*about, *headers)
        stream = Stream(visit.send, write_timeout=self._endpoint.write_timeout, gzip=Gzip() if is_gzip else None)
        if asks.media_type == JSON:
            await self._give_page(visit, asks, entries, headers, is_gzip=is_gzip)
        elif has_parts:
            if not is_gzip:
                headers = ((b"accept-ranges", b"bytes"), *headers)
            content = self._contents.of(tag, asks.asked)
            if wanted_range is None:
                await self._give_whole(visit, asks.asked, entries, headers, stream, content, is_gzip=is_gzip)
            else:
                async with watching() as watch:
                    size = await self._contents.size(content, asks.asked, entries, watch)
                await self._give_part(asks.asked, entries, headers, stream, content, wanted_range, size)
        else:
            await self._give_lines(visit, asks, entries, headers, stream, watching)

    def _tag(self, visit: Visit, job: Job, asks: Wanted) -> str:
        """Another one for whatever is written otherwise."""
        endpoint = self._endpoint
        about = (visit.problem_type, endpoint.dialect, endpoint.max_depth, _RELEASE)
        said = repr((job.id, job.version, asks.asked[2:], asks.media_type, about)).encode("utf-8", "surrogatepass")
        return hashlib.sha256(said).hexdigest()[:32]

    async def _give_page(
        self, visit: Visit, asks: Wanted, entries: Entries, headers: Headers, *, is_gzip: bool
    ) -> None:
        asked = asks.asked
        read = await page(self._store, asked, asked.after, asked.limit or PAGE)
        following = None
        if not read.complete:
            following = f"{visit.problem_type}/jobs/{asked.job_id}/results?{_query_on(asks.query, read.cursor)}"
        content = b'{"results":[%b],"cursor":%b,"complete":%b,"next":%b}' % (
            b",".join(entries.of(read.results)),
            _encode(read.cursor),
            _encode(read.complete),
            _encode(following),
        )
        if is_gzip:
            content = await Gzip().end(content)
        head = visit.scope["method"] == "HEAD"
        await answer.whole(visit.send, 200, JSON.encode("ascii"), content, headers, head=head)

    async def _give_lines(
        self,
        visit: Visit,
        asks: Wanted,
        entries: Entries,
        headers: Headers,
        stream: Stream,
        watching: Callable[[], AbstractAsyncContextManager[Watch]],
    ) -> None:
        """Up to where the job has come, or, for who follows, until its end."""
        asked = asks.asked
        first = await page(self._store, asked, asked.after, min(asked.limit or PAGE, PAGE))
        if visit.scope["method"] == "HEAD":
            await _say_head(visit, headers)
            return
        async with watching() as watch:
            await stream.begin(NDJSON.encode("ascii"), headers)
            await write_lines(stream, self._store, asked, first, entries, watch if asks.follows else None)

    async def _give_whole(
        self,
        visit: Visit,
        asked: Asked,
        entries: Entries,
        headers: Headers,
        stream: Stream,
        content: Content,
        *,
        is_gzip: bool,
    ) -> None:
        if content.size is not None and not is_gzip:
            headers = ((b"content-length", b"%d" % content.size), *headers)
        if visit.scope["method"] == "HEAD":
            await _say_head(visit, headers)
            return
        async with aclosing(self._contents.pieces(content, asked, entries, content.before(0))) as pieces:
            _, first = await anext(pieces)
            await stream.begin(NDJSON.encode("ascii"), headers)
            await stream.write(first)
            with cut_off():
                async for _, text in pieces:
                    await stream.write(text)
        await stream.end()

    async def _give_part(
        self,
        asked: Asked,
        entries: Entries,
        headers: Headers,
        stream: Stream,
        content: Content,
        wanted_range: Range,
        size: int,
    ) -> None:
        part = wanted_range.within(size)
        if part is None:
            raise NotSatisfiable(
                f"The results have {size} bytes.",
                headers=((b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")),
            )
        about = (
            (b"content-length", b"%d" % len(part)),
            (b"content-range", b"bytes %d-%d/%d" % (part.start, part.stop - 1, size)),
        )
        mark = content.before(part.start)
        async with aclosing(self._contents.pieces(content, asked, entries, mark)) as pieces:
            offset, text = await anext(pieces)
            await stream.begin(NDJSON.encode("ascii"), (*about, *headers), status=206)
            with cut_off():
                while True:
                    await stream.write(text[max(part.start - offset, 0) : part.stop - offset])
                    if offset + len(text) >= part.stop:
                        break
                    offset, text = await anext(pieces)
        await stream.end()


async def _say_head(visit: Visit, headers: Headers) -> None:
    """Without a length, unless that is known."""
    await visit.send(answer.start(200, ((b"content-type", NDJSON.encode("ascii")), *headers)))
    await visit.send(answer.body(b""))


def _query_on(query: Query, cursor: str) -> str:
    """The same page, from there on."""
    names = ("limit", "order", "outcome")
    return "&".join(
        [*(f"{name}={query.text(name)}" for name in names if query.text(name) is not None), f"after={cursor}"]
    )
