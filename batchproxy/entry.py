"""Where an item enters: at the outermost app that is known, so that it passes all that a lone request passes.

Starlette and FastAPI put themselves into `scope["app"]`. A middleware of such an app is passed again by the item, and
lets it through by its mark; whatever was added outside of ours is passed too.
"""

from __future__ import annotations

from typing import Any

from .engine.model import ASGIApp, Scope
from .engine.target import Entry

_MOST_LAYERS = 1000


def entry(scope: Scope, middleware: object, wrapped: ASGIApp, lifespan_state: dict[str, Any] | None) -> Entry:
    """Where items of a batch that came to this middleware enter."""
    root_path = scope.get("root_path", "")
    # What the layers in front of us have put into the state is theirs to put there again, for each item. A mounted app
    # sees no lifespan; then there is no other state to be had than the one with their marks.
    state = scope.get("state") if lifespan_state is None else lifespan_state
    app = scope.get("app")
    if app is not None and (not hasattr(app, "middleware_stack") or is_layer(middleware, app)):
        return Entry(app, root_path, state)
    if app is not None and _mounts(app, middleware):
        return Entry(app, scope.get("app_root_path", ""), state)
    return Entry(wrapped, root_path, scope.get("state"))


def mount_of(scope: Scope) -> str:
    """The prefix of the path under which we are mounted, if the server or framework leaves it in the path."""
    root_path: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    return root_path if root_path and path.startswith(root_path + "/") else ""


def is_layer(middleware: object, app: object) -> bool:
    """Whether the middleware is one of this Starlette app's own.

    Layers that keep the next one under another name than `app` hide what lies below; then its class must do.
    """
    if _holds(getattr(app, "middleware_stack", None), middleware):
        return True
    return any(getattr(each, "cls", None) is type(middleware) for each in getattr(app, "user_middleware", ()))


def _holds(layer: object, middleware: object) -> bool:
    """Whether the middleware is one of an app's layers, each of which has the next as `app`."""
    for _ in range(_MOST_LAYERS):
        if layer is middleware:
            return True
        layer = getattr(layer, "app", None)
    return False


def _mounts(app: object, middleware: object) -> bool:
    return any(_holds(getattr(route, "app", None), middleware) for route in getattr(app, "routes", ()))
