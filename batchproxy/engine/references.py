"""Values out of earlier answers, put into an item just before it starts.

A value is found by JSON Pointer (RFC 6901): linear, one result, nothing to exploit. It is put in by the kind of the
place: one encoded segment or query value in a path (RFC 6570, simple expansion), text in a header, a JSON value in a
JSON body. What comes out is judged as a fresh item is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from .bodies import as_json, is_deeper, kind_of
from .errors import Failure
from .headers import REMOVED, field_value
from .model import Caller, Headers, Item, Refusal, Result, Template
from .paths import canonical, component, with_query
from .policy import Policy
from .settings import KiB

Pointer: TypeAlias = tuple[str, ...]

NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
PLACEHOLDER = re.compile(r"\{([A-Za-z0-9_.\-]{1,64})\}")
MAX_TEMPLATE_BYTES = 256 * KiB
"""The largest JSON body in which values are put."""
MAX_STRING_BYTES = 1024 * KiB
"""How much the values may add to one string of a body."""

_STRING_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(?P<key>[ \t\r\n]*:)?')
_BLANKS = b" \t\r\n"
_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Unusable(Exception):
    """A value is missing, of the wrong kind, or too large; the text says which and why, without the value."""

    def __init__(self, text: str, failure: Failure = Failure.REFERENCE_FAILED) -> None:
        super().__init__(text)
        self.failure = failure


def pointer(text: str) -> tuple[str, ...]:
    """The tokens of a JSON Pointer. Raises `ValueError`."""
    if text and not text.startswith("/"):
        raise ValueError("a JSON Pointer is empty or begins with `/`")
    if re.search(r"~(?![01])", text):
        raise ValueError("in a JSON Pointer `~` is followed by 0 or 1")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:])


def placeholders_of_body(body: bytes) -> set[str]:
    """The names in braces that stand in the strings of a JSON body, its keys left out."""
    found: set[str] = set()
    for match in _STRING_TOKEN.finditer(body):
        text = _text_of(match)
        if text is not None:
            found.update(PLACEHOLDER.findall(text))
    return found


class Values:
    """The values that the items of a batch take out of each other's answers.

    Each is found once, when its source has ended; of the answer nothing else is kept.
    """

    __slots__ = ("_found", "_policy", "_wanted")

    def __init__(self, items: Iterable[Item], policy: Policy) -> None:
        self._policy = policy
        self._wanted: dict[int, tuple[str, set[Pointer]]] = {}
        self._found: dict[tuple[int, Pointer], bytes | int | None] = {}
        for template in [item.template for item in items if item.template is not None]:
            for reference in template.references:
                self._wanted.setdefault(reference.source, (reference.source_id, set()))[1].add(reference.pointer)

    @property
    def sources(self) -> Mapping[int, object]:
        """The items from whose answers values are taken, and have not been yet."""
        return self._wanted

    def take(self, result: Result) -> None:
        """A source has ended."""
        source_id, pointers = self._wanted.pop(result.index)
        in_body = {pointer: pointer[1:] for pointer in pointers if pointer[:1] == ("body",)}
        in_head = {pointer: pointer for pointer in pointers if pointer not in in_body}
        if in_body:
            self._keep(result.index, in_body, _body_of(result, self._policy))
        if in_head:
            self._keep(result.index, in_head, _head_of(result, source_id))

    def _keep(self, source: int, pointers: Mapping[Pointer, Pointer], document: bytes) -> None:
        found = _find_all(document, set(pointers.values()))
        for pointer, tokens in pointers.items():
            value = found.get(tokens)
            is_small = value is None or len(value) <= self._policy.max_var_bytes
            self._found[source, pointer] = value if value is None or is_small else len(value)

    def of(self, template: Template) -> dict[str, bytes]:
        """Each name's value, as the bytes of a JSON value. Raises `Unusable`."""
        values: dict[str, bytes] = {}
        for reference in template.references:
            value = self._found[reference.source, reference.pointer]
            if value is None:
                raise Unusable(f"The answer has no value for `{reference.name}`.")
            if isinstance(value, int):
                most = self._policy.max_var_bytes
                raise Unusable(f"The value for `{reference.name}` has {value} bytes; {most} are allowed.")
            values[reference.name] = value
        return values


def complete(item: Item, known: Values, caller: Caller, policy: Policy) -> Item | Refusal:
    """The item with its values put in, its path canonical; or why it cannot be sent. Not yet judged by the policy."""
    template = item.template
    if template is None:
        return item
    try:
        values = known.of(template)
        base, target = _target(template.target, values, caller, policy)
        headers = _headers(item.headers, values, policy.max_header_bytes)
        body = _body(item.body, values, policy.max_item_bytes) if template.json_body else item.body
    except Unusable as fault:
        return Refusal(fault.failure, str(fault))
    if template.json_body and is_deeper(body, policy.max_depth):
        detail = f"With its values the body is nested deeper than {policy.max_depth} levels."
        return Refusal(Failure.INVALID_BODY, detail)
    read = canonical(target, allow_empty_segments=policy.allow_empty_segments)
    if isinstance(read, Refusal):
        return read
    path = base.encode("ascii") + read[0]
    if policy.base_path and not _lies_under(path, policy.base_path):
        return Refusal(Failure.INVALID_PATH, f"The path lies outside of `{policy.base_path}`.")
    return msgspec.structs.replace(item, path=path, query=read[1], headers=headers, body=body, template=None)


# The value that a pointer finds


def _head_of(result: Result, id: str) -> bytes:
    headers: dict[str, str | list[str]] = {}
    for name, value in result.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        known = headers.get(key)
        if known is None:
            headers[key] = text
        else:
            headers[key] = [*known, text] if isinstance(known, list) else [known, text]
    return _encode({"id": id, "status": result.status, "headers": headers})


def _body_of(result: Result, policy: Policy) -> bytes:
    """The body as the answer shows it; nothing where it shows none."""
    if not result.body:
        return b""
    return as_json(kind_of(result.headers), result.body, policy.max_depth)[0]


def _find_all(document: bytes, pointers: set[Pointer]) -> dict[Pointer, bytes]:
    """Follows JSON Pointers (RFC 6901, section 4) together, so that no part of the document is decoded twice."""
    found: dict[Pointer, bytes] = {}
    todo: list[tuple[bytes, int, list[Pointer]]] = [(document.strip(_BLANKS), 0, list(pointers))]
    while todo:
        value, depth, here = todo.pop()
        if not value:
            continue
        deeper: dict[str, list[Pointer]] = {}
        for pointer in here:
            if len(pointer) == depth:
                found[pointer] = value
            else:
                deeper.setdefault(pointer[depth], []).append(pointer)
        if deeper:
            members = _members(value, deeper)
            todo += [(bytes(member).strip(_BLANKS), depth + 1, deeper[token]) for token, member in members]
    return found


def _members(value: bytes, tokens: Iterable[str]) -> list[tuple[str, msgspec.Raw]]:
    """The members of an object or array with these names or indexes; their own content is not decoded."""
    if value.startswith(b"{"):
        members = _decode_object(value)
        return [(token, members[token]) for token in tokens if token in members]
    if value.startswith(b"["):
        elements = _decode_array(value)
        indexes = [token for token in tokens if _ARRAY_INDEX.fullmatch(token) and int(token) < len(elements)]
        return [(token, elements[int(token)]) for token in indexes]
    return []


def _scalar(name: str, value: bytes) -> str:
    """The text of a string, number or boolean."""
    if value.startswith((b"{", b"[", b"n")):
        raise Unusable(f"The value for `{name}` is not a string, number or boolean.")
    return str(msgspec.json.decode(value, type=str)) if value.startswith(b'"') else value.decode("ascii")


# The places where it is put


def _expand(
    text: str, values: Mapping[str, bytes], write: Callable[[str, str], str], most: int, too_large: Failure
) -> str:
    """Replaces declared names in one pass: what a value brings in is not expanded again.

    `most` is the limit of what comes out; it is judged before anything is made.
    """
    names = PLACEHOLDER.findall(text)
    written = {name: write(name, _scalar(name, values[name])) for name in set(names) if name in values}
    if sum(len(written.get(name, "")) for name in names) > most:
        raise Unusable("With its values the item is larger than it may be.", too_large)

    def replaced(match: re.Match[str]) -> str:
        return written.get(match[1], match[0])

    return PLACEHOLDER.sub(replaced, text)


def _target(target: str, values: Mapping[str, bytes], caller: Caller, policy: Policy) -> tuple[str, str]:
    """The base path to put before it, and the target; a whole `Location` has its base path in it."""
    path, mark, query = target.partition("?")
    whole = PLACEHOLDER.fullmatch(path)
    if whole is None:
        return policy.base_path, _expand(target, values, _encoded, policy.max_path_bytes, Failure.PATH_TOO_LONG)
    found = _from_own_origin(whole[1], _scalar(whole[1], values[whole[1]]), caller)
    return "", with_query(
        found, _expand(query, values, _encoded, policy.max_path_bytes, Failure.PATH_TOO_LONG)
    ) if mark else found


def _encoded(name: str, text: str) -> str:
    if "/" in text or "\\" in text:
        raise Unusable(f"The value for `{name}` has a `/` or `\\` in it.")
    return component(text)


def _from_own_origin(name: str, location: str, caller: Caller) -> str:
    """A whole `Location`: origin-form as it is; absolute only with the caller's own origin, which is taken off."""
    if location.startswith("/"):
        return location
    if re.search(r"[\x00-\x20\x7f\\]", location):
        # `urlsplit` would leave some of these out, and read another URL than the one that stands there.
        raise Unusable(f"The value for `{name}` is not a path.")
    try:
        parts = urlsplit(location)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        own = urlsplit(f"{caller.scheme}://{caller.host}")
        own_port = own.port or _DEFAULT_PORTS.get(own.scheme)
    except ValueError:
        raise Unusable(f"The value for `{name}` is not a path.") from None
    same = (parts.scheme, parts.hostname, port) == (own.scheme, own.hostname, own_port)
    if not same or parts.hostname is None or "@" in parts.netloc:
        raise Unusable(f"The value for `{name}` is neither a path nor a URL of this origin.")
    rest = location[location.index("//") + 2 + len(parts.netloc) :]
    return rest if rest.startswith("/") else "/" + rest


def _headers(headers: Headers, values: Mapping[str, bytes], most: int) -> Headers:
    return tuple((name, _header_value(value, values, most)) for name, value in headers)


def _header_value(value: bytes, values: Mapping[str, bytes], most: int) -> bytes:
    if b"{" not in value or value == REMOVED:
        return value
    checked = field_value(
        _expand(value.decode("latin-1"), values, lambda _, text: text, most, Failure.HEADERS_TOO_LARGE)
    )
    if checked is None:
        raise Unusable("A value cannot be put into a header: it holds a control character or one above U+00FF.")
    return checked


def _body(body: bytes, values: Mapping[str, bytes], most: int) -> bytes:
    """The JSON body with its strings expanded; all other bytes, and the keys, stay as they are."""
    pieces: list[bytes] = []
    position = size = 0
    for match in _STRING_TOKEN.finditer(body):
        text = _text_of(match)
        if text is None or not any(name in values for name in PLACEHOLDER.findall(text)):
            continue
        whole = PLACEHOLDER.fullmatch(text)
        new = values[whole[1]] if whole is not None else _encode(_body_string(text, values, most))
        pieces += (body[position : match.start()], new)
        size += len(new)
        position = match.end()
        if size > most:
            raise Unusable("With its values the body is larger than an item may be.")
    return b"".join((*pieces, body[position:]))


def _body_string(text: str, values: Mapping[str, bytes], most: int) -> str:
    return _expand(text, values, lambda _, scalar: scalar, min(most, MAX_STRING_BYTES), Failure.REFERENCE_FAILED)


def _text_of(match: re.Match[bytes]) -> str | None:
    """The text of a string token that may hold a name in braces; None for a key."""
    token = match[0]
    if match["key"] is not None or (b"{" not in token and b"\\" not in token):
        return None
    return str(msgspec.json.decode(token, type=str))


def _lies_under(path: bytes, base_path: str) -> bool:
    base = base_path.encode("ascii")
    return path == base or path.startswith(base + b"/")
