"""A job as its owner sees it: one JSON object, its version, and when it is worth asking again.

Knows: the members of a job. Must not know: HTTP messages.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...engine.model import Callback, Delivery
from ..store import Job, JobState
from .stored import unpacked_options

_SOONEST, _LATEST = 1, 30
"""Bounds of `Retry-After`, in seconds."""


def shown(job: Job, base: str, delivery: Delivery, *, now: float | None = None) -> dict[str, Any]:
    """`base` is the path of the jobs of the endpoint, as clients write it, `delivery` what counts without another."""
    counts, said = job.counts, unpacked_options(job.options).options
    here = f"{base}/{job.id}"
    members: dict[str, Any] = {
        "id": job.id,
        "state": job.state.value,
        "counts": {
            "total": counts.total,
            "completed": counts.ok,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "expired": counts.expired,
            "unknown": counts.unknown,
            "in_flight": counts.leased,
            "retrying": counts.parked,
            "pending": max(counts.total - counts.done - counts.leased - counts.parked, 0),
        },
        "progress": _progress(job),
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "deadline": _time(job.expires_at),
        "eta": _time(_eta(job, time.time() if now is None else now)),
        "kept_until": _time(job.purge_at),
        "cancel_requested_at": _time(job.cancel_requested_at),
        "retry_of": job.retry_of,
        "delivery": (said.delivery or delivery).value,
        "callback": _callback(said.callback),
        "links": {"self": here, "events": f"{here}/events", "results": f"{here}/results"},
    }
    if job.error is not None:
        members["error"] = msgspec.json.decode(job.error)
    if job.is_terminal:
        members["links"]["retry"] = f"{here}/retry"
    else:
        members["links"]["cancel"] = f"{here}/cancel"
    return members


def etag(job: Job) -> str:
    """Weak, for the estimate of its end changes with time."""
    counts = job.counts
    return f'W/"{job.version}.{counts.done}.{counts.leased}.{counts.parked}"'


def retry_after(job: Job, *, now: float | None = None) -> int:
    """In how many seconds there may be news, for those who poll."""
    now = time.time() if now is None else now
    eta = _eta(job, now)
    if eta is None:
        return 2
    return int(min(max((eta - now) / 4, _SOONEST), _LATEST))


def _callback(callback: Callback | None) -> dict[str, Any] | None:
    """As it was sent; what is not secret of it is for the owner alone all the same."""
    if callback is None:
        return None
    return {"url": callback.url, "events": callback.events, "secret_ref": callback.secret_ref}


def _progress(job: Job) -> float:
    if job.is_terminal:
        return 1.0
    return round(job.counts.done / job.counts.total, 4) if job.counts.total else 0.0


def _eta(job: Job, now: float) -> float | None:
    """When it ends if it goes on as it has gone so far; None as long as nothing is known of that."""
    if job.state is not JobState.RUNNING or job.started_at is None or not job.counts.done:
        return None
    elapsed = max(now - job.started_at, 0.0)
    left = elapsed * (job.counts.total - job.counts.done) / job.counts.done
    return now + left if job.expires_at is None else min(now + left, job.expires_at)


def _time(seconds: float | None) -> str | None:
    """RFC 3339."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
