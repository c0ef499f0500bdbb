"""Sends a request alone and as an item of a batch, over the same server, and tells how the two answers differ.

Knows: how a client writes a request and a batch, how it reads an entry back into bytes, and which differences the
protocol allows. Must not know: the apps.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from json import loads
from types import MappingProxyType
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

import msgspec

from tests.serving import Headers, Response, Server, ask

Scalar: TypeAlias = str | int | float | bool
Values: TypeAlias = str | list[str]
Mask: TypeAlias = tuple[str, str]

# What a client may say about the batch itself, and no item may inherit.
NEVER_INHERITED: Headers = [
    ("Accept-Encoding", "identity"),
    ("Connection", "x-hop, keep-alive"),
    ("Content-Digest", "sha-256=:AAAA:"),
    ("Content-Language", "en"),
    ("Digest", "sha-256=AAAA"),
    ("DPoP", "of-the-outer-request"),
    ("Idempotency-Key", "of-the-outer-request"),
    ("If-Match", '"of-the-outer-request"'),
    ("If-Modified-Since", "Fri, 01 Jan 2038 00:00:00 GMT"),
    ("If-None-Match", "*"),
    ("If-Range", '"of-the-outer-request"'),
    ("Keep-Alive", "timeout=5"),
    ("Prefer", "wait=10"),
    ("Proxy-Authorization", "Basic b3V0ZXI6b3V0ZXI="),
    ("Range", "bytes=0-1"),
    ("Signature", "sig=:AAAA:"),
    ("Signature-Input", 'sig=("@method")'),
    ("TE", "trailers"),
    ("X-Hop", "listed by Connection"),
]

# Where the protocol lets the answers differ, beside timing: its first paragraph, and the members of an entry.
MAY_DIFFER = {"connection", "content-length", "date", "server", "transfer-encoding"}


_keys = count(1)


# A request


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    raw: bytes
    encoding: Literal["json", "text", "base64"]
    media_type: str

    def member(self) -> msgspec.Raw | str:
        """The item's `body`: what stands in the batch for these bytes."""
        match self.encoding:
            case "json":
                return msgspec.Raw(self.raw)
            case "text":
                return self.raw.decode()
            case "base64":
                return base64.b64encode(self.raw).decode()


def json(document: str) -> Body:
    return Body(raw=document.encode(), encoding="json", media_type="application/json")


def text(content: str) -> Body:
    return Body(raw=content.encode(), encoding="text", media_type="text/plain; charset=utf-8")


def binary(content: bytes) -> Body:
    return Body(raw=content, encoding="base64", media_type="application/octet-stream")


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and the status that the app gives it when it comes alone (None: whichever).

    `{origin}` in an inherited header stands for the server's own origin, `{key}` in the path for a key that is fresh
    each time the request is sent. What matches a mask, in header values and bodies, is replaced before comparing: for
    what an app draws anew with every answer.
    """

    name: str
    method: str
    path: str
    status: int | None = 200
    headers: Mapping[str, Values] = field(default_factory=dict, kw_only=True)
    inherited: Mapping[str, Values] = field(default_factory=dict, kw_only=True)
    query: Mapping[str, Scalar | list[Scalar]] = field(default_factory=dict, kw_only=True)
    body: Body | None = field(default=None, kw_only=True)
    masks: tuple[Mask, ...] = field(default=(), kw_only=True)


def names(cases: Iterable[Case]) -> list[str]:
    return [case.name for case in cases]


# Alone


def alone(server: Server, case: Case) -> Response:
    """Send the request as a client without a batch does: its effective headers, and no Accept-Encoding."""
    return ask(
        server,
        case.method,
        target(case),
        [("Host", f"{server.host}:{server.port}"), *_effective(server, case)],
        case.body.raw if case.body else None,
    )


def target(case: Case) -> str:
    """Path and query as a browser writes them: blanks, non-ASCII and a few others percent-encoded as UTF-8."""
    written = re.sub(r'[^!-~]|["<>^{}|`]', lambda found: quote(found[0]), case.path)
    pairs = [(name, _text(value)) for name, values in case.query.items() for value in _list(values)]
    query = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    if not query or written.endswith(("?", "&")):
        return written + query
    return f"{written}{'&' if '?' in written else '?'}{query}"


def _effective(server: Server, case: Case) -> Headers:
    own = {name.lower(): _list(values) for name, values in case.headers.items()}
    own.pop("accept-encoding", None)  # the one header of an item that is ignored
    if case.body:
        own.setdefault("content-type", [case.body.media_type])
    inherited = [(name, value) for name, value in _inherited(server, case.inherited) if name not in own]
    return [*inherited, *((name, value) for name, values in own.items() for value in values)]


def _inherited(server: Server, headers: Mapping[str, Values]) -> Headers:
    return [
        (name.lower(), value.replace("{origin}", server.url))
        for name, values in headers.items()
        for value in _list(values)
    ]


def _list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(value: Scalar) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# In a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One of the ways to send a batch and to get its answer."""

    name: str
    execution: Literal["parallel", "sequential"]
    accept: str

    @property
    def streamed(self) -> bool:
        return self.accept != "application/json"


PARALLEL = Way(name="parallel", execution="parallel", accept="application/json")
SEQUENTIAL = Way(name="sequential", execution="sequential", accept="application/json")
NDJSON = Way(name="ndjson", execution="parallel", accept="application/x-ndjson")
SSE = Way(name="sse", execution="parallel", accept="text/event-stream")
ORDERED_NDJSON = Way(name="sequential ndjson", execution="sequential", accept="application/x-ndjson")

WAYS = (PARALLEL, SEQUENTIAL, NDJSON, SSE)
IN_ORDER = (SEQUENTIAL, ORDERED_NDJSON)


class Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One record of the answer; `body` keeps the bytes that stood in it."""

    id: str | None = None
    index: int | None = None
    status: int
    headers: dict[str, str | list[str]]
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_encoding: Literal["text", "base64"] | None = None
    error: str | None = None

    def values(self, name: str) -> list[str]:
        return _list(self.headers.get(name, []))

    def raw_body(self) -> bytes:
        """The bytes that the API sent, recovered as a client would."""
        if self.body is msgspec.UNSET:
            return b""
        member = bytes(self.body)
        if self.body_encoding == "base64":
            return base64.b64decode(msgspec.json.decode(member, type=str), validate=True)
        if self.body_encoding is None and _is_json(self.values("content-type")):
            return member
        return msgspec.json.decode(member, type=str).encode()


class Summary(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    total: int
    succeeded: int
    failed: int


class Buffered(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    responses: list[Entry]
    summary: Summary


class LastRecord(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    summary: Summary


def in_batch(
    server: Server,
    way: Way,
    cases: Sequence[Case],
    *,
    inherited: Mapping[str, Values] = MappingProxyType({}),
    path: str = "/batch",
) -> list[Entry]:
    """Send the requests as the items of one batch, and return their entries in the order of the requests."""
    answer = ask(
        server,
        "POST",
        path,
        [
            ("Host", f"{server.host}:{server.port}"),
            ("Content-Type", "application/json"),
            ("Accept", way.accept),
            *NEVER_INHERITED,
            *_inherited(server, inherited),
        ],
        msgspec.json.encode(
            {"requests": [_item(case) for case in cases], "options": {"execution": way.execution, "timeout": 30}}
        ),
    )
    assert answer.status == 200, answer.body
    assert answer.header("content-type") in (way.accept, f"{way.accept}; charset=utf-8")
    entries, summary = READERS[way.accept](answer.body)
    succeeded = sum(entry.status < 400 for entry in entries)
    assert summary == Summary(total=len(cases), succeeded=succeeded, failed=len(cases) - succeeded)
    assert len(entries) == len(cases)
    return entries


def _item(case: Case) -> dict[str, Any]:
    item: dict[str, Any] = {"method": case.method, "path": case.path}
    if case.query:
        item["query"] = case.query
    if case.headers:
        item["headers"] = case.headers
    if case.body:
        item |= {"body": case.body.member(), "body_encoding": case.body.encoding}
    return item


def _buffered(body: bytes) -> tuple[list[Entry], Summary]:
    answer = msgspec.json.decode(body, type=Buffered)
    return answer.responses, answer.summary


def _lines(body: bytes) -> tuple[list[Entry], Summary]:
    *records, last = body.removesuffix(b"\n").split(b"\n")
    return _in_order(records), msgspec.json.decode(last, type=LastRecord).summary


def _events(body: bytes) -> tuple[list[Entry], Summary]:
    *events, last = (_event(block) for block in body.removesuffix(b"\n\n").split(b"\n\n"))
    assert {kind for kind, _ in events} <= {b"response"}
    assert last[0] == b"summary"
    return _in_order(data for _, data in events), msgspec.json.decode(last[1], type=LastRecord).summary


def _event(block: bytes) -> tuple[bytes, bytes]:
    fields = [line.partition(b": ")[::2] for line in block.split(b"\n") if not line.startswith(b":")]
    return dict(fields)[b"event"], b"\n".join(value for name, value in fields if name == b"data")


def _in_order(records: Iterable[bytes]) -> list[Entry]:
    entries = {entry.index: entry for entry in (msgspec.json.decode(record, type=Entry) for record in records)}
    return [entries[index] for index in range(len(entries))]


READERS = {"application/json": _buffered, "application/x-ndjson": _lines, "text/event-stream": _events}


# Comparing


def differences(
    server: Server,
    cases: Sequence[Case],
    *,
    ways: Iterable[Way] = WAYS,
    path: str = "/batch",
    stripped: str = "",
) -> list[str]:
    """Send each request alone and then all of them in a batch, in each of the ways; return what is not the same.

    The requests share the outer one, so the inherited headers of the first are those of all. Behind a proxy that
    strips a prefix, a request that reaches the server alone comes without what is `stripped`.
    """
    expected = [alone(server, replace(case, path=case.path.removeprefix(stripped))) for case in _keyed(cases)]
    found = [
        f"{case.name}: status: {answer.status} alone, the table says {case.status}: {answer.body[:300]!r}"
        for case, answer in zip(cases, expected, strict=True)
        if case.status not in (None, answer.status)
    ]
    for way in ways:
        asked = _keyed(cases)
        inherited = cases[0].inherited
        entries = in_batch(server, way, asked, inherited=inherited, path=path)
        for case, answer, entry in zip(cases, expected, entries, strict=True):
            found += [f"{case.name}: {way.name}: {line}" for line in compared(case, way, answer, entry)]
    return found


def _keyed(cases: Sequence[Case]) -> list[Case]:
    key = f"key-{next(_keys)}"
    return [replace(case, path=case.path.replace("{key}", key)) for case in cases]


def compared(case: Case, way: Way, answer: Response, entry: Entry) -> Iterator[str]:
    if entry.error is not None:
        yield f"error: {entry.error}: {entry.raw_body()!r}"
    if entry.status != answer.status:
        yield f"status: {answer.status} alone, {entry.status} in the batch"
    one, other = _comparable(case, _alone_headers(answer)), _comparable(case, _entry_headers(entry))
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            yield f"{name}: {one.get(name)} alone, {other.get(name)} in the batch"
    if "content-length" in entry.headers and case.method != "HEAD":
        yield "content-length: in the entry of a method that is not HEAD"
    body, in_entry = _masked(case, _document(way, answer)), _masked(case, entry.raw_body())
    if body != in_entry:
        yield f"body: {_excerpt(body)} alone, {_excerpt(in_entry)} in the batch"


def _alone_headers(answer: Response) -> dict[str, list[str]]:
    return {name: answer.values(name) for name in dict.fromkeys(name.lower() for name, _ in answer.headers)}


def _entry_headers(entry: Entry) -> dict[str, list[str]]:
    return {name: entry.values(name) for name in entry.headers}


def _comparable(case: Case, headers: dict[str, list[str]]) -> dict[str, list[str]]:
    ignored = MAY_DIFFER - {"content-length"} if case.method == "HEAD" else MAY_DIFFER
    kept = {name: values for name, values in headers.items() if name not in ignored}
    if varied := _varied(kept.pop("vary", [])):
        kept["vary"] = [", ".join(varied)]
    if "set-cookie" in kept:
        # A cookie that is deleted expires now, and now is another second for each of the two.
        kept["set-cookie"] = [
            re.sub(r"(?i)expires=[^;]+(?=; max-age=0)", "Expires=now", each) for each in kept["set-cookie"]
        ]
    return {name: [_masked(case, value.encode("latin-1")).decode("latin-1") for value in kept[name]] for name in kept}


def _varied(values: list[str]) -> list[str]:
    fields = [field.strip() for value in values for field in value.split(",")]
    return [field for field in fields if field.lower() != "accept-encoding"]


def _document(way: Way, answer: Response) -> bytes:
    """What an entry holds of a body: of a JSON body the document without blanks around it, streamed on one line."""
    if not _is_json(answer.values("content-type")) or not _is_document(answer.body):
        return answer.body
    document = answer.body.strip(b" \t\r\n")
    return document.translate(bytes.maketrans(b"\r\n", b"  ")) if way.streamed else document


def _is_json(content_types: list[str]) -> bool:
    media_types = [value.partition(";")[0].strip().lower() for value in content_types]
    return len(media_types) == 1 and (media_types[0] == "application/json" or media_types[0].endswith("+json"))


def _is_document(body: bytes) -> bool:
    try:
        loads(body.decode(), parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _masked(case: Case, value: bytes) -> bytes:
    for pattern, replacement in case.masks:
        value = re.sub(pattern.encode(), replacement.encode(), value)
    return value


def _excerpt(body: bytes) -> str:
    return repr(body) if len(body) < 1000 else f"{len(body)} bytes {body[:400]!r}…{body[-400:]!r}"
