"""The endpoint of a batch: a path of the API behind the app, and whether there may be batches for it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ...engine.model import Caller, Item, Refusal
from ...engine.paths import canonical, readings
from ...engine.policy import Judge
from .problems import ApiError

if TYPE_CHECKING:
    from .settings import OpenAISettings


def check(endpoint: str, caller: Caller, settings: OpenAISettings, endpoints: Collection[str]) -> None:
    """Raises `ApiError` for one that is no path, or that the policy does not permit."""
    read = canonical(caller.mount + endpoint) if endpoint.startswith("/") else None
    if not isinstance(read, tuple):
        raise ApiError("`endpoint` is a path such as '/v1/chat/completions'.", param="endpoint")
    refusal = Judge(settings.policy(caller.mount), caller, endpoints).item(Item(0, "POST", *read))
    if refusal is not None:
        known = ", ".join(f"'{path}'" for path in settings.allow or ())
        message = f"There are no batches for this endpoint. Supported are: {known}."
        raise ApiError(message, param="endpoint", code="invalid_endpoint")


def target(endpoint: str, mount: str) -> tuple[bytes, bytes]:
    """Path and query of an endpoint that was checked."""
    read = canonical(mount + endpoint)
    assert not isinstance(read, Refusal)
    return read


def limited_as(endpoint: str) -> str:
    """The name by which its lines are limited: the same for all queries, and however a client spells the path."""
    path, _ = target(endpoint, "")
    return f"/{'/'.join(readings(path)[0])}"
