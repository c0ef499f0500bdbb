"""Everything that can go wrong, with its status, its stable code and its title.

What concerns the whole batch is an exception; what concerns one item is a `Failure` inside that item's `Result`,
so that the others go on.

    Exception
    ├── SettingError             a wrong setting: the app does not start
    └── BatchError               the whole batch is refused before anything has run
        ├── Malformed            400  malformed_json
        ├── Invalid              400  invalid_batch, duplicate_id, unknown_id, dependency_cycle
        ├── Refused              403  forbidden, cross_site
        ├── MethodNotAllowed     405  method_not_allowed
        ├── NotAcceptable        406  not_acceptable
        ├── ReadTimeout          408  request_timeout
        ├── TooLarge             413  batch_too_large, too_many_items
        ├── Unsupported          415  unsupported_media_type
        ├── RateLimited          429  rate_limited
        └── Overloaded           503  overloaded
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class SettingError(ValueError):
    """A setting has a value that cannot work; the text names the setting, the value and what was expected."""

    def __init__(self, setting: str, value: object, expected: str) -> None:
        shown = repr(value)
        super().__init__(f"batchproxy: {setting}={shown if len(shown) <= 200 else shown[:200] + '…'}: {expected}")
        self.setting = setting
        self.value = value
        self.expected = expected


class BatchError(Exception):
    """The whole batch is refused, before anything has run.

    `pointer` is the RFC 6901 JSON Pointer to the member at fault, `line` the line that it is in, where the body is
    lines; `headers` go onto the answer.
    """

    status: ClassVar[int]
    code: str
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        pointer: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.pointer = pointer
        self.line: int | None = None
        self.headers = headers


class Malformed(BatchError):
    """The body is not one JSON document in UTF-8."""

    status = 400
    code = "malformed_json"
    title = "The body is not valid JSON"


class Invalid(BatchError):
    """The body is JSON, but not a batch."""

    status = 400
    code = "invalid_batch"
    title = "The batch is not valid"


class Refused(BatchError):
    """Raised by a guard to refuse the whole batch."""

    status = 403
    code = "forbidden"
    title = "The batch is refused"


class MethodNotAllowed(BatchError):
    status = 405
    code = "method_not_allowed"
    title = "A batch is sent with POST"


class NotAcceptable(BatchError):
    status = 406
    code = "not_acceptable"
    title = "The answer is not available in an accepted format"


class ReadTimeout(BatchError):
    status = 408
    code = "request_timeout"
    title = "The body of the batch did not arrive in time"


class TooLarge(BatchError):
    status = 413
    code = "batch_too_large"
    title = "The batch is too large"


class Unsupported(BatchError):
    status = 415
    code = "unsupported_media_type"
    title = "The body of the batch has an unsupported format"


class RateLimited(BatchError):
    """Raised by a guard that counts cost or quota; `retry_after` is in seconds."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers=((b"retry-after", b"%d" % max(int(retry_after or 0), 0)),))


class Overloaded(BatchError):
    """No place was left for the batch's items, nor in the queue for one."""

    status = 503
    code = "overloaded"
    title = "The server is busy"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers=((b"retry-after", b"%d" % max(int(retry_after or 0), 0)),))


WHOLE_BATCH: dict[str, tuple[int, str]] = {
    "malformed_json": (400, "The body is not one JSON document in UTF-8."),
    "invalid_batch": (400, "A member has a wrong type or value, or is unknown."),
    "duplicate_id": (400, "Two items have the same id."),
    "unknown_id": (400, "An item refers to an id that the batch does not have."),
    "dependency_cycle": (400, "Items wait for each other."),
    "cross_site": (403, "A page of another site sent the batch."),
    "forbidden": (403, "A guard refused the batch."),
    "method_not_allowed": (405, "The endpoint takes POST."),
    "not_acceptable": (406, "None of the accepted formats is offered."),
    "request_timeout": (408, "The body did not arrive in time."),
    "batch_too_large": (413, "The body is larger than the limit."),
    "too_many_items": (413, "The batch has more items than the limit."),
    "unsupported_media_type": (415, "The body's media type or encoding is not supported."),
    "rate_limited": (429, "A guard asks the caller to slow down."),
    "overloaded": (503, "No place was free for the batch."),
    "loop_detected": (508, "The request has passed this proxy before."),
}
"""The codes of the whole batch, for the self-description: code → (status, meaning)."""


class Failure(StrEnum):
    """Why the batch layer, not the API, answered an item. The value is the stable code."""

    status: int
    meaning: str

    def __new__(cls, code: str, status: int, meaning: str) -> Failure:
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        member.meaning = meaning
        return member

    INVALID_PATH = ("invalid_path", 400, "The path is not valid")
    HEADER_REFUSED = ("header_refused", 400, "An item may not set this header")
    INVALID_HEADER = ("invalid_header", 400, "A header is not valid")
    INVALID_BODY = ("invalid_body", 400, "The body is not valid")
    NESTED_BATCH = ("nested_batch", 400, "A batch may not hold a batch")
    FORBIDDEN = ("forbidden", 403, "The item is refused")
    METHOD_REFUSED = ("method_refused", 405, "The method is refused")
    BODY_TOO_LARGE = ("body_too_large", 413, "The body is too large")
    PATH_TOO_LONG = ("path_too_long", 414, "The path is too long")
    HEADERS_TOO_LARGE = ("headers_too_large", 431, "The headers are too large")
    DEPENDENCY_FAILED = ("dependency_failed", 424, "An item that this one depends on failed")
    REFERENCE_FAILED = ("reference_failed", 424, "A value from another answer could not be used")
    STOPPED = ("stopped", 424, "The batch stopped at an earlier failure")
    TOO_MANY_FOR_ROUTE = ("too_many_for_route", 429, "Too many items for this route in one batch")
    APP_ERROR = ("app_error", 500, "The application failed")
    UNREACHABLE = ("unreachable", 502, "The upstream could not be reached")
    BAD_RESPONSE = ("bad_response", 502, "The answer is not valid")
    TRUNCATED = ("truncated", 502, "The answer ended too early")
    RESPONSE_TOO_LARGE = ("response_too_large", 502, "The answer is too large")
    UNBATCHABLE_RESPONSE = ("unbatchable_response", 502, "The answer does not fit into a batch")
    UPSTREAM_OVERLOADED = ("upstream_overloaded", 503, "The upstream is busy")
    NOT_STARTED = ("not_started", 503, "The item was not started")
    TIMEOUT = ("timeout", 504, "The item did not end in time")
    BATCH_TIMEOUT = ("batch_timeout", 504, "The batch did not end in time")
