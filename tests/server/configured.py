"""Configurations out of text, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from batchproxy.server.config import ConfigErrors, Loaded, Located, load

UPSTREAM = "upstreams: {a: {url: 'http://127.0.0.1:9000'}}\n"


def loaded(
    folder: Path, text: str, *, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Loaded:
    path = folder / "batchproxy.yaml"
    path.write_text(dedent(text), "utf-8")
    return load(path, environment=environment or {}, flags=flags or {})


def errors(
    folder: Path, text: str, *, environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> list[Located]:
    """All that is wrong with a text."""
    with pytest.raises(ConfigErrors) as caught:
        loaded(folder, text, environment=environment, flags=flags)
    return caught.value.errors


def places(found: list[Located]) -> list[tuple[int, int]]:
    return [(each.line, each.column) for each in found]
