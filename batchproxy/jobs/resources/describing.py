"""What an endpoint says about its jobs: for its self-description, and for OpenAPI documents."""

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
_STATES = [state.value for state in JobState if state is not JobState.STORING]
_COUNTS = ("total", "completed", "failed", "cancelled", "expired", "unknown", "in_flight", "retrying", "pending")
_TIMES = ("created_at", "started_at", "finished_at", "deadline", "eta", "kept_until", "cancel_requested_at")

JOB: dict[str, Any] = {
    "type": "object",
    "required": ["id", "state", "counts", "progress", *_TIMES, "retry_of", "delivery", "callback", "links"],
    "properties": {
        "id": {"type": "string"},
        "state": {"type": "string", "enum": _STATES},
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
            "properties": _CALLBACK,
            "description": "Who is told of the end.",
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
        "states": _STATES,
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
        "schema": {"job": JOB, "options": _options(settings, endpoint)},
    }


def _options(settings: JobsSettings, endpoint: Endpoint) -> dict[str, Any]:
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


# OpenAPI


def operations(settings: JobsSettings, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    base = f"{endpoint.path}/jobs"
    name = endpoint.path.replace("/", "_")
    one = [_in_path("id", "The id of the job.")]
    return {
        endpoint.path: {"post": _submitting(settings, endpoint)},
        base: {
            "get": _operation(
                f"jobs{name}",
                "List your jobs, the newest first",
                [
                    _in_query("state", "Some states, separated by commas.", _STATES),
                    _in_query("after", "The cursor of the page before."),
                    _in_query("limit", "How many at most, to 100."),
                ],
                {"200": _json("Jobs.", _list())},
            )
        },
        f"{base}/{{id}}": {
            "get": _operation(
                f"job{name}",
                "Look at a job",
                [
                    *one,
                    _header("Prefer", "`wait=N`: the answer waits for the end, or for a change with `If-None-Match`."),
                ],
                {"200": _json("The job.", JOB), "304": {"description": "It has not changed."}},
            ),
            "delete": _operation(
                f"delete_job{name}",
                "Stop a job that runs, or remove one that has ended",
                one,
                {"202": _json("It is being stopped.", JOB), "204": {"description": "It is removed."}},
            ),
        },
        f"{base}/{{id}}/events": {
            "get": _operation(
                f"job_events{name}",
                "Follow the progress of a job",
                [*one, _header("Last-Event-ID", "The last event that was seen.")],
                {"200": {"description": "The job, each time.", "content": _text("text/event-stream")}},
            )
        },
        f"{base}/{{id}}/results": {
            "get": _operation(
                f"job_results{name}",
                "Read the results of a job, also before its end",
                [
                    *one,
                    _in_query("order", "That of the input, or that of completion.", ["input", "completion"]),
                    _in_query("outcome", "Some outcomes, separated by commas.", [each.value for each in Outcome]),
                    _in_query("after", "The cursor that came with the results before."),
                    _in_query("limit", "How many at most."),
                    _in_query("follow", "Whether lines go on until the end of the job.", ["false", "true"]),
                    _header("Range", "`bytes=N-`: the rest of the lines in input order, once the job has ended."),
                    _header("If-Range", "The `ETag` of what is there already."),
                ],
                {
                    "200": {
                        "description": "Results.",
                        "content": {**_json("", _page(endpoint))["content"], **_text(NDJSON)},
                    },
                    "206": {"description": "The bytes that were asked for.", "content": _text(NDJSON)},
                    "304": {"description": "They have not changed."},
                    "416": {"description": "There are no such bytes."},
                },
            )
        },
        f"{base}/{{id}}/cancel": {
            "post": _operation(
                f"cancel_job{name}",
                "Stop a job; what is done stays",
                one,
                {"200": _json("It had ended.", JOB), "202": _json("It is being stopped.", JOB)},
            )
        },
        f"{base}/{{id}}/retry": {
            "post": _operation(
                f"retry_job{name}",
                "Try again what failed, as a new job",
                [
                    *one,
                    _in_query(
                        "outcome",
                        "Some outcomes, separated by commas; all that are not `ok` without.",
                        [each.value for each in Outcome if each is not Outcome.OK],
                    ),
                    _header("Idempotency-Key", "Asked again with the same key, the job is the same."),
                ],
                {"202": _json("The new job.", JOB)},
            )
        },
    }


def _submitting(settings: JobsSettings, endpoint: Endpoint) -> dict[str, Any]:
    """What comes to the sending of a batch."""
    batch = {"properties": {"options": {"properties": _options(settings, endpoint)}}}
    return {
        "parameters": [
            _header("Prefer", "`respond-async`, perhaps with `wait=N`: the batch becomes a job."),
            _header("Idempotency-Key", "Of a job: sent again with the same key, it is the same."),
        ],
        "requestBody": {"content": {"application/json": {"schema": batch}, **_text(NDJSON)}},
        "responses": {"202": _json("The batch has become a job.", JOB)},
    }


def _operation(id: str, summary: str, parameters: list[Any], responses: dict[str, Any]) -> dict[str, Any]:
    refused = {"description": "There is no such job of yours.", "content": {"application/problem+json": {}}}
    return {
        "tags": ["batch"],
        "summary": summary,
        "operationId": id,
        "parameters": parameters,
        "responses": {**responses, "404": refused},
    }


def _in_path(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": about, "schema": {"type": "string"}}


def _in_query(name: str, about: str, values: list[str] | None = None) -> dict[str, Any]:
    said = about if values is None else f"{about} Known are {', '.join(values)}."
    return {"name": name, "in": "query", "required": False, "description": said, "schema": {"type": "string"}}


def _header(name: str, about: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}


def _json(about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _text(media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"type": "string"}}}


def _list() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "required": ["jobs", "cursor", "next"],
        "properties": {"jobs": {"type": "array", "items": JOB}, "cursor": text, "next": text},
    }


def _page(endpoint: Endpoint) -> dict[str, Any]:
    entry: dict[str, Any] = endpoint.spoken.schema(endpoint)["response"]["properties"]["responses"]["items"]
    # Besides its own failures an item may have those of jobs.
    properties = {**entry["properties"], "error": {"type": "string"}}
    properties["outcome"] = {"type": "string", "enum": [outcome.value for outcome in Outcome]}
    return {
        "type": "object",
        "required": ["results", "cursor", "complete", "next"],
        "properties": {
            "results": {"type": "array", "items": {**entry, "properties": properties}},
            "cursor": {"type": "string"},
            "complete": {"type": "boolean"},
            "next": {"type": ["string", "null"]},
        },
    }
