"""JSON Schemas (draft 2020-12) of a batch and its answer, with the limits in force."""

from __future__ import annotations

from typing import Any

from ..engine.errors import Failure
from ..engine.model import Execution, OnError
from ..engine.policy import Policy

_ID = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"}
_SCALAR = {"type": ["string", "number", "boolean"]}
_STRINGS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def schemas(policy: Policy) -> dict[str, Any]:
    return {"request": _request(policy), "response": _response()}


def _request(policy: Policy) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["requests"],
        "properties": {
            "requests": {"type": "array", "maxItems": policy.max_items, "items": _item(policy)},
            "options": _options(policy),
        },
    }


def _item(policy: Policy) -> dict[str, Any]:
    base = f" It is put behind `{policy.base_path}`." if policy.base_path else ""
    properties: dict[str, Any] = {
        "method": {"type": "string", "enum": sorted(policy.methods), "default": "GET"},
        "path": {"type": "string", "description": f"Path and query as a direct client would write them.{base}"},
        "query": {
            "type": "object",
            "additionalProperties": {"oneOf": [_SCALAR, {"type": "array", "items": _SCALAR}]},
            "description": "Added to the path's query, percent-encoded.",
        },
        "id": {**_ID, "description": "Unique in the batch; echoed in the answer."},
        "headers": {
            "type": "object",
            "additionalProperties": _STRINGS,
            "description": "The item's own headers; all others are those of the batch.",
        },
        "body": {"description": "Any JSON value; absent for no body."},
        "body_encoding": {"type": "string", "enum": ["json", "text", "base64"], "default": "json"},
        "depends_on": {
            "type": "array",
            "items": _ID,
            "description": "Started only after each of these ended with a status below 400.",
        },
        "vars": {
            "type": "object",
            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}#/"},
            "maxProperties": policy.max_vars,
            "description": "Values out of other answers, as `id#/pointer`; `{name}` stands for one.",
        },
        "timeout": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds."},
    }
    return {"type": "object", "additionalProperties": False, "required": ["path"], "properties": properties}


def _options(policy: Policy) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "execution": {"type": "string", "enum": list(Execution), "default": policy.execution},
            "on_error": {"type": "string", "enum": list(OnError), "default": OnError.CONTINUE},
            "timeout": {
                "type": "number",
                "exclusiveMinimum": 0,
                "default": policy.batch_timeout,
                "description": "Seconds for the whole batch.",
            },
        },
    }


def _response() -> dict[str, Any]:
    entry = {
        "type": "object",
        "required": ["status", "headers"],
        "properties": {
            "id": _ID,
            "index": {"type": "integer", "minimum": 0, "description": "Only in the streamed forms."},
            "status": {"type": "integer", "minimum": 200, "maximum": 599},
            "headers": {"type": "object", "additionalProperties": _STRINGS},
            "body": {"description": "The document, text, or base64; absent where there is no content."},
            "body_encoding": {"type": "string", "enum": ["text", "base64"]},
            "error": {"type": "string", "enum": list(Failure), "description": "The batch layer's own answer."},
        },
    }
    count = {"type": "integer", "minimum": 0}
    return {
        "type": "object",
        "required": ["responses", "summary"],
        "properties": {
            "responses": {"type": "array", "items": entry},
            "summary": {
                "type": "object",
                "required": ["total", "succeeded", "failed"],
                "properties": {"total": count, "succeeded": count, "failed": count},
            },
        },
    }
