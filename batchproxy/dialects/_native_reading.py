"""Reads the native format: a JSON document becomes a batch, or an error that says where.

Knows: the members of a batch. Must not know: HTTP servers, limits' values, order of execution.
"""

from __future__ import annotations

import binascii
import random
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import UNSET

from ..engine import references
from ..engine.bodies import is_deeper
from ..engine.errors import Failure, Invalid
from ..engine.headers import own
from ..engine.model import (
    Batch,
    Callback,
    Caller,
    Execution,
    Headers,
    Item,
    Options,
    Reference,
    Refusal,
    Template,
)
from ..engine.paths import canonical, component, joined_queries, plain_paths, query_string, with_query
from ..engine.policy import Policy
from ._native_wire import EXPECTED, ID, Envelope, WireItem, WireOptions, decoded, pointer_token

_MAX_REFERENCE = 1024
_decode_text = msgspec.json.Decoder(str).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def read(body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
    """The batch that the bytes mean. Raises `Malformed`, `Invalid` or `TooLarge`."""
    envelope = decoded(body, policy.max_items)
    _check_now(envelope.options)
    return _Reading(envelope, caller, policy).batch(minimal)


def read_job(body: bytes, caller: Caller, policy: Policy, *, minimal: bool) -> Batch:
    """The same for a batch that becomes a job, and so may say what only a job can keep."""
    return _Reading(decoded(body, policy.max_items), caller, policy).batch(minimal)


def _check_now(options: WireOptions) -> None:
    """Raises `Invalid` for what a batch cannot have that is answered at once."""
    for name, value in (("delivery", options.delivery), ("callback", options.callback)):
        if value is not UNSET:
            raise Invalid(
                f"`{name}` is an option of jobs, and this batch is to be answered at once; send it with the header"
                " `Prefer: respond-async`, to an endpoint that has jobs.",
                pointer=f"/options/{name}",
            )


_JSON_TYPE: Headers = ((b"content-type", b"application/json"),)
_DEFAULT_TYPES: dict[str, Headers] = {
    "json": _JSON_TYPE,
    "text": ((b"content-type", b"text/plain; charset=utf-8"),),
    "base64": ((b"content-type", b"application/octet-stream"),),
}


_RANKS = {execution: rank for rank, execution in enumerate(Execution)}


class _Reading:
    """One envelope on its way to a `Batch`."""

    def __init__(self, envelope: Envelope, caller: Caller, policy: Policy) -> None:
        self._requests = envelope.requests
        self._options = envelope.options
        self._caller = caller
        self._policy = policy
        self._base = policy.base_path.encode("ascii")
        self._refused: dict[int, Refusal] = {}
        self._indexes: dict[str, int] = {}

    def batch(self, minimal: bool) -> Batch:
        for index, request in enumerate(self._requests):
            if request.id is not UNSET:
                self._note_id(index, request.id)
        items = self._items()
        wish, floor = self._options.execution, self._policy.execution
        return Batch(
            id=random.getrandbits(64).to_bytes(8).hex(),
            dialect="native",
            items=items,
            caller=self._caller,
            options=Options(
                execution=wish if wish is floor or _RANKS[wish] > _RANKS[floor] else floor,
                on_error=self._options.on_error,
                timeout=self._options.timeout or None,
                minimal=minimal,
                delivery=self._options.delivery or None,
                callback=self._callback(),
            ),
            refused=self._refused,
        )

    def _callback(self) -> Callback | None:
        wanted = self._options.callback
        if wanted is UNSET:
            return None
        secret_ref = None if wanted.secret_ref is UNSET else wanted.secret_ref
        return Callback(wanted.url, tuple(dict.fromkeys(wanted.events)), secret_ref)

    def _note_id(self, index: int, id: str) -> None:
        if ID.fullmatch(id) is None:
            raise Invalid(f"`id` must be {EXPECTED['id']}.", pointer=f"/requests/{index}/id")
        if self._indexes.setdefault(id, index) != index:
            raise Invalid(
                f"The id `{id}` is already that of item {self._indexes[id]}.",
                code="duplicate_id",
                pointer=f"/requests/{index}/id",
            )

    def _items(self) -> tuple[Item, ...]:
        requests = self._requests
        plain = plain_paths([request.path for request in requests], self._policy.max_path_bytes)
        if plain is None:
            return tuple(map(self._item, range(len(requests)), requests))
        paths, queries = plain
        if self._base:
            paths = [self._base + path for path in paths]
        # The rule, and the hot path: an item that is nothing but a method and a path.
        return tuple(
            [
                self._item(index, request)
                if request.headers or request.body or request.query or request.depends_on or request.vars
                else Item(index, request.method, path, query, request.id or None, timeout=request.timeout or None)
                for index, request, path, query in zip(range(len(requests)), requests, paths, queries, strict=True)
            ]
        )

    def _item(self, index: int, request: WireItem) -> Item:
        headers: Headers = ()
        body = b""
        if request.headers:
            headers = self._or_refused(index, self._too_many(request.headers) or own(request.headers), ())
        if request.body:
            body = self._or_refused(index, self._body(index, request), b"")
            if not any(name == b"content-type" for name, _ in headers):
                headers += _DEFAULT_TYPES[request.body_encoding]
        after: tuple[int, ...] = ()
        template: Template | None = None
        path = query = b""
        if request.depends_on:
            after = self._after(index, request.depends_on)
        if request.vars:
            template = self._template(index, request, headers, body)
            after = tuple(dict.fromkeys((*after, *(reference.source for reference in template.references))))
        else:
            path, query = self._target(request.path, index)
            if request.query and self._is_short(index, request.query):
                added = query_string(self._query(index, request.query))
                query = joined_queries(query.decode("ascii"), added).encode("ascii")
        return Item(
            index,
            request.method,
            path,
            query,
            request.id or None,
            headers,
            body,
            after,
            template,
            request.timeout or None,
        )

    def _too_many(self, headers: Mapping[str, str | list[str]]) -> Refusal | None:
        """Counted before any of them is looked at."""
        policy = self._policy
        values = [value for given in headers.values() for value in ([given] if isinstance(given, str) else given)]
        size = sum(map(len, headers)) + sum(map(len, values))
        count = max(len(headers), len(values))
        if count <= policy.max_headers and size <= policy.max_header_bytes:
            return None
        return Refusal(
            Failure.HEADERS_TOO_LARGE,
            f"The item has {count} headers of {size} bytes; the limits are {policy.max_headers}"
            f" and {policy.max_header_bytes}.",
        )

    def _or_refused(self, index: int, value: Any, instead: Any) -> Any:
        if isinstance(value, Refusal):
            self._refused.setdefault(index, value)
            return instead
        return value

    def _target(self, path: str, index: int) -> tuple[bytes, bytes]:
        if len(path) > self._policy.max_path_bytes:
            detail = f"Path and query have {len(path)} bytes; the limit is {self._policy.max_path_bytes}."
            self._refused.setdefault(index, Refusal(Failure.PATH_TOO_LONG, detail))
            return b"", b""
        read = canonical(path, allow_empty_segments=self._policy.allow_empty_segments)
        if isinstance(read, Refusal):
            self._refused.setdefault(index, read)
            return b"", b""
        return self._base + read[0], read[1]

    def _is_short(self, index: int, query: Mapping[str, msgspec.Raw]) -> bool:
        """Whether a `query` may fit into a path, judged undecoded: an escape takes six bytes for one."""
        size = sum(map(len, query)) + sum(len(bytes(raw)) for raw in query.values())
        if size <= 6 * self._policy.max_path_bytes:
            return True
        detail = f"`query` alone is longer than the limit of {self._policy.max_path_bytes} bytes for path and query."
        self._refused.setdefault(index, Refusal(Failure.PATH_TOO_LONG, detail))
        return False

    def _query(self, index: int, given: Mapping[str, msgspec.Raw]) -> dict[str, list[str]]:
        """The texts of the values: numbers as they stood in the batch."""
        texts: dict[str, list[str]] = {}
        for name, raw in given.items():
            value = bytes(raw)
            values = [bytes(each) for each in _decode_list(value)] if value.startswith(b"[") else [value]
            if any(each.startswith((b"[", b"{", b"n")) for each in values):
                raise Invalid(
                    "A query value must be a string, a number, a boolean, or a list of those.",
                    pointer=f"/requests/{index}/query/{pointer_token(name)}",
                )
            texts[name] = [_scalar_text(each) for each in values]
        return texts

    def _body(self, index: int, request: WireItem) -> bytes | Refusal:
        body = bytes(request.body)
        if request.body_encoding == "json":
            if is_deeper(body, self._policy.max_depth):
                return Refusal(Failure.INVALID_BODY, f"The body is nested deeper than {self._policy.max_depth} levels.")
            return body
        if not body.startswith(b'"'):
            raise Invalid(
                f"With the body encoding `{request.body_encoding}` a body must be a string.",
                pointer=f"/requests/{index}/body",
            )
        text = _decode_text(body)
        if request.body_encoding == "text":
            return text.encode("utf-8")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            return Refusal(Failure.INVALID_BODY, "The body is not base64 (RFC 4648, section 4).")

    def _after(self, index: int, ids: list[str]) -> tuple[int, ...]:
        if len(ids) > len(self._requests):
            raise Invalid(
                f"`depends_on` has {len(ids)} ids; the batch has {len(self._requests)} items.",
                pointer=f"/requests/{index}/depends_on",
            )
        return tuple(
            dict.fromkeys(
                self._index_of(each, f"/requests/{index}/depends_on/{position}") for position, each in enumerate(ids)
            )
        )

    def _index_of(self, id: str, pointer: str) -> int:
        index = self._indexes.get(id)
        if index is None:
            near = get_close_matches(id[:64], self._indexes, 1)
            hint = f"; did you mean `{near[0]}`?" if near else "."
            raise Invalid(
                f"No item of this batch has the id that is named here{hint}", code="unknown_id", pointer=pointer
            )
        return index

    # Values out of other answers

    def _template(self, index: int, request: WireItem, headers: Headers, body: bytes) -> Template:
        given = request.vars or {}
        place = f"/requests/{index}/vars"
        if len(given) > self._policy.max_vars:
            raise Invalid(f"An item may have {self._policy.max_vars} vars; this one has {len(given)}.", pointer=place)
        values = tuple(self._reference(place, name, value) for name, value in given.items())
        target, used = self._template_target(index, request)
        json_body = bool(body) and request.body_encoding == "json"
        if json_body:
            if len(body) <= references.MAX_TEMPLATE_BYTES:
                used |= references.placeholders_of_body(body)
            elif in_body := {name for name in given if b"{%b}" % name.encode("ascii") in body}:
                used |= in_body
                self._refused.setdefault(
                    index,
                    Refusal(
                        Failure.BODY_TOO_LARGE,
                        f"A body that takes values may have {references.MAX_TEMPLATE_BYTES} bytes.",
                    ),
                )
        for _, value in headers:
            used.update(references.PLACEHOLDER.findall(value.decode("latin-1")))
        for name in given:
            if name not in used:
                raise Invalid(
                    f"`{name}` is declared and not used; write `{{{name}}}` where its value belongs.",
                    pointer=f"{place}/{pointer_token(name)}",
                )
        return Template(values, target, json_body)

    def _reference(self, place: str, name: str, value: str) -> Reference:
        pointer = f"{place}/{pointer_token(name[:64])}"
        if references.NAME.fullmatch(name) is None:
            raise Invalid("A name in `vars` has 1 to 64 letters, digits and `_.-`.", pointer=pointer)
        id, mark, fragment = value.partition("#")
        if len(value) > _MAX_REFERENCE:
            raise Invalid(f"A value in `vars` has at most {_MAX_REFERENCE} characters.", pointer=pointer)
        if not mark or not id or not fragment.startswith("/"):
            raise Invalid("A value in `vars` is `id#/pointer`, such as `create#/body/id`.", pointer=pointer)
        source = self._index_of(id, pointer)
        try:
            return Reference(name, source, references.pointer(fragment), id)
        except ValueError as fault:
            raise Invalid(f"This is not a JSON Pointer (RFC 6901): {fault}.", pointer=pointer) from None

    def _template_target(self, index: int, request: WireItem) -> tuple[str, set[str]]:
        """Path and query with their placeholders, and the names that these use."""
        path, names = request.path, request.vars or {}
        used = set(references.PLACEHOLDER.findall(path))
        for name in used:
            if name not in names:
                raise Invalid(
                    f"The path uses `{{{name}}}`, which `vars` does not declare.", pointer=f"/requests/{index}/path"
                )
        if not request.query or not self._is_short(index, request.query):
            return path, used
        pairs = []
        for name, texts in self._query(index, request.query).items():
            for text in texts:
                found = [each for each in references.PLACEHOLDER.findall(text) if each in names]
                used.update(found)
                pairs.append(f"{component(name)}={_encoded_around(text, found)}")
        return with_query(path, "&".join(pairs)), used


def _encoded_around(text: str, names: list[str]) -> str:
    """A query value, percent-encoded but for the placeholders of these names."""
    parts = re.split(r"\{([A-Za-z0-9_.\-]{1,64})\}", text)
    return "".join(
        component(part) if position % 2 == 0 else f"{{{part}}}" if part in names else component(f"{{{part}}}")
        for position, part in enumerate(parts)
    )


def _scalar_text(value: bytes) -> str:
    if value.startswith(b'"'):
        return _decode_text(value)
    return value.decode("ascii")
