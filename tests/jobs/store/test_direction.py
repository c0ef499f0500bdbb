"""What the store knows of the rest of the package."""

from __future__ import annotations

from tests.test_imports import imports, modules

STORE = "batchproxy.jobs.store"


def test_the_store_knows_the_engine_alone() -> None:
    """No HTTP, no middleware, and nothing that is built on the store."""
    store = {name for name in modules() if name == STORE or name.startswith(f"{STORE}.")}
    wrong = [
        f"{modules()[name]}:{found.line} imports {found.module}"
        for name in sorted(store)
        for found in imports(name)
        if found.module.startswith("batchproxy")
        if found.module not in store and not found.module.startswith("batchproxy.engine")
    ]
    assert wrong == []
