"""The jobs of an endpoint as operations of an OpenAPI document.

Knows: the resources, their parameters, what is answered. Must not know: requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...endpoint import Endpoint
from ..store import Outcome
from .describing import JOB, STATES, options_of
from .entries import NDJSON

if TYPE_CHECKING:
    from .settings import JobsSettings


def operations(settings: JobsSettings, endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    """By path and method."""
    base = f"{endpoint.path}/jobs"
    name = endpoint.path.replace("/", "_")
    one = [_in_path("id", "The id of the job.")]
    return {
        endpoint.path: {"post": _submitting(settings, endpoint)},
        base: {"get": _listing(name)},
        f"{base}/{{id}}": {"get": _looking(name, one), "delete": _deleting(name, one)},
        f"{base}/{{id}}/events": {"get": _following(name, one)},
        f"{base}/{{id}}/results": {"get": _reading(name, one, endpoint)},
        f"{base}/{{id}}/cancel": {"post": _cancelling(name, one)},
        f"{base}/{{id}}/retry": {"post": _retrying(name, one)},
    }


def _submitting(settings: JobsSettings, endpoint: Endpoint) -> dict[str, Any]:
    """What comes to the sending of a batch."""
    batch = {"properties": {"options": {"properties": options_of(settings, endpoint)}}}
    return {
        "parameters": [
            _header("Prefer", "`respond-async`, perhaps with `wait=N`: the batch becomes a job."),
            _header("Idempotency-Key", "Of a job: sent again with the same key, it is the same."),
        ],
        "requestBody": {"content": {"application/json": {"schema": batch}, **_text(NDJSON)}},
        "responses": {"202": _json("The batch has become a job.", JOB)},
    }


def _listing(name: str) -> dict[str, Any]:
    return _operation(
        f"jobs{name}",
        "List your jobs, the newest first",
        [
            _in_query("state", "Some states, separated by commas.", STATES),
            _in_query("after", "The cursor of the page before."),
            _in_query("limit", "How many at most, to 100."),
        ],
        {"200": _json("Jobs.", _list())},
    )


def _looking(name: str, one: list[Any]) -> dict[str, Any]:
    prefer = _header("Prefer", "`wait=N`: the answer waits for the end, or for a change with `If-None-Match`.")
    responses = {"200": _json("The job.", JOB), "304": {"description": "It has not changed."}}
    return _operation(f"job{name}", "Look at a job", [*one, prefer], responses)


def _deleting(name: str, one: list[Any]) -> dict[str, Any]:
    responses = {"202": _json("It is being stopped.", JOB), "204": {"description": "It is removed."}}
    return _operation(f"delete_job{name}", "Stop a job that runs, or remove one that has ended", one, responses)


def _following(name: str, one: list[Any]) -> dict[str, Any]:
    last = _header("Last-Event-ID", "The last event that was seen.")
    responses = {"200": {"description": "The job, each time.", "content": _text("text/event-stream")}}
    return _operation(f"job_events{name}", "Follow the progress of a job", [*one, last], responses)


def _reading(name: str, one: list[Any], endpoint: Endpoint) -> dict[str, Any]:
    page = _json("", _page(endpoint))["content"]
    return _operation(
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
            "200": {"description": "Results.", "content": {**page, **_text(NDJSON)}},
            "206": {"description": "The bytes that were asked for.", "content": _text(NDJSON)},
            "304": {"description": "They have not changed."},
            "416": {"description": "There are no such bytes."},
        },
    )


def _cancelling(name: str, one: list[Any]) -> dict[str, Any]:
    responses = {"200": _json("It had ended.", JOB), "202": _json("It is being stopped.", JOB)}
    return _operation(f"cancel_job{name}", "Stop a job; what is done stays", one, responses)


def _retrying(name: str, one: list[Any]) -> dict[str, Any]:
    outcomes = [each.value for each in Outcome if each is not Outcome.OK]
    parameters = [
        *one,
        _in_query("outcome", "Some outcomes, separated by commas; all that are not `ok` without.", outcomes),
        _header("Idempotency-Key", "Asked again with the same key, the job is the same."),
    ]
    responses = {"202": _json("The new job.", JOB)}
    return _operation(f"retry_job{name}", "Try again what failed, as a new job", parameters, responses)


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
