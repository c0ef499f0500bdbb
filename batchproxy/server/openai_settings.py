"""An endpoint of the config file that is the Batch API of OpenAI.

Knows: its keys, and which settings of `batchproxy.jobs.openai` they are. Those are imported when there is such an
endpoint, and not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..engine.errors import SettingError
from ..engine.settings import Bytes, MiB, Seconds, Settings, count, seconds

if TYPE_CHECKING:
    from ..jobs.openai import OpenAISettings

_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class OpenAI(Settings):
    """Where the API is, and what its batches may do."""

    path: str = "/v1"
    dialect: Literal["openai"] = "openai"
    allow: Sequence[str] = (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/responses",
    )
    deny: Sequence[str] = ()
    max_items: int = count(50_000)
    max_batch_bytes: Bytes = count(200_000_000)
    max_item_bytes: Bytes = count(4 * MiB)
    max_response_bytes: Bytes = count(8 * MiB)
    max_depth: int = count(128)
    one_model: bool = True
    keep: Seconds = seconds(30 * _DAY)
    delivery: Literal["at_most_once", "at_least_once"] = "at_least_once"
    read_timeout: Seconds = seconds(10)
    read_total_timeout: Seconds = seconds(3600)
    write_timeout: Seconds = seconds(30)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made()

    def made(self) -> OpenAISettings:
        """Raises `SettingError`."""
        try:
            from ..jobs.openai import OpenAISettings
            from ..jobs.working import Delivery
        except ModuleNotFoundError as fault:
            expected = f"expected batchproxy[jobs] to be installed, for there is no `{fault.name}`"
            raise SettingError("dialect", self.dialect, expected) from None
        own: dict[str, Any] = {name: getattr(self, name) for name in type(self).__dataclass_fields__}
        del own["dialect"], own["delivery"]
        return OpenAISettings(**own, delivery=Delivery(self.delivery))

    def takes(self, path: str) -> bool:
        """Whether a path is this API's."""
        return self.made().takes(path)
