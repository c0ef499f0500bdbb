"""Where the files of deploy/ are, and how they are read.

Knows: YAML. Must not know: what should be in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML

from tests.programs import ROOT

Document: TypeAlias = Any

DEPLOY = ROOT / "deploy"
CONFIGS = (
    DEPLOY / "container.yaml",
    DEPLOY / "compose" / "batchproxy.yaml",
    DEPLOY / "kubernetes" / "base" / "batchproxy.yaml",
    DEPLOY / "kubernetes" / "jobs" / "batchproxy.yaml",
)


def documents(text: str) -> list[Document]:
    """The YAML documents in a text; a key that is there twice is an error."""
    return [each for each in YAML(typ="safe", pure=True).load_all(text) if each is not None]


def document(path: Path) -> Document:
    (only,) = documents(path.read_text("utf-8"))
    return only


def seconds(duration: str) -> float:
    """A duration as configs and compose files write it."""
    return float(duration.removesuffix("s"))
