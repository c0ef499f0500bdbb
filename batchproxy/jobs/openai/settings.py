"""The settings of the Batch API of OpenAI."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from ...engine.errors import SettingError
from ...engine.paths import canonical
from ...engine.policy import Policy
from ...engine.settings import Bytes, Seconds, count, seconds
from ...engine.target import Entry
from ..resources import JobsSettings, Vault
from ..store import JobStore
from ..working import Delivery
from .kind import OpenAIKind
from .resources import OpenAIResources

_DAY = 86400.0
FOLDERS = ("files", "batches")
"""What lies below the path."""


@dataclass(frozen=True, kw_only=True)
class OpenAISettings(Policy):
    """Where the API is, and what its batches may do. Raises `SettingError`.

    `path` is what stands before `/files` and `/batches`. `allow` are the endpoints for which there may be batches.
    `max_items` and `max_batch_bytes` bound an input file, `max_item_bytes` the body of one line. With `one_model`, all
    lines of a file name the same model.

    `keep` is how long batches and files are kept, unless their owner says otherwise for a file. By `delivery`, a line
    may be sent again after a failure of the connection, the upstream or the worker, as the clients of such APIs do it.

    `read_timeout` and `read_total_timeout` are those of an upload, `write_timeout` that of a reader.
    """

    path: str = "/v1"
    methods: Collection[str] = frozenset({"POST"})
    allow: Sequence[str] | None = (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/responses",
    )
    max_items: int = count(50_000)
    max_batch_bytes: Bytes = count(200_000_000)
    read_total_timeout: Seconds = seconds(3600)
    one_model: bool = True
    keep: Seconds = seconds(30 * _DAY)
    delivery: Delivery = Delivery.AT_LEAST_ONCE

    def __post_init__(self) -> None:
        super().__post_init__()
        read = canonical(self.path) if isinstance(self.path, str) else None
        if not isinstance(read, tuple) or "?" in self.path or "%" in self.path or self.path.endswith("/"):
            raise SettingError("path", self.path, "expected a path such as `/v1`, without a `/` at its end")
        if set(self.methods) != {"POST"}:
            raise SettingError("methods", self.methods, "expected POST alone: lines are sent with it")
        if self.allow is None:
            raise SettingError("allow", self.allow, "expected the endpoints for which there may be batches")
        if not isinstance(self.one_model, bool):
            raise SettingError("one_model", self.one_model, "expected True or False")
        try:
            object.__setattr__(self, "delivery", Delivery(self.delivery))
        except ValueError:
            raise SettingError("delivery", self.delivery, f"expected one of {', '.join(Delivery)}") from None

    @property
    def prefixes(self) -> list[str]:
        """The paths that are this API's, with all that lies below them."""
        return [f"{self.path}/{folder}" for folder in FOLDERS]

    def takes(self, path: str) -> bool:
        """Whether a path, without the mount, is this API's."""
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self.prefixes)

    def kind(self, vault: Vault, *, entry: Callable[[str], Entry], endpoints: Collection[str]) -> OpenAIKind:
        """For a worker. `entry` says for a `root_path` where lines enter; `endpoints` none of them may reach."""
        return OpenAIKind(self, vault, entry=entry, endpoints=endpoints)

    def resources(
        self, store: JobStore, jobs: JobsSettings, vault: Vault, *, endpoints: Collection[str]
    ) -> OpenAIResources:
        """The ASGI app for the paths that this `takes`."""
        return OpenAIResources(store, jobs, self, vault, endpoints=endpoints)

    def policy(self, mount: str) -> Policy:
        """What lines may do where the app is mounted at `mount`: not reach this API, for one."""
        own = [rule for prefix in self.prefixes for rule in (prefix, f"{prefix}/**")]
        allow = [_mounted(rule, mount) for rule in self.allow or ()]
        return replace(self, allow=allow, deny=[*self.deny, *own])


def _mounted(rule: str, mount: str) -> str:
    """A rule is a path, perhaps with a method before it."""
    method, space, path = rule.rpartition(" ")
    return f"{method}{space}{mount}{path}"
