"""Which transport an upstream's settings name. Each is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...engine.errors import SettingError
from ..addresses import Location
from ..settings import Upstream

if TYPE_CHECKING:
    from . import Transport


def make(settings: Upstream, location: Location) -> Transport:
    """The connections to one address. Raises `SettingError`."""
    if settings.transport == "native":
        from .native import NativeTransport

        return NativeTransport(
            location.origin,
            timeouts=settings.timeouts,
            tls=settings.tls,
            max_connections=settings.max_connections,
            idle_expiry=settings.idle_expiry,
            max_response_header_bytes=settings.max_response_header_bytes,
            max_response_bytes=settings.max_response_bytes,
        )
    from .httpx import HttpxTransport

    factory = None if settings.transport == "httpx" else _named(settings.transport)
    return HttpxTransport(location, settings, factory=factory)


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any
    try:
        found = import_module(module)
        for each in name.split("."):
            found = getattr(found, each)
    except (ImportError, AttributeError) as fault:
        raise SettingError("transport", path, f"expected native, httpx or package.module:factory: {fault}") from None
    if not callable(found):
        raise SettingError("transport", path, "expected a function that makes an httpx transport")
    return found
