"""The layers above the file: variables `BATCHPROXY_…`, where `__` leads one level down, and flags.

Knows: how the name of a variable or flag leads to a place in the tree. Must not know: what values mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..job_settings import KEY_VARIABLE
from .located import Origin, Report, is_secret_key, suggestion
from .node import Node
from .shapes import Shape, keys

PREFIX = "BATCHPROXY_"
_UPSTREAM = "BATCHPROXY_UPSTREAM"
OTHER_VARIABLES = frozenset(
    {
        "BATCHPROXY_CONFIG",
        _UPSTREAM,
        "BATCHPROXY_ADMIN",
        "BATCHPROXY_TOKEN",
        "BATCHPROXY_URL",
        KEY_VARIABLE,
    }
)
"""Variables that are read elsewhere, and that name no key."""

# What Kubernetes sets in every container beside a Service called `batchproxy` or `batchproxy-…`.
_OF_A_SERVICE = re.compile(r"BATCHPROXY_(?:\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that speak of keys."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.upper().startswith(PREFIX)
        and name.upper() not in OTHER_VARIABLES
        and ("__" in name or _OF_A_SERVICE.fullmatch(name.upper()) is None)
    }


def variable(path: str) -> str:
    """The variable of a key: `server.listen` is `BATCHPROXY_SERVER__LISTEN`."""
    return PREFIX + path.replace(".", "__").replace("-", "_").upper()


class Layers:
    """Puts what variables and flags say into a tree."""

    def __init__(self, settings: type[Any], root: Node, report: Report) -> None:
        self._shape = Shape(kind="object", settings=settings)
        self._root = root
        self._report = report

    def environment(self, environment: Mapping[str, str]) -> None:
        for name, value in variables(environment).items():
            origin = Origin("environment", name)
            path = name[len(PREFIX) :].split("__")
            node = Node(value, origin, loose=True, secret=any(map(is_secret_key, path)))
            self._put(path, node, origin, exact=False)

    def flags(self, flags: Mapping[str, Any], set_by: Collection[str] = ()) -> None:
        """`set_by` are the variables that stand for some of the flags."""
        for name, value in flags.items():
            said = _said(name)
            origin = Origin("environment", said) if said in set_by else Origin("flag", flag(name))
            self._put(name.split("."), _node(value, origin, is_secret_key(name)), origin, exact=True)

    def _put(self, path: Sequence[str], node: Node, origin: Origin, *, exact: bool) -> None:
        """Follows the path through the tree, and makes what is missing of it."""
        steps = self._steps(path, origin, exact=exact)
        if not exact and steps and not _is_writable(steps[-1][1]):
            message = f"`{path[-1]}` holds several values, expected the name of one of them behind it"
            self._report.error(origin, message)
            return
        at = self._root
        for position, (name, shape) in enumerate(steps):
            is_last = position == len(steps) - 1
            below = _descend(at, name, shape, node if is_last else None, origin)
            if below is None:
                self._report.error(origin, f"`{name}` is not there to be set, expected the next or a lower number")
                return
            at = below

    def _steps(self, path: Sequence[str], origin: Origin, *, exact: bool) -> list[tuple[str, Shape]]:
        """The names that a path means, with their shapes; nothing if it leads nowhere."""
        shape = self._shape
        at: Node | None = self._root
        steps: list[tuple[str, Shape]] = []
        for step in path:
            found = self._step(shape, at, step, origin, exact=exact)
            if found is None:
                return []
            name, shape = found
            steps.append(found)
            at = _there(at, name)
        return steps

    def _step(
        self, shape: Shape, at: Node | None, step: str, origin: Origin, *, exact: bool
    ) -> tuple[str, Shape] | None:
        """The name below a place in the tree that a step means, and its shape."""
        if shape.kind == "object" and shape.settings is not None:
            # Another variable may say which of several classes it is: whatever one of them has may be set.
            known = {name: key for each in reversed(shape.classes) for name, key in keys(each).items()}
            name = step if exact else step.lower()
            if name in known:
                return name, known[name].shape
            near = suggestion(name, tuple(known)) or f": {', '.join(known)}"
            self._report.error(origin, f"there is no key `{step}`, expected a key of {shape.settings.__name__}{near}")
            return None
        if shape.item is not None and shape.kind == "mapping":
            there = at.value if at is not None and isinstance(at.value, dict) else {}
            alike = [name for name in there if _folded(name) == _folded(step)]
            return (step if exact or step in there else alike[0] if alike else step.lower()), shape.item
        if shape.item is not None and shape.kind == "list" and re.fullmatch(r"[0-9]{1,4}", step):
            return step, shape.item
        self._report.error(origin, f"nothing lies below `{step}`, expected the name of a key")
        return None


def _said(path: str) -> str:
    """The variable that says the same as the flag which sets a key."""
    return _UPSTREAM if _is_of_upstream(path) else variable(path)


def _is_of_upstream(path: str) -> bool:
    return path.partition(".")[0] in ("upstreams", "routes")


def flag(path: str) -> str:
    """The flag that sets a key: the last name, but where that says too little."""
    names = path.split(".")
    if _is_of_upstream(path):
        return "--upstream"
    if names[:2] == ["server", "log"]:
        return f"--log-{names[-1].replace('_', '-')}"
    if names[:2] == ["jobs", "store"]:
        return "--store"
    return f"--{names[-1].replace('_', '-')}"


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")


def _is_writable(shape: Shape) -> bool:
    if shape.kind == "list":
        return shape.item is not None and shape.item.kind != "object"
    return shape.kind not in ("object", "mapping")


def _there(at: Node | None, name: str) -> Node | None:
    """The node that is already below another, in a mapping."""
    return at.value.get(name) if at is not None and isinstance(at.value, dict) else None


def _descend(at: Node, name: str, shape: Shape, node: Node | None, origin: Origin) -> Node | None:
    """The node below `at`, which is `node` if there is one; None if a list has no such place."""
    if name.isdecimal() and (isinstance(at.value, list) or at.value is None):
        at.value = at.value or []
        index = int(name)
        if index > len(at.value):
            return None
        if index == len(at.value):
            at.value.append(Node(None, origin))
        if node is not None:
            at.value[index] = node
        return at.value[index]  # type: ignore[no-any-return]
    if not isinstance(at.value, dict):
        # What stands there is replaced: the layer above wins.
        at.value = {}
    if node is not None:
        at.value[name] = node
    elif name not in at.value:
        at.value[name] = Node(None, origin)
    return at.value[name]  # type: ignore[no-any-return]


def _node(value: Any, origin: Origin, secret: bool) -> Node:
    if isinstance(value, Mapping):
        members = {str(name): _node(each, origin, secret or is_secret_key(str(name))) for name, each in value.items()}
        return Node(members, origin, secret=secret)
    if isinstance(value, list | tuple):
        return Node([_node(each, origin, secret) for each in value], origin, secret=secret)
    if value is None or isinstance(value, str | int | float):
        return Node(value, origin, loose=True, secret=secret)
    return Node(str(value), origin, loose=True, secret=secret)
