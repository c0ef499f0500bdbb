"""The public face of the package."""

from __future__ import annotations

from inspect import ismodule

import batchproxy


def test_all_is_the_sorted_public_names() -> None:
    """`__all__` lists every public name of the package, sorted, and nothing else."""
    public = {name for name, value in vars(batchproxy).items() if not name.startswith("_") and not ismodule(value)}
    assert batchproxy.__all__ == sorted(public - {"annotations"})  # which is from __future__
