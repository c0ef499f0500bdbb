"""Uploads: a form with a file in it, which goes to the store as it comes.

Knows: the fields of the form, limits. Must not know: requests, answers.
"""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from ...engine.errors import TooLarge
from ..resources.lines import Body
from ..store import File, JobStore
from .kind import PURPOSE
from .multipart import FormReader, Part
from .problems import ApiError

if TYPE_CHECKING:
    from .settings import OpenAISettings

ENVELOPE = 64 * 1024
"""How much longer a form may be than its file."""
_MOST_FIELDS = 16
_LONGEST_FIELD = 1024
_LONGEST_NAME = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FILE = "file"
_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
LEAST_SECONDS, MOST_SECONDS = 3600, 2_592_000


class Intake:
    """`take` the one file of a form. The other fields may come before it or behind it."""

    def __init__(self, store: JobStore, settings: OpenAISettings, owner: str) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner
        self._fields: dict[str, bytes] = {}
        self._field: str | None = None
        self._filename: str | None = None

    async def take(self, body: Body, boundary: bytes) -> File:
        """Raises `BatchError`, `Disconnected`, `JobsError`; then nothing is kept."""
        form = FormReader(boundary)
        async with AsyncExitStack() as stack:
            upload = None
            async for piece in body.pieces():
                for event in form.feed(piece):
                    if isinstance(event, bytes):
                        if self._field is not None:
                            self._add(self._field, event)
                        elif upload is not None:
                            self._check_size(upload.size + len(event))
                            await upload.write(event)
                    elif event.name == _FILE:
                        self._begin_file(event)
                        is_said = _ANCHOR in self._fields and _SECONDS in self._fields
                        keep = self._keep() if is_said else self._settings.keep
                        upload = self._store.files.upload(
                            owner=self._owner, purpose=PURPOSE, filename=self._filename or _FILE, keep=keep
                        )
                        await stack.enter_async_context(upload)
                    else:
                        self._begin_field(event.name)
            form.close()
            self._check_purpose()
            if upload is None:
                raise _missing(_FILE)
            last = self._keep()
            file = await upload.commit()
        return file if last == keep else await self._kept_otherwise(file, last)

    def _begin_file(self, part: Part) -> None:
        if self._filename is not None:
            raise ApiError("A form has one `file`.", param=_FILE)
        if "purpose" in self._fields:
            self._check_purpose()
        self._field = None
        self._filename = _CONTROL.sub("", part.filename or "")[:_LONGEST_NAME] or _FILE

    def _begin_field(self, name: str) -> None:
        if len(self._fields) >= _MOST_FIELDS or len(name) > _LONGEST_FIELD:
            raise ApiError(f"A form has at most {_MOST_FIELDS} fields.", code="invalid_form")
        self._field = name
        self._fields[name] = b""

    def _add(self, name: str, piece: bytes) -> None:
        self._fields[name] += piece
        if len(self._fields[name]) > _LONGEST_FIELD:
            raise ApiError("A field of the form is too long.", code="invalid_form")

    def _check_size(self, size: int) -> None:
        most = self._settings.max_batch_bytes
        if size > most:
            raise TooLarge(f"The file has more than {most} bytes.", code="file_too_large")

    def _check_purpose(self) -> None:
        purpose = self._fields.get("purpose")
        if purpose is None:
            raise _missing("purpose")
        if purpose != PURPOSE.encode():
            raise ApiError("`purpose` must be 'batch': files for other purposes are not kept here.", param="purpose")

    def _keep(self) -> float:
        """For how long the file is kept, by all of the fields."""
        anchor, seconds = self._fields.get(_ANCHOR), self._fields.get(_SECONDS)
        if anchor is None and seconds is None:
            return self._settings.keep
        text = (seconds or b"").decode("latin-1")
        if not re.fullmatch("[0-9]{1,9}", text):
            raise ApiError("`expires_after[seconds]` must be an integer.", param="expires_after")
        return kept_for((anchor or b"").decode("latin-1"), int(text), "expires_after")

    async def _kept_otherwise(self, file: File, keep: float) -> File:
        """The time came behind the content, when the file had one already: it is written once more."""
        files = self._store.files
        async with files.upload(owner=self._owner, purpose=PURPOSE, filename=file.filename, keep=keep) as upload:
            async for piece in files.content(file.id, self._owner):
                await upload.write(piece)
            again = await upload.commit()
        await files.delete(file.id, self._owner)
        return again


def kept_for(anchor: str, seconds: int, param: str) -> float:
    """Raises `ApiError`."""
    if anchor != "created_at":
        raise ApiError(f"`{param}.anchor` must be 'created_at'.", param=param)
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise ApiError(f"`{param}.seconds` must be from {LEAST_SECONDS} to {MOST_SECONDS}.", param=param)
    return float(seconds)


def _missing(name: str) -> ApiError:
    return ApiError(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
