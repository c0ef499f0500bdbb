"""What a batch looks like on the wire, and what is told of one that does not.

Knows: the names and kinds of the members. Must not know: what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, UnsetType

from ..engine.errors import Invalid, Malformed, TooLarge
from ..engine.model import Delivery, Execution, OnError

ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_END = Literal["completed", "failed", "cancelled", "expired"]
_ENDS: tuple[_END, ...] = get_args(_END)


# The types check the members' kinds; bodies stay the bytes that they are.


class WireItem(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    path: str
    method: str = "GET"
    body: msgspec.Raw = msgspec.Raw()
    headers: dict[str, str | list[str]] | UnsetType = UNSET
    id: str | UnsetType = UNSET
    query: dict[str, msgspec.Raw] | UnsetType = UNSET
    body_encoding: Literal["json", "text", "base64"] = "json"
    depends_on: list[str] = []
    vars: dict[str, str] | UnsetType = UNSET
    timeout: Annotated[float, msgspec.Meta(gt=0)] | UnsetType = UNSET


class WireCallback(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    url: str
    events: Annotated[tuple[_END, ...], msgspec.Meta(min_length=1)] = _ENDS
    secret_ref: str | UnsetType = UNSET


class WireOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    execution: Execution = Execution.PARALLEL
    on_error: OnError = OnError.CONTINUE
    timeout: Annotated[float, msgspec.Meta(gt=0)] | UnsetType = UNSET
    delivery: Delivery | UnsetType = UNSET
    callback: WireCallback | UnsetType = UNSET


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    requests: list[WireItem]
    options: WireOptions = WireOptions()


_decode = msgspec.json.Decoder(Envelope).decode

EXPECTED = {
    "requests": "a list of items",
    "options": "an object",
    "path": "a string such as `/users/7?fields=name`",
    "method": "a string such as `GET`",
    "body_encoding": "`json`, `text` or `base64`",
    "headers": "an object: name → string or list of strings",
    "query": "an object: name → string, number, boolean, or list of those",
    "id": "a string of 1 to 64 letters, digits and `._:-`",
    "depends_on": "a list of ids",
    "vars": "an object: name → `id#/pointer`",
    "timeout": "a number of seconds above 0",
    "execution": "`parallel`, `ordered_writes` or `sequential`",
    "on_error": "`continue` or `stop`",
    "delivery": "`at_most_once` or `at_least_once`",
    "callback": "an object with the member `url`",
    "url": "a string such as `https://example.com/hooks`",
    "events": f"a list of at least one of {', '.join(f'`{end}`' for end in _ENDS)}",
    "secret_ref": "the name of a secret",
}
_ALIASES = {
    "url": "path",
    "uri": "path",
    "relative_url": "path",
    "relativeurl": "path",
    "href": "path",
    "data": "body",
    "json": "body",
    "payload": "body",
    "content": "body",
    "dependson": "depends_on",
    "after": "depends_on",
    "params": "query",
    "queryparams": "query",
    "header": "headers",
    "verb": "method",
    "type": "method",
    "bodyencoding": "body_encoding",
    "encoding": "body_encoding",
    "variables": "vars",
    "referenceid": "id",
    "content_id": "id",
    "items": "requests",
    "operations": "requests",
    "batch": "requests",
    "onerror": "on_error",
    "mode": "execution",
    "webhook": "callback",
    "callback_url": "callback",
    "secret": "secret_ref",
}


def decoded(body: bytes, max_items: int) -> Envelope:
    """The members as they came, each of its kind. Raises `Malformed`, `Invalid` or `TooLarge`."""
    try:
        if not body.isascii():
            # The parser does not look at the UTF-8 of what it leaves undecoded.
            body.decode("utf-8")
        # One brace is that of the batch itself.
        if body.count(b"{") > max_items + 1:
            _check_count(body, max_items)
        return _decode(body)
    except UnicodeDecodeError as fault:
        raise Malformed(f"The body is not UTF-8 (byte {fault.start}).") from None
    except RecursionError:
        raise Malformed("The body is nested too deeply to be read.") from None
    except msgspec.ValidationError as fault:
        raise _invalid(str(fault)) from None
    except msgspec.DecodeError as fault:
        raise Malformed(f"The body cannot be read: {fault}.") from None


def _check_count(body: bytes, max_items: int) -> None:
    """Counts the items before any of them is decoded: a batch far over the limit must not cost its memory."""
    count, stop = 0, max(100 * max_items, 1_000_000)

    def counted(_: msgspec.Struct) -> None:
        nonlocal count
        count += 1
        if count > stop:
            raise ValueError

    # All of these are equal, so that a set of them stays small, however many there are.
    anything = msgspec.defstruct("Anything", (), namespace={"__post_init__": counted}, frozen=True, gc=False)
    envelope = msgspec.defstruct("Envelope", [("requests", set[anything], set())])  # type: ignore[valid-type]
    try:
        msgspec.json.decode(body, type=envelope)
    except msgspec.ValidationError:
        if count <= stop:
            # Not a list of objects: the reading proper says what is wrong.
            return
    if count > max_items:
        actual = str(count) if count <= stop else f"more than {stop}"
        raise TooLarge(
            f"The batch has {actual} items; the limit is {max_items}.", code="too_many_items", pointer="/requests"
        )


def _invalid(text: str) -> Invalid:
    """Turns the parser's words into ours: where, what was expected, the nearest name; nothing of the values."""
    what, _, where = text.rpartition(" - at `$") if " - at `$" in text else (text, "", "")
    # Inside a header's list the parser does not tell the name, so that the pointer ends before it.
    where = where.partition("[...]")[0]
    pointer = "".join(
        f"/{member or index}" for member, index in re.findall(r"\.([A-Za-z_]+)|\[(\d+)\]", where.rstrip("`"))
    )
    unknown = re.match(r"Object contains unknown field `(.*)`$", what, re.DOTALL)
    if unknown is not None:
        return _unknown_member(unknown[1], pointer)
    missing = re.match(r"Object missing required field `(\w+)`$", what)
    if missing is not None:
        name = missing[1]
        return Invalid(f"`{name}` is missing; expected {EXPECTED[name]}.", pointer=f"{pointer}/{name}")
    name = next((part for part in reversed(pointer.split("/")) if part in EXPECTED), "")
    if re.search(r"/requests/\d+$", pointer):
        return Invalid("An item must be an object.", pointer=pointer)
    if not name:
        return Invalid('A batch is an object with the member `requests`: {"requests": […]}.', pointer=pointer)
    return Invalid(f"`{name}` must be {EXPECTED[name]}.", pointer=pointer)


_AT: Mapping[str, type[msgspec.Struct]] = {"/options": WireOptions, "/options/callback": WireCallback}


def _unknown_member(name: str, pointer: str) -> Invalid:
    kind = WireItem if re.fullmatch(r"/requests/\d+", pointer) else _AT.get(pointer, Envelope)
    known = kind.__struct_fields__
    alias = _ALIASES.get(name.replace("-", "_").lower())
    nearest = [alias] if alias in known else get_close_matches(name[:64], known, 1)
    shown = name if ID.fullmatch(name) else "with unusual characters"
    hint = f"did you mean `{nearest[0]}`?" if nearest else f"known are {', '.join(known)}."
    return Invalid(f"Unknown member `{shown}`; {hint}", pointer=f"{pointer}/{pointer_token(name[:64])}")


def pointer_token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
