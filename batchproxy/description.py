"""What an endpoint says about itself: limits in force, formats, methods, codes, and JSON Schemas."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .dialects import Dialect
from .engine.errors import WHOLE_BATCH, Failure
from .engine.in_flight import InFlight
from .engine.policy import Limits, Policy


def description(policy: Policy, dialect: Dialect, in_flight: InFlight, problem_type: str) -> dict[str, Any]:
    limits = {each.name: getattr(policy, each.name) for each in fields(Limits)}
    return {
        "dialect": dialect.name,
        "formats": list(dialect.media_types),
        "methods": sorted(policy.methods),
        "execution": policy.execution,
        "base_path": policy.base_path,
        "limits": {**limits, "in_flight": in_flight.limit, "queue": in_flight.queue},
        "codes": {
            "batch": {
                code: {"status": status, "title": title, "type": f"{problem_type}#{code}"}
                for code, (status, title) in WHOLE_BATCH.items()
            },
            "item": {
                each.value: {"status": each.status, "title": each.meaning, "type": f"{problem_type}#{each.value}"}
                for each in Failure
            },
        },
        "schema": dialect.schema(policy),
    }
