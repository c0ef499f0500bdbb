"""The shape of the package, read from its source: which part may know which.

A part is a module or sub-package directly below `batchproxy`; the package's own `__init__` is the part "".
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "batchproxy"

# What each part may import of the others, from the bottom up. A new part is given its place here.
HTTP = {"answer", "browsers", "description", "entry", "lifespan", "request"}
MAY_IMPORT: dict[str, set[str]] = {
    "engine": set(),
    "dialects": {"engine"},
    **{part: {"dialects", "engine"} for part in HTTP},
    "endpoint": {*HTTP, "dialects", "engine"},
    "openapi": {"endpoint"},
    "middleware": {"openapi", "endpoint", *HTTP, "dialects", "engine"},
    "client": {"dialects", "engine"},
    "proxy": {"engine"},
    "observe": {"engine"},
    "jobs": {"endpoint", *HTTP, "dialects", "engine"},
    "server": {"middleware", "proxy", "jobs", "observe", "endpoint", "dialects", "engine"},
    "__main__": {"server"},
    "": {"middleware", "client", "endpoint", "dialects", "engine"},
}

CORE = "batchproxy.middleware"
CORE_DEPENDENCIES = {"msgspec"}
VAGUE_NAMES = {"utils", "util", "helpers", "common", "base", "misc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module; `at_run_time` is false below `if TYPE_CHECKING`."""

    module: str
    line: int
    at_run_time: bool


# The rules


def test_parts_import_only_what_is_below_them() -> None:
    """Imports point one way: middleware, endpoint, dialects, engine; nothing imports from the package's own face."""
    wrong = [
        f"{path}:{found.line} imports {found.module}"
        for module, path in modules().items()
        for found in imports(module)
        if found.module.partition(".")[0] == PACKAGE and part(found.module) != part(module)
        if part(found.module) not in MAY_IMPORT.get(part(module), ())
    ]
    assert wrong == []


def test_every_part_has_its_place() -> None:
    """A new module or sub-package is given its place among the layers."""
    assert {part(module) for module in modules()} <= MAY_IMPORT.keys()


def test_there_are_no_import_cycles() -> None:
    """No module needs itself to be imported, on whatever way round."""
    needed = {
        module: {
            needs
            for found in imports(module)
            if found.at_run_time
            for needs in executed(found.module, by=module)
            if needs in modules()
        }
        for module in modules()
    }
    try:
        TopologicalSorter(needed).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_the_core_needs_only_msgspec() -> None:
    """All that `batchproxy.middleware` brings along is the standard library and msgspec."""
    wrong = [
        f"{modules()[module]}:{found.line} imports {found.module}"
        for module in sorted(reached_from(CORE))
        for found in imports(module)
        if found.at_run_time
        if found.module.partition(".")[0] not in {PACKAGE, *CORE_DEPENDENCIES, *sys.stdlib_module_names}
    ]
    assert wrong == []


def test_files_are_named_by_what_they_hold() -> None:
    """No file is called by a word that says nothing."""
    folders = [ROOT / name for name in (PACKAGE, "benchmarks", "examples", "scripts", "tests")]
    vague = [path for folder in folders for path in folder.rglob("*.py") if path.stem.strip("_") in VAGUE_NAMES]
    assert vague == []


def test_nothing_reads_the_url_of_a_request() -> None:
    """The canonical item is the only reading of a path: no framework's own, second one is ever asked."""
    wrong = [path for path in modules().values() if "request.url" in (ROOT / path).read_text("utf-8")]
    assert wrong == []


# Reading the source


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, with its file relative to the root of the repository."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        relative = path.relative_to(ROOT)
        names = relative.with_suffix("").parts
        found[".".join(names[:-1] if names[-1] == "__init__" else names)] = relative
    return found


@cache
def imports(module: str) -> tuple[Import, ...]:
    tree = ast.parse((ROOT / modules()[module]).read_text("utf-8"))
    return tuple(_imports(tree, module, at_run_time=True))


def _imports(node: ast.AST, module: str, *, at_run_time: bool) -> Iterator[Import]:
    for name in _imported(node, module):
        yield Import(module=name, line=getattr(node, "lineno", 0), at_run_time=at_run_time)
    for field, value in ast.iter_fields(node):
        for_checkers = field == "body" and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _imports(child, module, at_run_time=at_run_time and not for_checkers)


def _imported(node: ast.AST, module: str) -> Iterator[str]:
    """The modules that a statement names: a name from a package counts as the submodule it is, else as the package."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        source = _source(node, module)
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            yield submodule if submodule in modules() else source


def _source(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    is_package = modules()[module].name == "__init__.py"
    names = module.split(".")
    package = names[: len(names) - node.level + is_package]
    return ".".join([*package, node.module] if node.module else package)


def part(module: str) -> str:
    return [*module.split("."), ""][1]


def ancestors(module: str) -> set[str]:
    """The packages that a module lies in."""
    names = module.split(".")
    return {".".join(names[:length]) for length in range(1, len(names))}


def executed(module: str, *, by: str) -> set[str]:
    """What importing a module executes: it, and the packages it lies in that the importer does not lie in itself."""
    return {module} | (ancestors(module) - ancestors(by) - {by})


def reached_from(start: str) -> set[str]:
    reached: set[str] = set()
    waiting = {start, *ancestors(start)}
    while waiting:
        module = waiting.pop()
        reached.add(module)
        for found in imports(module):
            if found.at_run_time:
                waiting |= ({found.module, *ancestors(found.module)} & modules().keys()) - reached
    return reached
