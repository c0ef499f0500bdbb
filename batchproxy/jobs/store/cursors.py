"""Cursors: how far somebody has read the results of a job. To him they are opaque.

In the order of the input that is the number of the next item. In the order of completion it is, for every chunk, how
many of its results were read: results of one chunk are committed one after another under the lock of its row, those of
different chunks in whatever order, so that one number for all of them would miss some.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from .errors import BadCursor

C = TypeVar("C", "InputCursor", "CompletionCursor")

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""Such as columns hold: whoever makes a cursor himself may have written others."""


class InputCursor(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    job: str
    next_seq: Number = 0


class CompletionCursor(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """All of the chunks before `base` were read, and so many results of others."""

    job: str
    base: Number = 0
    read: dict[Number, Number] = {}


def sealed(cursor: InputCursor | CompletionCursor) -> str:
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode()


def opened(text: str, kind: type[C], job_id: str) -> C:
    """Raises `BadCursor` if it is not one of this job and order."""
    try:
        cursor = msgspec.msgpack.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise BadCursor("The cursor is not one that was given out for this order of results.") from None
    if cursor.job != job_id:
        raise BadCursor("The cursor belongs to the results of another job.")
    return cursor
