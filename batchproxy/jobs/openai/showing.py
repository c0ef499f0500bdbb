"""Batches and files as the objects that clients of OpenAI know, and their ids.

Knows: members, states, prefixes. Must not know: requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from ...engine.model import Caller
from ..store import File, Job, JobState
from .inputs import unpacked_faults

_ID = re.compile(r"(?:file-|batch_)([0-9a-f]{32})")

_STATUS = {
    JobState.VALIDATING: "validating",
    JobState.QUEUED: "in_progress",
    JobState.RUNNING: "in_progress",
    JobState.FINALIZING: "finalizing",
    JobState.CANCELLING: "cancelling",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
    JobState.EXPIRED: "expired",
    JobState.CANCELLED: "cancelled",
}


class BatchOptions(msgspec.Struct, frozen=True, array_like=True):
    """What a job keeps of the request that created it: who asked, without what is secret, and for what."""

    caller: Caller
    completion_window: str
    output_keep: float
    has_metadata: bool


_unpack = msgspec.msgpack.Decoder(BatchOptions).decode


def packed_options(options: BatchOptions) -> bytes:
    caller = msgspec.structs.replace(options.caller, inherited=())
    return msgspec.msgpack.encode(msgspec.structs.replace(options, caller=caller))


def unpacked_options(data: bytes) -> BatchOptions:
    return _unpack(data)


def file_name(file_id: str | None) -> str | None:
    return None if file_id is None else f"file-{UUID(file_id).hex}"


def batch_name(job_id: str) -> str:
    return f"batch_{UUID(job_id).hex}"


def id_of(name: str, prefix: str) -> str | None:
    """The id in the store that a name stands for; None if it is not the name of anything."""
    match = _ID.fullmatch(name)
    return str(UUID(match[1])) if match is not None and name.startswith(prefix) else None


def shown_file(file: File) -> dict[str, Any]:
    return {
        "id": file_name(file.id),
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "expires_at": _seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def shown_batch(job: Job) -> dict[str, Any]:
    options = unpacked_options(job.options)
    counts = job.counts
    return {
        "id": batch_name(job.id),
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": _errors(job),
        "input_file_id": file_name(job.input_file),
        "completion_window": options.completion_window,
        "status": _STATUS[job.state],
        "output_file_id": file_name(job.output_file),
        "error_file_id": file_name(job.error_file),
        "created_at": int(job.created_at),
        "in_progress_at": _seconds(job.started_at),
        "expires_at": _seconds(job.expires_at),
        "finalizing_at": _seconds(job.finalizing_at),
        "completed_at": _ended(job, JobState.COMPLETED),
        "failed_at": _ended(job, JobState.FAILED),
        "expired_at": _ended(job, JobState.EXPIRED),
        "cancelling_at": _seconds(job.cancel_requested_at),
        "cancelled_at": _ended(job, JobState.CANCELLED),
        "request_counts": {"total": counts.total, "completed": counts.ok, "failed": counts.done - counts.ok},
        "metadata": job.metadata if options.has_metadata else None,
    }


def page(shown: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    ids = [each["id"] for each in shown] or [None]
    return {"object": "list", "data": shown, "first_id": ids[0], "last_id": ids[-1], "has_more": has_more}


def _errors(job: Job) -> dict[str, Any] | None:
    if job.state is not JobState.FAILED:
        return None
    return {"object": "list", "data": [msgspec.structs.asdict(fault) for fault in unpacked_faults(job.error)]}


def _ended(job: Job, state: JobState) -> int | None:
    return _seconds(job.finished_at) if job.state is state else None


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
