"""What the proxy itself answers: RFC 9457 problem documents.

They name no host, no port and no cause; those are in the log, under the request's id.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec

from ..engine.errors import Failure
from ..engine.events import NOTES
from ..engine.model import Headers, Scope, Send

CLOSE = (b"connection", b"close")
"""The unread rest of a body cannot be told from the next request; for HTTP/1 alone."""

_LATE = "The upstream did not answer in time."
"""There, no item is spoken of."""
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Problem(msgspec.Struct, frozen=True):
    """Why a request is not passed on, or has no answer to pass back.

    With a `failure`, an item does not answer it but reports that.
    """

    status: int
    code: str
    detail: str
    headers: Headers = ()
    failure: Failure | None = None

    def content(self) -> bytes:
        return msgspec.json.encode(
            {
                "type": "about:blank",
                "title": HTTPStatus(self.status).phrase,
                "status": self.status,
                "code": self.code,
                "detail": self.detail,
            }
        )


class Final(Problem, frozen=True):
    """What we answer as the last recipient of a request that goes no further: nothing but headers."""

    def content(self) -> bytes:
        return b""


def of(failure: Failure, detail: str = "", headers: Headers = ()) -> Problem:
    if not detail:
        detail = _LATE if failure is Failure.TIMEOUT else f"{failure.meaning}."
    return Problem(failure.status, failure.value, detail, headers, failure)


async def answer(problem: Problem, scope: Scope, send: Send, *, more: Headers = ()) -> None:
    """Answers with the problem, whole and at once; for HEAD without its content."""
    content = problem.content()
    about = ((b"content-type", b"application/problem+json"),) if content else ()
    headers = [
        *about,
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
        *(pair for pair in problem.headers if pair != CLOSE or scope.get("http_version", "1.1").startswith("1")),
        *more,
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else content
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_handshake(problem: Problem, scope: Scope, send: Send) -> None:
    """Refuses a websocket; with a status and a body of ours only if the server can send them."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000})
        return
    content = problem.content()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(content)),
        (b"cache-control", b"no-store"),
        *(pair for pair in problem.headers if pair != CLOSE),
    ]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": content, "more_body": False})


def notes_of(scope: Scope) -> dict[str, Any]:
    """Where what is worth logging goes."""
    notes = (scope.get("extensions") or {}).get(NOTES)
    return notes if isinstance(notes, dict) else {}


def request_id(notes: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id under which this request is logged: the access log's, the caller's, or a new one."""
    known = notes.get("request_id")
    if isinstance(known, str):
        return known
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    found = given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    notes["request_id"] = found
    return found
