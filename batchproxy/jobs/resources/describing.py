"""What an endpoint says about its jobs when it describes itself, and the JSON Schema of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...endpoint import Endpoint
from ...engine.model import Delivery
from ..store import TERMINAL, JobState, Outcome
from .entries import FATES, NDJSON
from .problems import CODES
from .resources import METHODS
from .stored import MOST_ORDERED

if TYPE_CHECKING:
    from .settings import JobsSettings

_ENDS = [state.value for state in JobState if state in TERMINAL]
_CALLBACK: dict[str, Any] = {
    "url": {"type": "string", "maxLength": 2048, "pattern": "^https?://"},
    "events": {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string", "enum": _ENDS},
        "default": _ENDS,
        "description": "Of which ends.",
    },
    "secret_ref": {"type": "string", "description": "Names the secret by which the message is signed."},
}
STATES = [state.value for state in JobState if state is not JobState.STORING]
_COUNTS = ("total", "completed", "failed", "cancelled", "expired", "unknown", "in_flight", "retrying", "pending")
_TIMES = ("created_at", "started_at", "finished_at", "deadline", "eta", "kept_until", "cancel_requested_at")

JOB: dict[str, Any] = {
    "type": "object",
    "required": ["id", "state", "counts", "progress", *_TIMES, "retry_of", "delivery", "callback", "links"],
    "properties": {
        "id": {"type": "string"},
        "state": {"type": "string", "enum": STATES},
        "counts": {
            "type": "object",
            "required": list(_COUNTS),
            "properties": {name: {"type": "integer", "minimum": 0} for name in _COUNTS},
        },
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        **{name: {"type": ["string", "null"], "format": "date-time"} for name in _TIMES},
        "retry_of": {"type": ["string", "null"]},
        "delivery": {"type": "string", "enum": list(Delivery)},
        "callback": {
            "type": ["object", "null"],
            "required": ["url", "events", "secret_ref"],
            "properties": {**_CALLBACK, "url": {**_CALLBACK["url"], "type": ["string", "null"]}},
            "description": "Who is told of the end; without the `url` if the key that it is encrypted with is gone.",
        },
        "error": {
            "type": "object",
            "required": ["code", "detail"],
            "properties": {"code": {"type": "string"}, "detail": {"type": "string"}},
            "description": "Why the job failed.",
        },
        "links": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
"""A JSON Schema of a job as it is shown."""


def described(settings: JobsSettings, endpoint: Endpoint, problem_type: str) -> dict[str, Any]:
    return {
        "path": f"{problem_type}/jobs",
        "formats": ["application/json", NDJSON],
        "resources": {f"{problem_type}/jobs{path}": list(methods) for path, methods in METHODS.items()},
        "states": STATES,
        "outcomes": [outcome.value for outcome in Outcome],
        "delivery": settings.delivery_at(endpoint.path).value,
        "limits": {
            "max_items": settings.max_items,
            "max_bytes": settings.max_bytes,
            "max_json_bytes": min(endpoint.max_batch_bytes, settings.max_bytes),
            "max_ordered_bytes": min(endpoint.max_batch_bytes, settings.max_bytes),
            "max_ordered_items": min(MOST_ORDERED, settings.max_items),
            "open_jobs": settings.store.open_jobs,
            "stored_bytes": settings.store.stored_bytes,
            "upload_timeout": settings.upload_timeout,
            "wait": settings.wait,
            "stream_timeout": settings.stream_timeout,
            "deadline": settings.deadline,
            "keep": settings.store.keep,
        },
        "codes": {
            "job": {
                code: {"status": status, "title": title, "type": f"{problem_type}#{code}"}
                for code, (status, title) in CODES.items()
            },
            "item": {
                str(code): {"status": status, "title": title, "type": f"{problem_type}#{code}"}
                for code, (status, title) in FATES.items()
            },
        },
        "schema": {"job": JOB, "options": options_of(settings, endpoint)},
    }


def options_of(settings: JobsSettings, endpoint: Endpoint) -> dict[str, Any]:
    """The options of a batch that only a job may have, as members of `options`."""
    options: dict[str, Any] = {
        "delivery": {
            "type": "string",
            "enum": list(Delivery),
            "default": settings.delivery_at(endpoint.path),
            "description": "What becomes of items that are not idempotent if nobody knows whether they were done.",
        }
    }
    if settings.webhooks is not None:
        options["callback"] = {
            "type": "object",
            "additionalProperties": False,
            "required": ["url", *(["secret_ref"] if len(settings.webhooks.secrets) > 1 else [])],
            "properties": _CALLBACK,
            "description": "Who is told of the end of the job, as a Standard Webhook.",
        }
    return options
