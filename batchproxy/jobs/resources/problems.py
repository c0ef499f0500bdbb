"""What can go wrong with a job over HTTP: each error of the store, and those of the resources, with status and code.

All of them are `BatchError`s, so that they are answered as any other error of an endpoint is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...engine.errors import BatchError
from ...engine.model import Headers
from ..store import (
    BadCursor,
    Gone,
    JobsError,
    KeyBusy,
    KeyConflict,
    LeaseLost,
    NotFound,
    QuotaExceeded,
    StoreError,
    WrongState,
)

BUSY_RETRY, QUOTA_RETRY = 1, 10
"""Seconds after which the same may go better."""


class JobProblem(BatchError):
    """A refusal that concerns a job."""


class BadQuery(JobProblem):
    """`param` is the parameter at fault, if it is one that is known."""

    status = 400
    code = "invalid_query"
    title = "The query is not valid"

    def __init__(self, detail: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.param = param


class BadKey(JobProblem):
    status = 400
    code = "invalid_idempotency_key"
    title = "The idempotency key is not valid"


class NoPrincipal(JobProblem):
    """Nothing says who asks, so that a job would belong to nobody, or to everybody.

    Not 401, for which credentials are to be asked that belong to the API behind.
    """

    status = 403
    code = "no_principal"
    title = "A job belongs to whoever sends it"


class NoSuchJob(JobProblem):
    status = 404
    code = "not_found"
    title = "There is no such job"


class WrongMethod(JobProblem):
    status = 405
    code = "method_not_allowed"
    title = "The method is not allowed here"


class Conflict(JobProblem):
    status = 409
    code = "wrong_state"
    title = "The job is not in a state for it"


class JobGone(JobProblem):
    status = 410
    code = "gone"
    title = "The time of the job is over"


class TooLargeJob(JobProblem):
    status = 413
    code = "ordered_job_too_large"
    title = "The job is too large"


class NotSatisfiable(JobProblem):
    status = 416
    code = "range_not_satisfiable"
    title = "The content does not reach into that range"


class Unprocessable(JobProblem):
    status = 422
    code = "key_conflict"
    title = "The job cannot be taken like this"


class TooMany(JobProblem):
    status = 429
    code = "quota_exceeded"
    title = "There are too many jobs already"


class Paused(JobProblem):
    status = 408
    code = "request_timeout"
    title = "The submission paused for too long"


class Unavailable(JobProblem):
    status = 503
    code = "jobs_unavailable"
    title = "Jobs are not available"


class NoRoom(JobProblem):
    status = 507
    code = "quota_exceeded"
    title = "There is no room for more"


def retry_after(seconds: int) -> Headers:
    return ((b"retry-after", b"%d" % seconds),)


@contextmanager
def told() -> Iterator[None]:
    """Turns errors of the store into those that are answered."""
    try:
        yield
    except JobsError as error:
        raise problem_of(error) from error


def problem_of(error: JobsError) -> JobProblem:
    match error:
        case Gone():
            return JobGone("The job has been removed, for its time is over.")
        case NotFound():
            return NoSuchJob("There is no job of yours with this id.")
        case KeyBusy():
            return Conflict(str(error), code=error.code, headers=retry_after(BUSY_RETRY))
        case KeyConflict():
            return Unprocessable(str(error), code=error.code)
        case WrongState():
            return Conflict(str(error), code=error.code)
        case BadCursor():
            return BadQuery(str(error), code=error.code)
        case LeaseLost():
            return Paused("The submission paused for too long, and was given up.")
        case QuotaExceeded(quota="open_jobs"):
            detail = f"You have {error.limit} jobs that have not ended; more are taken when some have."
            return TooMany(detail, headers=retry_after(QUOTA_RETRY))
        case QuotaExceeded():
            return NoRoom(f"Your jobs would take more than {error.limit} bytes together; remove some that have ended.")
        case StoreError():
            return _of_store(error)
    return Unavailable("The store of jobs failed.", code=error.code)


def _of_store(error: StoreError) -> JobProblem:
    """Says nothing of paths and hosts: those are in the log."""
    headers = retry_after(BUSY_RETRY) if error.passing else ()
    if error.code == "store_full":
        return NoRoom("The store of jobs has no space left.", code=error.code, headers=retry_after(QUOTA_RETRY))
    return Unavailable("The store of jobs cannot be used now.", code=error.code, headers=headers)


CODES: dict[str, tuple[int, str]] = {
    "invalid_query": (400, "A parameter of the query is unknown or has a wrong value."),
    "bad_cursor": (400, "The cursor was not given out for this."),
    "invalid_idempotency_key": (400, "The idempotency key is not one string of 1 to 255 characters."),
    "no_principal": (403, "The request does not say whose the job is."),
    "not_found": (404, "There is no such job, or it is somebody else's."),
    "wrong_state": (409, "The job is not in a state for it."),
    "key_busy": (409, "A job with this idempotency key is being stored."),
    "credentials_gone": (409, "Items had credentials of their own, which were dropped with the end of their job."),
    "gone": (410, "The job was removed, for its time is over."),
    "ordered_job_too_large": (413, "Items that wait for each other, or run in order, are too large together."),
    "range_not_satisfiable": (416, "The results have fewer bytes than the range begins at."),
    "key_conflict": (422, "The idempotency key belongs to a job with another content."),
    "callbacks_unavailable": (422, "Nobody is told of the end of jobs here."),
    "webhook_refused": (422, "Nothing is sent to the URL of the callback, or there is no such secret."),
    "secrets_unavailable": (422, "The job would keep credentials, and there is no key to encrypt them with."),
    "quota_exceeded": (429, "There are too many open jobs (429), or too many stored bytes (507)."),
    "jobs_unavailable": (503, "Jobs do not run in this process."),
    "store_busy": (503, "The store is busy."),
    "store_unreachable": (503, "The store does not answer."),
    "store_full": (507, "The store has no space left."),
}
"""The codes of jobs, for the self-description: code → (status, meaning)."""
