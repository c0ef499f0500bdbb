"""The documents that follow from the settings classes: a file with every key, and tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..settings import Config
from .printing import scalar, shown_value
from .shapes import Key, Shape, keys

_WIDEST = 116
_HEAD = """\
# yaml-language-server: $schema=batchproxy.schema.json
#
# Every key with its default, but for the one upstream and the route to it. Leave out what you do not change.
# Durations are `250ms`, `5s`, `1m`, `1h`, or a number of seconds; sizes are `512KiB`, `2MiB`, `1GB`, or a number of
# bytes. In text, `${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `${file:/run/secrets/x}` are replaced; `$$` is
# one `$`.
"""

# What stands where a default would not do: there must be an upstream, and a route to show the keys of one.
_WRITTEN: Mapping[str, Any] = {
    "/upstreams/legacy/url": "http://127.0.0.1:9000",
    "/routes/0/upstream": "legacy",
    "/jobs/webhooks/url": "https://hooks.example.com/jobs",
    "/jobs/webhooks/signing": '["env:WEBHOOK_SECRET"]',
}

_TITLES = {
    "Server": "server",
    "Log": "server.log",
    "Upstream": "upstreams.NAME",
    "Timeouts": "upstreams.NAME.timeouts",
    "TLS": "upstreams.NAME.tls",
    "Retry": "upstreams.NAME.retry",
    "CircuitBreaker": "upstreams.NAME.circuit_breaker",
    "OutlierDetection": "upstreams.NAME.outlier_detection",
    "HealthCheck": "upstreams.NAME.health_check",
    "Route": "routes[]",
    "Endpoint": "endpoints[]",
    "OpenAI": "endpoints[], with `dialect: openai`",
    "Jobs": "jobs",
    "Store": "jobs.store",
    "Work": "jobs.worker",
    "Shared": "jobs.worker.limits.NAME",
    "Webhooks": "jobs.webhooks",
}


def full() -> str:
    """A config file with every key, its default and what it means."""
    return _HEAD + "".join(f"{line}\n".replace(" \n", "\n") for line in _members(Config, "", 0))


def _members(settings: type[Any], pointer: str, depth: int) -> Iterator[str]:
    for name, key in keys(settings).items():
        indent = "  " * depth
        if depth == 0:
            yield ""
        yield from _comment(key.description, indent)
        yield from _entry(key, f"{pointer}/{name}", depth)


def _entry(key: Key, pointer: str, depth: int) -> Iterator[str]:
    indent, shape = "  " * depth, key.shape
    inner = shape.classes
    if not inner:
        yield f"{indent}{key.name}: {_WRITTEN.get(pointer) or shown_value(shape, key.default)}"
    elif shape.optional:
        # Keys below it would switch it on.
        yield f"{indent}{key.name}:"
        for line in _members(inner[0], pointer, depth + 1):
            yield f"{indent}# {line.removeprefix(indent)}"
    else:
        yield f"{indent}{key.name}:"
        yield from _below(shape, inner, pointer, depth)


def _below(shape: Shape, classes: Sequence[type[Any]], pointer: str, depth: int) -> Iterator[str]:
    indent = "  " * (depth + 1)
    if shape.kind == "object":
        yield from _members(classes[0], pointer, depth + 1)
    elif shape.kind == "mapping":
        yield f"{indent}legacy:"
        yield from _members(classes[0], f"{pointer}/legacy", depth + 2)
    else:
        yield from _listed(classes[0], f"{pointer}/0", depth)
        for other in classes[1:]:
            yield from (
                f"{indent}# {line.removeprefix(indent)}"
                for line in _listed(other, f"{pointer}/{other.__name__}", depth)
            )


def _listed(settings: type[Any], pointer: str, depth: int) -> Iterator[str]:
    indent = "  " * (depth + 1)
    lines = list(_members(settings, pointer, depth + 2))
    first = next(at for at, line in enumerate(lines) if not line.lstrip().startswith("#"))
    yield from (line.replace("  ", "", 1) for line in lines[:first])
    yield f"{indent}- {lines[first].lstrip()}"
    yield from lines[first + 1 :]


def _comment(text: str, indent: str) -> Iterator[str]:
    line = f"{indent}#"
    for word in text.split():
        if len(line) + 1 + len(word) > _WIDEST:
            yield line
            line = f"{indent}#"
        line = f"{line} {word}"
    yield line


def tables() -> str:
    """All keys in Markdown tables, one for each settings class."""
    parts = []
    for settings in _classes(Config):
        rows = "".join(f"{_row(key)}\n" for key in keys(settings).values())
        parts.append(
            f"### `{_TITLES[settings.__name__]}`\n\n| key | what | default | meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n".join(parts)


def _classes(settings: type[Any]) -> Iterator[type[Any]]:
    for key in keys(settings).values():
        for inner in key.shape.classes:
            yield inner
            yield from _classes(inner)


def _row(key: Key) -> str:
    is_object = key.shape.kind == "object" and not key.shape.optional
    default = "needed" if key.required else "see below" if is_object else f"`{shown_value(key.shape, key.default)}`"
    return f"| `{key.name}` | {_what(key.shape)} | {default} | {key.description} |"


def _what(shape: Shape) -> str:
    if shape.kind == "list" and shape.item is not None:
        return f"list of {_what(shape.item)}"
    if shape.kind == "mapping" and shape.item is not None:
        return f"mapping to {_what(shape.item)}"
    if shape.kind == "choice":
        return ", ".join(f"`{scalar(each)}`" for each in shape.choices)
    return _KINDS[shape.kind]


_KINDS = {
    "text": "text",
    "whole": "whole number",
    "number": "number",
    "seconds": "duration",
    "bytes": "size",
    "flag": "`true`, `false`",
    "function": "function",
    "object": "keys",
}
