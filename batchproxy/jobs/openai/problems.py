"""Errors as OpenAI's clients understand them: `{"error": {"message", "type", "param", "code"}}`.

Knows: the error object. Must not know: who raises what.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ...engine.errors import BatchError
from ..resources.problems import BadQuery


class ApiError(BatchError):
    """A refusal that is this API's own; `param` is the parameter at fault."""

    title = "The request is not valid"
    status = 400
    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class NoKey(ApiError):
    status: ClassVar[int] = 401
    code = "invalid_api_key"
    title = "The request has no API key"


class NoSuchObject(ApiError):
    status: ClassVar[int] = 404
    code = "not_found"
    title = "There is no such object"


def error_object(error: BatchError) -> bytes:
    """For the code that tells what is wrong, the clients have classes of their own, by status."""
    kind = "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    elif error.status >= 500:
        kind = "server_error"
    param = error.param if isinstance(error, ApiError | BadQuery) else None
    about = {"message": error.detail, "type": kind, "param": param, "code": error.code}
    return msgspec.json.encode({"error": about})
