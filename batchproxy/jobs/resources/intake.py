"""A submission on its way into the store: a JSON batch, or lines that are stored as they come.

Knows: the form of the input, what is wrong with it, where. Must not know: answers, owners.

What is small is read as a whole, so that its items may wait for each other, and guards see all of it. Lines that are
more than that go to the store page by page: of them nothing is kept but their ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from ...endpoint import Endpoint
from ...engine.errors import BatchError, Invalid, Malformed, TooLarge
from ...engine.model import Batch, Caller, Item, Options, Refusal
from ...engine.policy import Judge, Policy
from ...engine.schedule import Schedule
from ..store import JobStore, NewJob, Submitted
from .callbacks import accepted, kept
from .lines import Body, Line, LineReader
from .problems import TooLargeJob
from .secrets import Secret, Vault
from .stored import MOST_ORDERED, is_ordered, packed_item, packed_options

if TYPE_CHECKING:
    from .settings import JobsSettings

Guarded = Callable[[Batch], Awaitable[Batch]]

_PAGE_LINES, _PAGE_BYTES = 100, 256 * 1024
_LARGE = 64 * 1024
"""From this size on a body is read in a thread: it would hold up everybody else."""
_BREATH = 200
"""After how many items others get their turn."""


class _Head(msgspec.Struct):
    """A first line that may have options, and is no item."""

    options: msgspec.Raw | UnsetType = UNSET
    path: msgspec.Raw | UnsetType = UNSET


class _Waiting(msgspec.Struct):
    """What an item waits for."""

    depends_on: msgspec.Raw | UnsetType = UNSET
    vars: msgspec.Raw | UnsetType = UNSET


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    options: msgspec.Raw


_parse = msgspec.json.Decoder(msgspec.Raw).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_waiting = msgspec.json.Decoder(_Waiting).decode
_decode_options = msgspec.json.Decoder(_Options).decode


class Intake:
    """Takes one body into the store. `policy` is that of a job; `new` says all of it but what is in the body.

    Raises `BatchError`, `Disconnected` and `JobsError`; after any of them nothing is left in the store.
    """

    def __init__(
        self,
        store: JobStore,
        settings: JobsSettings,
        endpoint: Endpoint,
        policy: Policy,
        caller: Caller,
        secret: Secret,
        vault: Vault,
        *,
        minimal: bool,
        endpoints: Collection[str],
        new: NewJob,
        guarded: Guarded,
    ) -> None:
        self._store = store
        self._settings = settings
        self._endpoint = endpoint
        self._caller = caller
        self._secret = secret
        self._vault = vault
        self._minimal = minimal
        self._new = new
        self._guarded = guarded
        self._policy = policy
        self._judge = Judge(endpoint, caller, endpoints)
        self._digest = hashlib.sha256(endpoint.path.encode())

    async def json(self, body: Body) -> Submitted:
        pieces = []
        async for piece in body.pieces():
            self._digest.update(piece)
            pieces.append(piece)
        content = b"".join(pieces)
        pieces.clear()
        return await self._whole(content)

    async def lines(self, body: Body) -> Submitted:
        """The first lines are held back: if there are no more, they are a batch as any other.

        Of a batch that has an order, all are.
        """
        whole = self._endpoint.max_batch_bytes
        reader = LineReader(whole)
        held, size = [], 0
        # A guard judges a batch, and not a part of it.
        most = whole if self._endpoint.guards else self._settings.store.chunk_bytes
        arriving = self._arriving(body, reader)
        async for line in arriving:
            held.append(line)
            size += len(line)
            if size > most or len(held) > self._settings.max_items + 1:
                if self._endpoint.guards and size > most:
                    raise TooLarge(f"The guards of this path look at a batch as a whole; it may have {most} bytes.")
                if most < whole and len(held) <= MOST_ORDERED + 1 and self._have_order(held):
                    most = whole
                else:
                    return await self._streamed(held, arriving)
        return await self._few(held)

    def _have_order(self, lines: list[Line]) -> bool:
        """Whether the first lines of a batch say that it has one."""
        options, items = _parted(list(lines))
        with _located([], options):
            said = self._said(_envelope(options, []))
        return is_ordered(said.options, ()) or any(_waits(line) for line in items)

    async def _arriving(self, body: Body, reader: LineReader) -> AsyncIterator[Line]:
        async for piece in body.pieces():
            self._digest.update(piece)
            for line in reader.feed(piece):
                _check_line(line)
                yield line
        for line in reader.close():
            _check_line(line)
            yield line

    # As a whole

    async def _few(self, lines: list[Line]) -> Submitted:
        options, items = _parted(lines)
        with _located(items, options):
            return await self._whole(_envelope(options, items))

    async def _whole(self, content: bytes) -> Submitted:
        if len(content) < _LARGE:
            batch = self._read(content)
        else:
            batch = await asyncio.to_thread(self._read, content)
        if self._endpoint.guards:
            batch = await self._guarded(batch)
            self._check_order(batch)
        return await self._store_whole(batch)

    def _read(self, content: bytes) -> Batch:
        batch = self._judge.batch(self._said(content))
        # Before the guards, so that a batch which cannot run counts for nobody's quota.
        self._check_order(batch)
        return batch

    def _said(self, content: bytes) -> Batch:
        """What the bytes mean, if the job may have the options that they ask for."""
        batch = self._endpoint.spoken.read_job(content, self._caller, self._policy, minimal=self._minimal)
        return msgspec.structs.replace(batch, options=accepted(batch.options, self._settings.webhooks))

    def _check_order(self, batch: Batch) -> None:
        Schedule(batch, max_depth=self._endpoint.max_dependency_depth)

    async def _store_whole(self, batch: Batch) -> Submitted:
        refused = batch.refused
        packed = [packed_item(item, refused.get(item.index), self._secret) for item in batch.items]
        new = self._about(batch.options)
        if is_ordered(batch.options, batch.items):
            new = in_one_chunk(new, packed, self._endpoint.max_batch_bytes)
        async with self._store.submission(new) as submission:
            for number, item in enumerate(packed, 1):
                await submission.add(item)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
            return await submission.commit(self._digest.digest())

    def _about(self, options: Options) -> NewJob:
        return with_options(self._new, self._caller, kept(options, self._vault, self._new.owner))

    # As it comes

    async def _streamed(self, held: list[Line], arriving: AsyncIterator[Line]) -> Submitted:
        options, items = _parted(held)
        ids: dict[str, int] = {}
        # What is wrong with the options shows before anything is stored.
        with _located([], options):
            said = self._said(_envelope(options, []))
        if is_ordered(said.options, ()):
            raise too_large_ordered(self._endpoint.max_batch_bytes)
        async with self._store.submission(self._about(said.options)) as submission:
            left = self._settings.max_items
            async for page in _pages(items, arriving):
                if len(page) > left:
                    self._refuse_count(page[left])
                left -= len(page)
                for item, refusal in self._page(page, ids):
                    await submission.add(packed_item(item, refusal, self._secret))
                await asyncio.sleep(0)
            return await submission.commit(self._digest.digest())

    def _refuse_count(self, line: Line) -> None:
        raise TooLarge(
            f"Line {line.number} has an item more than the limit of {self._settings.max_items}.", code="too_many_items"
        )

    def _page(self, lines: list[Line], ids: dict[str, int]) -> Iterable[tuple[Item, Refusal | None]]:
        with _located(lines, None):
            try:
                batch = self._endpoint.spoken.read(
                    _envelope(None, lines), self._caller, self._policy, minimal=self._minimal
                )
            except Invalid as fault:
                if fault.code == "unknown_id":
                    self._refuse_waiting(fault.pointer)
                raise
            for item in batch.items:
                if item.after:
                    self._refuse_waiting(f"/requests/{item.index}")
                if (
                    item.id is not None
                    and ids.setdefault(item.id, lines[item.index].number) != lines[item.index].number
                ):
                    raise Invalid(
                        f"The id `{item.id}` is already that of line {ids[item.id]}.",
                        code="duplicate_id",
                        pointer=f"/requests/{item.index}/id",
                    )
            batch = self._judge.batch(batch)
        return [(item, batch.refused.get(item.index)) for item in batch.items]

    def _refuse_waiting(self, pointer: str | None) -> None:
        raise too_large_ordered(self._endpoint.max_batch_bytes, self._settings.store.chunk_bytes, pointer=pointer)


def with_options(new: NewJob, caller: Caller, options: Options) -> NewJob:
    """A job with these options; it may take as long as they say, but no longer than it may without."""
    times = [seconds for seconds in (new.deadline, options.timeout) if seconds is not None]
    return msgspec.structs.replace(new, options=packed_options(caller, options), deadline=min(times, default=None))


def in_one_chunk(new: NewJob, packed: Sequence[bytes], most: int) -> NewJob:
    """A job of items that one worker has to have together. Raises `TooLargeJob`."""
    size = sum(map(len, packed))
    if size > most or len(packed) > MOST_ORDERED:
        raise too_large_ordered(most)
    return msgspec.structs.replace(new, chunk_items=max(len(packed), 1), chunk_bytes=max(size, 1))


def too_large_ordered(most: int, first: int | None = None, *, pointer: str | None = None) -> TooLargeJob:
    """`first` is in how many bytes of lines the first item that waits has to come, if that is what is wrong."""
    early = f"; as lines, the first that waits has to come within {first} bytes, as one JSON document anywhere"
    return TooLargeJob(
        "Items that wait for each other, or run in order, go to one worker: a job with such items may have"
        f" {MOST_ORDERED} items and {most} bytes{'' if first is None else early}.",
        pointer=pointer,
    )


async def _pages(held: list[Line], arriving: AsyncIterator[Line]) -> AsyncIterator[list[Line]]:
    page: list[Line] = []
    size = 0
    async for line in _chained(held, arriving):
        if page and (len(page) >= _PAGE_LINES or size + len(line) > _PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(line)
        size += len(line)
    if page:
        yield page


async def _chained(held: list[Line], arriving: AsyncIterator[Line]) -> AsyncIterator[Line]:
    for line in held:
        yield line
    held.clear()
    async for line in arriving:
        yield line


def _parted(lines: list[Line]) -> tuple[Line | None, list[Line]]:
    """The first line apart, if it has options and is no item. Raises `Malformed` and `Invalid`."""
    if not lines:
        return None, lines
    first = lines[0]
    with _located([first], None):
        head = _decode_head(first)
        if head.options is UNSET or head.path is not UNSET:
            return None, lines
        try:
            raw = bytes(_decode_options(first).options)
        except msgspec.ValidationError:
            raise Invalid("A line with `options` has nothing else.", pointer="/requests/0") from None
    return Line(raw, first.number), lines[1:]


def _check_line(line: Line) -> None:
    """Whether it is one JSON object: so that lines can be put into one document, and none reaches into the next."""
    try:
        line.decode("utf-8")
        _parse(line)
    except UnicodeDecodeError:
        raise _at(line, Malformed("It is not UTF-8.")) from None
    except (msgspec.DecodeError, RecursionError) as fault:
        raise _at(line, Malformed(f"It is not one JSON document: {fault}.")) from None
    if not line.startswith(b"{"):
        raise _at(line, Invalid("An item must be an object."))


def _waits(line: Line) -> bool:
    """Whether an item says that it waits for others. What is wrong with it is told later."""
    try:
        found = _decode_waiting(line)
    except msgspec.DecodeError:
        return False
    return found.depends_on is not UNSET or found.vars is not UNSET


def _envelope(options: Line | None, items: Iterable[Line]) -> bytes:
    said = b"" if options is None else b'"options":%b,' % options
    return b'{%b"requests":[%b]}' % (said, b",".join(items))


class _located:
    """Turns a pointer into a batch that was made of lines into a line and a pointer into that."""

    __slots__ = ("_items", "_options")

    def __init__(self, items: list[Line], options: Line | None) -> None:
        self._items = items
        self._options = options

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BatchError) and error.line is None and error.pointer is not None:
            _, member, *rest = error.pointer.split("/")
            if member == "options" and self._options is not None:
                _at(self._options, error, error.pointer)
            elif member == "requests" and rest and rest[0].isdigit() and int(rest[0]) < len(self._items):
                error.detail = re.sub(r"\bitem (\d+)", self._named, error.detail)
                _at(self._items[int(rest[0])], error, "".join(f"/{token}" for token in rest[1:]))

    def _named(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return f"line {self._items[number].number}" if number < len(self._items) else match[0]


def _at(line: Line, error: BatchError, pointer: str = "") -> BatchError:
    error.line = line.number
    error.pointer = pointer or None
    error.detail = f"Line {line.number}: {error.detail}"
    return error
