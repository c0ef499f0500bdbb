"""Files and batches over HTTP.

Knows: which request means what, and what is answered. Must not know: tables, leases, how lines are run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ... import answer, browsers, request
from ...engine.errors import BatchError
from ...engine.model import Headers, Receive, Scope, Send
from ...entry import mount_of
from ..resources.lines import Body
from ..resources.principal import Owners
from ..resources.problems import NoPrincipal, WrongMethod, told
from ..resources.secrets import Vault
from ..resources.streaming import Stream, cut_off
from ..resources.wishes import Query, idempotency_key
from ..store import File, Job, JobStore, NewJob, NotFound
from .creating import NewBatch, new_batch
from .endpoints import check
from .kind import PURPOSE, kind_name
from .multipart import boundary
from .problems import ApiError, NoKey, NoSuchObject, error_object
from .showing import BatchOptions, id_of, packed_options, page, shown_batch, shown_file
from .uploads import ENVELOPE, Intake

if TYPE_CHECKING:
    from ..resources import JobsSettings
    from .settings import OpenAISettings

_LONGEST_BODY = 256 * 1024
_MOST_FILES, _MOST_BATCHES = 10_000, 100
_RESOURCE = re.compile(r"/(files|batches)(?:/([^/]+)(?:/(content|cancel))?)?")
_encode = msgspec.json.encode


class _Asked:
    """One request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, mount: str) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.mount = mount
        self.owner = ""
        self.name = ""
        self.fields = request.fields(scope)
        self.id = request.request_id(self.fields)
        self.is_head = scope["method"] == "HEAD"
        self.http1 = scope.get("http_version", "1.1").startswith("1")
        self.headers: Headers = (
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", self.id.encode("ascii")),
        )

    async def answer(self, content: Any) -> None:
        await answer.whole(self.send, 200, b"application/json", _encode(content), self.headers, head=self.is_head)


_Serve: TypeAlias = Callable[[_Asked], Awaitable[None]]


class OpenAIResources:
    """An ASGI app for the paths in `OpenAISettings.prefixes`.

    `jobs` says whose a file or a batch is, and how long a batch may take. `endpoints` are the paths of the batch
    endpoints of the same app, which no batch may reach.
    """

    def __init__(
        self,
        store: JobStore,
        jobs: JobsSettings,
        settings: OpenAISettings,
        vault: Vault,
        *,
        endpoints: Collection[str] = (),
    ) -> None:
        self._store = store
        self._settings = settings
        self._vault = vault
        self._owners = Owners(jobs.principal, anonymous=jobs.anonymous)
        self._deadline = jobs.deadline
        self._endpoints = tuple(endpoints)
        self._kind = kind_name(settings.path)
        self._routes: Mapping[tuple[str, bool, str], Mapping[str, _Serve]] = {
            ("files", False, ""): {"GET": self._list_files, "POST": self._upload},
            ("files", True, ""): {"GET": self._show_file, "DELETE": self._delete_file},
            ("files", True, "content"): {"GET": self._content},
            ("batches", False, ""): {"GET": self._list_batches, "POST": self._create},
            ("batches", True, ""): {"GET": self._show_batch},
            ("batches", True, "cancel"): {"POST": self._cancel},
        }

    def __repr__(self) -> str:
        return f"OpenAIResources({self._settings.path})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _Asked(scope, receive, send, mount_of(scope))
        try:
            with told():
                await self._serve(asked)
        except BatchError as error:
            await answer.whole(
                send,
                error.status,
                b"application/json",
                error_object(error),
                (*error.headers, *asked.headers),
                head=asked.is_head,
            )
        except request.Disconnected:
            return

    async def _serve(self, asked: _Asked) -> None:
        if browsers.is_page(asked.fields):
            browsers.check_site(asked.fields, ())
        path = asked.scope["path"][len(asked.mount) + len(self._settings.path) :]
        match = _RESOURCE.fullmatch(path)
        methods = None
        if match is not None:
            asked.name = match[2] or ""
            methods = self._routes.get((match[1], match[2] is not None, match[3] or ""))
        if methods is None:
            raise NoSuchObject("There is no such path.")
        method = "GET" if asked.is_head else asked.scope["method"]
        if method not in methods:
            allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            raise WrongMethod(f"Allowed here: {allowed}.", headers=((b"allow", allowed.encode("ascii")),))
        asked.owner = await self._owner(asked.scope)
        await methods[method](asked)

    async def _owner(self, scope: Scope) -> str:
        try:
            return await self._owners.of(scope)
        except NoPrincipal:
            error = NoKey("You did not provide an API key: it says whose the files and batches are.")
            error.headers = ((b"www-authenticate", b"Bearer"),)
            raise error from None

    # Files

    async def _upload(self, asked: _Asked) -> None:
        settings = self._settings
        body = Body(
            asked.receive,
            most=settings.max_batch_bytes + ENVELOPE,
            pause=settings.read_timeout,
            total=settings.read_total_timeout,
            http1=asked.http1,
        )
        with _closing(body):
            delimiter = boundary(asked.fields.get(b"content-type", b""))
            body.check_length(asked.fields)
            file = await Intake(self._store, settings, asked.owner).take(body, delimiter)
        await asked.answer(shown_file(file))

    async def _list_files(self, asked: _Asked) -> None:
        query = Query(asked.scope["query_string"], ("after", "limit", "order", "purpose"))
        found = await self._store.files.list(
            asked.owner,
            purpose=query.text("purpose"),
            oldest_first=query.choice("order", "desc", ("asc", "desc")) == "asc",
            after=_after(query, "file-"),
            limit=query.number("limit", _MOST_FILES, most=_MOST_FILES),
        )
        await asked.answer(page([shown_file(file) for file in found.files], has_more=found.has_more))

    async def _show_file(self, asked: _Asked) -> None:
        await asked.answer(shown_file(await self._file(asked)))

    async def _content(self, asked: _Asked) -> None:
        file = await self._file(asked)
        headers: Headers = ((b"content-length", b"%d" % file.bytes), *asked.headers)
        stream = Stream(asked.send, write_timeout=self._settings.write_timeout)
        if asked.is_head:
            await stream.begin(b"application/octet-stream", headers)
            await stream.end()
            return
        pieces = self._store.files.content(file.id, asked.owner)
        # Before anything is said: a file that cannot be read at all is an error with a status.
        first = await anext(pieces, b"")
        await stream.begin(b"application/octet-stream", headers)
        await stream.write(first)
        with cut_off():
            async for piece in pieces:
                await stream.write(piece)
        await stream.end()

    async def _delete_file(self, asked: _Asked) -> None:
        file = await self._file(asked)
        await self._store.files.delete(file.id, asked.owner)
        await asked.answer({"id": asked.name, "object": "file", "deleted": True})

    async def _file(self, asked: _Asked) -> File:
        file_id = id_of(asked.name, "file-")
        try:
            if file_id is not None:
                return await self._store.files.get(file_id, asked.owner)
        except NotFound:
            pass
        raise NoSuchObject(f"No such File object: {asked.name[:100]}", param="id")

    # Batches

    async def _create(self, asked: _Asked) -> None:
        settings = self._settings
        request.check_content(asked.fields)
        body = Body(
            asked.receive,
            most=_LONGEST_BODY,
            pause=settings.read_timeout,
            total=settings.read_total_timeout,
            http1=asked.http1,
        )
        with _closing(body):
            body.check_length(asked.fields)
            content = b"".join([piece async for piece in body.pieces()])
        new = new_batch(content)
        caller = request.caller(asked.scope, asked.fields, asked.mount, id=asked.id, browser=False)
        check(new.endpoint, caller, settings, [asked.mount + path for path in self._endpoints])
        input_file = await self._input_file(new, asked.owner)
        options = BatchOptions(caller, new.completion_window, new.output_keep(settings.keep), new.metadata is not None)
        secret = self._vault.new_secret(caller.inherited)
        job = NewJob(
            owner=asked.owner,
            kind=self._kind,
            endpoint=new.endpoint,
            idempotency_key=idempotency_key(asked.fields),
            options=packed_options(options),
            metadata=new.metadata or {},
            secret=self._vault.sealed(secret, asked.owner),
            deadline=min(new.window, self._deadline),
            keep=settings.keep,
            validate=True,
            input_file=input_file,
        )
        async with self._store.submission(job) as submission:
            fingerprint = hashlib.sha256(b"%b\n%b" % (self._kind.encode(), content)).digest()
            submitted = await submission.commit(fingerprint)
        await asked.answer(shown_batch(submitted.job))

    async def _input_file(self, new: NewBatch, owner: str) -> str:
        file_id = id_of(new.input_file_id, "file-")
        try:
            file = None if file_id is None else await self._store.files.get(file_id, owner)
        except NotFound:
            file = None
        if file is None:
            message = f"No such File object: {new.input_file_id[:100]}"
            raise ApiError(message, param="input_file_id", code="file_not_found")
        if file.purpose != PURPOSE:
            message = f"The purpose of the file is '{file.purpose}'; it must be '{PURPOSE}'."
            raise ApiError(message, param="input_file_id", code="invalid_file_purpose")
        return file.id

    async def _list_batches(self, asked: _Asked) -> None:
        query = Query(asked.scope["query_string"], ("after", "limit"))
        after, limit = _after(query, "batch_"), query.number("limit", 20, most=_MOST_BATCHES)
        found = await self._store.jobs.list(asked.owner, kind=self._kind, before=after, limit=limit)
        shown = [shown_batch(job) for job in found.jobs]
        await asked.answer(page(shown, has_more=found.cursor is not None))

    async def _show_batch(self, asked: _Asked) -> None:
        await asked.answer(shown_batch(await self._batch(asked)))

    async def _cancel(self, asked: _Asked) -> None:
        job = await self._batch(asked)
        await asked.answer(shown_batch(await self._store.ending.cancel(job.id, asked.owner)))

    async def _batch(self, asked: _Asked) -> Job:
        job_id = id_of(asked.name, "batch_")
        try:
            job = None if job_id is None else await self._store.jobs.get(job_id, asked.owner)
        except NotFound:
            job = None
        if job is None or job.kind != self._kind:
            raise NoSuchObject(f"No such Batch object: {asked.name[:100]}", param="id")
        return job


@contextmanager
def _closing(body: Body) -> Iterator[None]:
    """An error amid a body closes the connection."""
    try:
        with told():
            yield
    except BatchError as error:
        error.headers = (*error.headers, *body.closing)
        raise


def _after(query: Query, prefix: str) -> str | None:
    name = query.text("after")
    if name is None:
        return None
    found = id_of(name, prefix)
    if found is None:
        raise ApiError("`after` is the id of the last object before.", param="after")
    return found
