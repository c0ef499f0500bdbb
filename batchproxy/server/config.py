"""File, environment and flags → one checked `Config`, or all that is wrong with it.

Defaults lie below the file, the file below the environment, and that below the flags.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from .configuration.checking import Checking
from .configuration.crossing import child, cross_check
from .configuration.expansion import Expansion
from .configuration.files import check_files
from .configuration.layers import Layers
from .configuration.located import DEFAULT, ConfigErrors, Located, Origin, Report, rendered
from .configuration.node import Node
from .configuration.printing import Held, digest, shown_tree
from .configuration.reading import MOST_BYTES, read
from .configuration.schema import schema
from .settings import Config, Server

__all__ = ["ConfigErrors", "Loaded", "Located", "Origin", "load", "rendered", "schema", "shown"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A configuration that works.

    `origins` say where each value came from, by JSON Pointer. `files` are all that were read or named; when one of them
    changes, the configuration may. `digest` changes with what is in effect, secrets and the files of TLS included.
    """

    config: Config
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]
    digest: str
    warnings: list[str] = field(default_factory=list)
    tree: Node = field(default_factory=lambda: Node(None, DEFAULT))
    """What was read, with places; `shown` prints from it."""

    def __repr__(self) -> str:
        return f"Loaded(digest={self.digest!r}, files={[str(path) for path in self.files]})"


def load(
    path: Path | None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Any] | None = None,
    set_by: Collection[str] = (),
) -> Loaded:
    """Reads and checks everything. Raises `ConfigErrors` with all that is wrong.

    `flags` are by dotted keys, such as `server.listen`; `set_by` names the variables that set some of them. Without a
    path there is no file.
    """
    report = Report("configuration" if path is None else str(path))
    folder = Path.cwd() if path is None else path.absolute().parent
    # Of a missing file, or wrong syntax, nothing further can be said.
    root = Node(None, DEFAULT) if path is None else _read(path, report)
    if root is None:
        raise ConfigErrors(report.located_errors())
    expansion = Expansion(environment, folder, report)
    expansion.expand(root)
    layers = Layers(Config, root, report)
    layers.environment(environment)
    layers.flags(flags or {}, set_by)
    checking = Checking(report, folder)
    config = checking.build(Config, root, place=Origin("file", report.file, 1, 1) if path else DEFAULT)
    check_files(checking.files, report)
    _cross_check(root, checking, report)
    if report.errors:
        raise ConfigErrors(report.located_errors())
    own = () if path is None else (path.absolute(),)
    named = [file for _, file, _ in checking.files]
    return Loaded(
        config=config,
        origins=checking.origins,
        files=tuple(dict.fromkeys([*own, *expansion.files, *named])),
        digest=digest(config, named),
        warnings=[str(each) for each in report.located_warnings()],
        tree=root,
    )


def shown(loaded: Loaded, *, held: Collection[str] = (), start: Loaded | None = None) -> str:
    """The merged configuration as YAML: each value with where it came from behind it, secrets masked.

    Keys that are `held`, such as `server.listen`, are as they were at the start.
    """
    before = loaded if start is None else start
    values = {
        f"/{key.replace('.', '/')}": Held(
            attrgetter(key)(before.config), child(before.tree, *key.split(".")), before.origins
        )
        for key in held
    }
    return shown_tree(loaded.config, loaded.tree, loaded.origins, values)


def _cross_check(root: Node, checking: Checking, report: Report) -> None:
    """A mistake in one section hides none in the others, nor between them."""
    config, wrong = checking.partial.get(Config, (None, frozenset()))
    if config is not None:
        if "server" in wrong and Server in checking.partial:
            config = replace(config, server=checking.partial[Server][0])
        config = replace(config, **{name: checking.right[name] for name in wrong & checking.right.keys()})
    cross_check(root, config, report, wrong=wrong, partly=checking.right.keys())


def _read(path: Path, report: Report) -> Node | None:
    whole = Origin("file", report.file)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as fault:
        report.error(whole, f"the file cannot be read: {getattr(fault, 'strerror', None) or fault}")
        return None
    if len(content) > MOST_BYTES:
        report.error(whole, f"the file has more than {MOST_BYTES} bytes")
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        column = fault.start - (content.rfind(b"\n", 0, fault.start) + 1) + 1
        report.error(Origin("file", report.file, line, column), "this is not text in UTF-8")
        return None
    before = len(report.errors)
    root = read(text, report)
    if root is None and len(report.errors) == before:
        return Node(None, Origin("file", report.file, 1, 1))
    return root
