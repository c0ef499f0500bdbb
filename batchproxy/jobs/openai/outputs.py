"""Results as lines of an output file or an error file.

Knows: the members of such a line, outcomes. Must not know: where lines go.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

import msgspec

from ...engine.bodies import as_json, kind_of
from ..store import ItemResult, Outcome

_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_encode = msgspec.json.encode

# Of what never was answered by the API: our code → theirs, and what it says.
_ERRORS: dict[str, tuple[str, str]] = {
    Outcome.CANCELLED: ("batch_cancelled", "This request was not executed, for the batch was cancelled before."),
    Outcome.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Outcome.UNKNOWN: ("unknown", "This request may have been executed; its worker was lost before it was answered."),
    "timeout": ("request_timeout", "This request was not answered in time."),
    "worker_lost": ("worker_lost", "Each worker that executed this request was lost."),
}


def answered(result: ItemResult) -> bool:
    """Whether the API itself said something."""
    return result.failure is None and result.outcome in (Outcome.OK, Outcome.ERROR)


def line(job_id: str, result: ItemResult, custom_id: str, max_depth: int) -> bytes:
    """The same every time that it is written."""
    name = f"{UUID(job_id).hex}{result.seq:06x}"
    response, error = b"null", b"null"
    if answered(result):
        request_id = next((value for key, value in result.headers if key == b"x-request-id"), None)
        about = f"req_{name}" if request_id is None else request_id.decode("latin-1")
        body = _body(result, max_depth)
        response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (result.status, _encode(about), body)
    else:
        key = result.failure or result.outcome.value
        code, message = _ERRORS.get(key, (key, result.detail or "This request could not be executed."))
        error = _encode({"code": code, "message": message})
    return b'{"id":"batch_req_%b","custom_id":%b,"response":%b,"error":%b}\n' % (
        name.encode("ascii"),
        _encode(custom_id),
        response,
        error,
    )


def _body(result: ItemResult, max_depth: int) -> bytes:
    """JSON as it came; anything else as a string."""
    if not result.body:
        return b"null"
    body, _ = as_json(kind_of(result.headers), result.body, max_depth)
    # Between the tokens of valid JSON a line break is a blank; inside strings it cannot stand.
    return body.translate(_LINE_BREAKS) if b"\n" in body or b"\r" in body else body


def file_id(job_id: str, purpose: str, at: float) -> str:
    """The id of a file that a batch makes: always the same, for its making may be done twice; sorted by its time.

    As a UUID of version 7; what is random in it is derived from what is random in the id of the job.
    """
    drawn = hashlib.sha256(f"{job_id} {purpose}".encode()).digest()[:10]
    value = int(at * 1000) << 80 | int.from_bytes(drawn, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))
