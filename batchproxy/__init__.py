"""A batch endpoint for any HTTP API that lacks one."""

from __future__ import annotations

from .endpoint import Endpoint
from .engine.errors import BatchError, Failure, Overloaded, RateLimited, Refused, SettingError
from .engine.events import BatchEnded, ItemEnded, Observer
from .engine.in_flight import InFlight
from .engine.model import Batch, Caller, Execution, Guard, Headers, Item, OnError, Options, Refusal, Result
from .engine.routing import Route, RouteTable
from .middleware import BatchMiddleware

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchEnded",
    "BatchError",
    "BatchMiddleware",
    "Caller",
    "Endpoint",
    "Execution",
    "Failure",
    "Guard",
    "Headers",
    "InFlight",
    "Item",
    "ItemEnded",
    "Observer",
    "OnError",
    "Options",
    "Overloaded",
    "RateLimited",
    "Refusal",
    "Refused",
    "Result",
    "Route",
    "RouteTable",
    "SettingError",
]
