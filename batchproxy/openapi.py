"""The endpoints in a FastAPI app's own OpenAPI document, and so in its `/docs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .endpoint import Endpoint, Jobs


def publish(app: Any, endpoints: Sequence[Endpoint], *, mount: Callable[[], str], jobs: Jobs | None = None) -> bool:
    """Adds the endpoints to what `app.openapi()` returns; says whether the app has such a method.

    `mount` gives the prefix that the items of a mounted app have in their paths, as soon as it is known.
    """
    made: Callable[[], dict[str, Any]] | None = getattr(app, "openapi", None)
    if not callable(made) or not hasattr(app, "openapi_schema"):
        return False

    def openapi() -> dict[str, Any]:
        document = made()
        paths = document.setdefault("paths", {})
        for endpoint in endpoints:
            for path, operations in _paths(endpoint, mount(), jobs).items():
                for method, operation in operations.items():
                    paths.setdefault(path, {}).setdefault(method, operation)
        return document

    app.openapi = openapi
    return True


def _paths(endpoint: Endpoint, mount: str, jobs: Jobs | None) -> dict[str, dict[str, Any]]:
    """What may be done with an endpoint, by path and method."""
    paths = {endpoint.path: {"post": _operation(endpoint, mount)}}
    return paths if jobs is None else _joined(paths, jobs.operations(endpoint))


def _joined(there: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    joined = dict(there)
    for member, value in more.items():
        is_both = isinstance(value, Mapping) and isinstance(joined.get(member), Mapping)
        joined[member] = _joined(joined[member], value) if is_both else value
    return joined


def _operation(endpoint: Endpoint, mount: str) -> dict[str, Any]:
    dialect = endpoint.spoken
    schema = dialect.schema(endpoint)
    example = dialect.example(endpoint, "" if endpoint.base_path else mount)
    problem = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string"},
            "detail": {"type": "string"},
            "pointer": {"type": "string"},
        },
    }
    refused = {"application/problem+json": {"schema": problem}}
    streams = {name: {"schema": {"type": "string"}} for name in dialect.media_types[1:]}
    return {
        "tags": ["batch"],
        "summary": "Send many requests in one",
        "description": "Each item gets the answer that it would get alone.",
        "operationId": f"batch{endpoint.path.replace('/', '_')}",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema["request"], "example": example}},
        },
        "responses": {
            "200": {
                "description": "One entry for each item, in request order; streamed, each as it ends.",
                "content": {"application/json": {"schema": schema["response"]}, **streams},
            },
            **{
                status: {"description": meaning, "content": refused}
                for status, meaning in (
                    ("400", "The batch is not valid."),
                    ("413", "The batch is too large."),
                    ("503", "The server is busy."),
                )
            },
        },
    }
