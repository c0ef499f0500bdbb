"""The secret that tests sign with."""

from __future__ import annotations

import pytest

from .sending import SECRET, VARIABLE


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
