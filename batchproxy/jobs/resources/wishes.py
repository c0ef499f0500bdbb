"""What a request asks for in its headers and its query: preferences, an idempotency key, known versions, parameters.

Knows: RFC 7240 (Prefer), draft-ietf-httpapi-idempotency-key-header, RFC 9110 (If-None-Match). Must not know: jobs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from .problems import BadKey, BadQuery

_MOST_PARAMETERS = 32
_LONGEST_KEY = 255
# RFC 8941, section 3.3.3: a string; other clients send the bare characters.
_QUOTED_KEY = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE_KEY = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
_PREFERENCE = re.compile(r'\s*([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)\s*(?:=\s*(?:"([^"]*)"|([^\s";,]*)))?')


class Preferences(NamedTuple):
    respond_async: bool
    wait: int | None
    minimal: bool


def preferences(headers: Mapping[bytes, bytes]) -> Preferences:
    """Those of `Prefer` that mean something here; of one that is there twice, the first counts. Others are ignored."""
    found: dict[str, str] = {}
    for text in _split(headers.get(b"prefer", b"").decode("latin-1")):
        match = _PREFERENCE.match(text)
        if match is not None:
            found.setdefault(match[1].lower(), match[2] or match[3] or "")
    wait = found.get("wait", "")
    return Preferences(
        respond_async="respond-async" in found,
        wait=int(wait) if wait.isascii() and wait.isdigit() and len(wait) <= 9 else None,
        minimal=found.get("return", "").lower() == "minimal",
    )


def _split(text: str) -> list[str]:
    """At commas outside of quotes."""
    return re.findall(r'(?:[^,"]|"[^"]*")+', text)


def idempotency_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Raises `BadKey`."""
    given = headers.get(b"idempotency-key")
    if given is None:
        return None
    text = given.decode("latin-1").strip(" \t")
    quoted = _QUOTED_KEY.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted is not None else text
    if (quoted is None and _BARE_KEY.fullmatch(text) is None) or not 0 < len(key) <= _LONGEST_KEY:
        raise BadKey(f"`Idempotency-Key` is one string of 1 to {_LONGEST_KEY} visible characters, such as a UUID.")
    return key


def is_known(headers: Mapping[bytes, bytes], etag: str) -> bool:
    """Whether `If-None-Match` names this version, weakly compared."""
    given = headers.get(b"if-none-match", b"").decode("latin-1")
    if given.strip() == "*":
        return True
    return etag.removeprefix("W/") in re.findall(r'"[^"]*"', given)


class Query:
    """The parameters of a query; each may come once. Raises `BadQuery` for one that is not among `known`."""

    def __init__(self, query: bytes, known: Collection[str]) -> None:
        try:
            pairs = parse_qsl(
                query.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(query),
                errors="strict",
                max_num_fields=_MOST_PARAMETERS,
            )
        except ValueError:
            raise BadQuery("The query cannot be read.") from None
        self._values: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise BadQuery(f"There is no such parameter; known are {', '.join(sorted(known)) or 'none'}.")
            if name in self._values:
                raise BadQuery(f"`{name}` may come once.", param=name)
            if "\0" in value:
                raise BadQuery(f"`{name}` holds no `%00`.", param=name)  # nor does text in any database
            self._values[name] = value

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def number(self, name: str, default: int, *, most: int) -> int:
        text = self._values.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
            raise BadQuery(f"`{name}` is a number from 1 to {most}.", param=name)
        return int(text)

    def choice(self, name: str, default: str, among: Collection[str]) -> str:
        text = self._values.get(name, default)
        if text not in among:
            raise BadQuery(f"`{name}` is one of {', '.join(among)}.", param=name)
        return text

    def choices(self, name: str, among: Collection[str]) -> list[str]:
        """Several, separated by commas; none if the parameter is not there."""
        text = self._values.get(name)
        if text is None:
            return []
        chosen = text.split(",")
        if not all(each in among for each in chosen):
            raise BadQuery(f"`{name}` is some of {', '.join(among)}, separated by commas.", param=name)
        return chosen
