"""How batches are understood: lines become items, items become requests to the endpoint, results become files.

Knows: the store, the lines. Must not know: leases, HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

import msgspec

from ...engine.errors import TooLarge
from ...engine.model import Batch, Headers, Item
from ...engine.policy import Judge, Policy
from ...engine.target import Entry
from ..resources.lines import Line, LineReader
from ..resources.secrets import CannotOpen, Vault
from ..store import Claim, Job, JobStore, NotFound, Outcome, QuotaExceeded
from ..working.kinds import Failed, Finish, JobBatch, Unready, connection
from .endpoints import limited_as, target
from .inputs import Checker, LineFault, packed, packed_faults, unpacked
from .outputs import file_id, line
from .showing import batch_name, unpacked_options

if TYPE_CHECKING:
    from .settings import OpenAISettings

OUTPUT, ERROR = "output", "error"
PURPOSE, OUTPUT_PURPOSE = "batch", "batch_output"
_JSON: Headers = ((b"content-type", b"application/json"),)
_ENVELOPE = 8 * 1024
"""How much longer a line may be than its body."""
_RESULTS = 500
_QUOTA_DELAY = 60.0


def kind_name(path: str) -> str:
    """The kind of the batches that come to the API at this path."""
    return f"openai {path}"


class OpenAIKind:
    """The batches of one API.

    `entry` says for a `root_path` where requests enter, `endpoints` are the paths of the batch endpoints below the
    mount, which no line may reach.
    """

    def __init__(
        self, settings: OpenAISettings, vault: Vault, *, entry: Callable[[str], Entry], endpoints: Collection[str] = ()
    ) -> None:
        self.name = kind_name(settings.path)
        self._settings = settings
        self._vault = vault
        self._entry = entry
        self._endpoints = tuple(endpoints)
        self._policies: dict[str, Policy] = {}

    def __repr__(self) -> str:
        return f"OpenAIKind({self.name!r})"

    # The lines

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed | None:
        """Reads the file twice: what is not valid as a whole leaves nothing behind that would have to be removed."""
        try:
            faults = await self._faults(store, job)
            if not faults:
                async with store.validation(claim) as validation, aclosing(self._lines(store, job)) as lines:
                    async for each in lines:
                        await validation.add(packed(each))
                    await validation.commit()
        except _InputGone:
            message = "The input file was deleted, or has expired, before it was read."
            faults = [LineFault("input_file_gone", message, param="input_file_id")]
        except QuotaExceeded:
            faults = [LineFault("quota_exceeded", "There is no room for the batch; delete some files.")]
        return Failed(error=packed_faults(faults)) if faults else None

    async def _faults(self, store: JobStore, job: Job) -> list[LineFault]:
        settings = self._settings
        checker = Checker(
            job.endpoint,
            most_lines=settings.max_items,
            most_bytes=settings.max_item_bytes,
            one_model=settings.one_model,
        )
        try:
            async with aclosing(self._lines(store, job)) as lines:
                async for each in lines:
                    checker.check(each)
                    if checker.is_enough:
                        break
        except _TooLong as fault:
            checker.too_long(fault.number, self._longest)
        except _FileTooLarge:
            message = f"The input file has more than {settings.max_batch_bytes} bytes."
            return [LineFault("file_too_large", message, param="input_file_id")]
        checker.close()
        return checker.faults

    @property
    def _longest(self) -> int:
        return self._settings.max_item_bytes + _ENVELOPE

    async def _lines(self, store: JobStore, job: Job) -> AsyncGenerator[Line, None]:
        assert job.input_file is not None
        reader = LineReader(self._longest)
        size = 0
        try:
            async for piece in store.files.content(job.input_file, job.owner):
                size += len(piece)
                if size > self._settings.max_batch_bytes:
                    raise _FileTooLarge
                for each in reader.feed(piece):
                    yield each
            for each in reader.close():
                yield each
        except NotFound as error:
            raise _InputGone from error
        except TooLarge:
            raise _TooLong(reader.number) from None

    # The requests

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        options = unpacked_options(job.options)
        try:
            secret = self._vault.opened(job.secret, job.owner)
        except CannotOpen as fault:
            # With another process's key it may work.
            raise Unready(f"The secret of {batch_name(job.id)} cannot be opened: {fault}") from None
        caller = msgspec.structs.replace(options.caller, inherited=secret.inherited)
        path, query = target(job.endpoint, caller.mount)
        seqs = sorted(items)
        requests = [unpacked(items[seq]) for seq in seqs]
        batch = Batch(
            id=job.id,
            dialect="openai",
            items=tuple(
                Item(index, "POST", path, query, id=each.custom_id, headers=_JSON, body=each.body)
                for index, each in enumerate(requests)
            ),
            caller=caller,
        )
        policy = self._policy(caller.mount)
        return JobBatch(
            batch=batch,
            seqs=seqs,
            policy=policy,
            judge=Judge(policy, caller, [caller.mount + path for path in self._endpoints]),
            entry=self._entry(caller.root_path),
            connection=connection(caller),
            delivery=self._settings.delivery,
            upstream=limited_as(job.endpoint),
        )

    def _policy(self, mount: str) -> Policy:
        """There are few mounts: they come from settings of the server."""
        if mount not in self._policies:
            self._policies[mount] = self._settings.policy(mount)
        return self._policies[mount]

    # The files

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Finish:
        """Writes page by page; a file without lines is not made."""
        names = _Names(store, job)
        async with AsyncExitStack() as stack:
            writers = {part: _Writer(store, claim, job, part, stack) for part in (OUTPUT, ERROR)}
            try:
                page = await store.results.in_order(job.id, None, limit=_RESULTS)
                while page.results:
                    lines: dict[str, list[bytes]] = {OUTPUT: [], ERROR: []}
                    for result in page.results:
                        custom_id = result.custom_id or await names.of(result.seq)
                        part = OUTPUT if result.outcome is Outcome.OK else ERROR
                        lines[part].append(line(job.id, result, custom_id, self._settings.max_depth))
                    for part, written in lines.items():
                        await writers[part].write(b"".join(written))
                    page = await store.results.in_order(job.id, None, after=page.cursor, limit=_RESULTS)
                made = {part: await writer.commit() for part, writer in writers.items()}
            except QuotaExceeded as error:
                # The results are there all the same; there has to be room for them.
                message = f"There is no room for the files of {batch_name(job.id)}: {error}"
                raise Unready(message, delay=_QUOTA_DELAY) from None
        return Finish(output_file=made[OUTPUT], error_file=made[ERROR], sheds=True)

    def unfinished(self, job: Job) -> Failed:
        message = "Results are not there any more, so that no files can be made of them."
        return Failed(error=packed_faults([LineFault("contents_gone", message)]))


class _InputGone(Exception):
    """The input file is not there any more."""


class _FileTooLarge(Exception):
    """It has more bytes than a file may have."""


class _TooLong(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Names:
    """The `custom_id` of requests that were never sent, for their results do not have it. Ask in order."""

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store = store
        self._job = job
        self._chunks: list[int] | None = None
        self._names: dict[int, str] = {}

    async def of(self, seq: int) -> str:
        if self._chunks is None:
            self._chunks = list(reversed(await self._store.inputs.chunk_numbers(self._job.id)))
        while seq not in self._names:
            items = await self._store.inputs.chunk(self._job.id, self._chunks.pop())
            self._names = {each: unpacked(item).custom_id for each, item in items.items()}
        return self._names[seq]


class _Writer:
    """A file of a batch, begun with its first line."""

    def __init__(self, store: JobStore, claim: Claim, job: Job, part: str, stack: AsyncExitStack) -> None:
        began = job.finalizing_at or job.cancel_requested_at or job.created_at
        upload = store.files.upload(
            owner=job.owner,
            purpose=OUTPUT_PURPOSE,
            filename=f"{batch_name(job.id)}_{part}.jsonl",
            keep=unpacked_options(job.options).output_keep,
            file_id=file_id(job.id, part, began),
            lease=claim.lease,
        )
        self._upload = upload
        self._stack = stack
        self._is_begun = False

    async def write(self, lines: bytes) -> None:
        if not lines:
            return
        if not self._is_begun:
            await self._stack.enter_async_context(self._upload)
            self._is_begun = True
        await self._upload.write(lines)

    async def commit(self) -> str | None:
        """The id of the file, if it was made."""
        return (await self._upload.commit()).id if self._is_begun else None
