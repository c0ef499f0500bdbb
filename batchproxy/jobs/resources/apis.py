"""Further APIs over the same jobs: each has paths, a kind of jobs, and an ASGI app for its paths.

Knows: what a service of jobs asks of an API. Must not know: any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from ...engine.model import ASGIApp
from ...engine.target import Entry
from ..store import JobStore
from ..working.kinds import JobKind
from .secrets import Vault

if TYPE_CHECKING:
    from .settings import JobsSettings


class JobApi(Protocol):
    """The settings of one, such as `batchproxy.jobs.openai.OpenAISettings`."""

    def takes(self, path: str) -> bool:
        """Whether a path, without the mount, is this API's."""

    def kind(self, vault: Vault, *, entry: Callable[[str], Entry], endpoints: Collection[str]) -> JobKind:
        """For a worker. `entry` says for a `root_path` where items enter; `endpoints` none of them may reach."""

    def resources(self, store: JobStore, jobs: JobsSettings, vault: Vault, *, endpoints: Collection[str]) -> ASGIApp:
        """The ASGI app for the paths that this `takes`."""
