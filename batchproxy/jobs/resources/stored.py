"""Items and options of a job as they lie in the store, and as the engine has them.

An item is kept as it was read: canonical, with its references as numbers of items, and with the refusal if there is
one. What it may do is judged again when it is sent.
"""

from __future__ import annotations

import msgspec

from ...engine.errors import Failure
from ...engine.model import Caller, Execution, Headers, Item, OnError, Options, Refusal, Template
from .secrets import Secret, has_credentials, opened_headers, sealed_headers

MOST_ORDERED = 10_000
"""How many items a job may have that one worker has to have together. If it has to be found out which of them ends
workers, parts of them are read along with all the others."""


class JobOptions(msgspec.Struct, frozen=True, array_like=True):
    """Who asked, without what is secret, and how the items are to be run."""

    caller: Caller
    options: Options = Options()


class _Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    method: str
    path: bytes
    query: bytes = b""
    id: str | None = None
    headers: Headers = ()
    body: bytes = b""
    after: tuple[int, ...] = ()
    template: Template | None = None
    timeout: float | None = None
    sealed: bytes = b""
    failure: str | None = None
    detail: str = ""


_FAILURES = {failure.value: failure for failure in Failure}
_encode = msgspec.msgpack.Encoder().encode
_decode_item = msgspec.msgpack.Decoder(_Stored).decode
_decode_options = msgspec.msgpack.Decoder(JobOptions).decode


def packed_options(caller: Caller, options: Options) -> bytes:
    return _encode(JobOptions(msgspec.structs.replace(caller, inherited=()), options))


def unpacked_options(data: bytes) -> JobOptions:
    return _decode_options(data)


def packed_item(item: Item, refusal: Refusal | None, secret: Secret) -> bytes:
    """Raises `Unprocessable` if the item has credentials, and there is no key to encrypt them with."""
    headers, sealed = item.headers, b""
    if headers and refusal is None and has_credentials(headers):
        headers, sealed = (), sealed_headers(headers, secret)
    return _encode(
        _Stored(
            item.method,
            item.path,
            item.query,
            item.id,
            headers,
            item.body,
            item.after,
            item.template,
            item.timeout,
            sealed,
            None if refusal is None else refusal.failure.value,
            "" if refusal is None else refusal.detail,
        )
    )


def unpacked_item(index: int, data: bytes, secret: Secret) -> tuple[Item, Refusal | None]:
    """Raises `CannotOpen` if it has credentials that are gone."""
    stored = _decode_item(data)
    headers = opened_headers(stored.sealed, secret) if stored.sealed else stored.headers
    item = Item(
        index,
        stored.method,
        stored.path,
        stored.query,
        stored.id,
        headers,
        stored.body,
        stored.after,
        stored.template,
        stored.timeout,
    )
    return item, None if stored.failure is None else Refusal(_FAILURES[stored.failure], stored.detail)


def stored_id(data: bytes) -> str | None:
    """The id that an item has from its sender."""
    return _decode_item(data).id


def is_ordered(options: Options, items: tuple[Item, ...]) -> bool:
    """Whether it matters that one worker has all of the items."""
    in_turn = options.execution is not Execution.PARALLEL or options.on_error is OnError.STOP
    return in_turn or any(item.after for item in items)
