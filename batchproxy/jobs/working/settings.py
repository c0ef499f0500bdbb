"""The settings of a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...engine.errors import SettingError
from ...engine.settings import Seconds, Settings, count, seconds
from ..store import Limits

_DAY = 86400.0


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkSettings(Settings):
    """How much a worker does at once, and how patient it is. Times are in seconds. Raises `SettingError`.

    `concurrency` is how many items run at once; `chunks` is how many chunks at most it has at once, and `stages` how
    many validations and ends of jobs. `poll` is how long it waits for work if no hint comes, `watch` how soon it
    notices that a job is cancelled, `sweep` how often it removes what is out of date.

    `item_timeout` is the time of one item, unless it has a shorter one of its own. A failure that may pass is tried
    again, up to `attempts` in all. That an upstream did nothing, for it is overloaded or not there, is none, and is
    tried up to `rests` times. The pause before is drawn from 0 to `first_backoff`, doubled each time up to
    `longest_backoff`, and comes on top of what `Retry-After` says, up to `longest_rest`. No attempt is made after the
    deadline of the job.

    `limits` are those of upstreams, for all workers together; the key is the name of the upstream or, if there is no
    proxy, the path of the endpoint. `grace` is how long items that run may go on when the worker is to end. `watchdog`
    is after how many leases without any progress a chunk is given back.
    """

    concurrency: int = count(8)
    chunks: int = count(16)
    stages: int = count(2)
    poll: Seconds = seconds(2)
    watch: Seconds = seconds(1)
    sweep: Seconds = seconds(60)
    item_timeout: Seconds = seconds(60)
    attempts: int = count(5)
    rests: int = count(1000)
    first_backoff: Seconds = seconds(1)
    longest_backoff: Seconds = seconds(300)
    longest_rest: Seconds = seconds(_DAY / 24)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    grace: Seconds = seconds(10, least=0)
    watchdog: int = count(3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.limits, Mapping):
            raise SettingError("limits", self.limits, "expected a mapping of upstreams to their Limits")
        for name, limits in self.limits.items():
            if not isinstance(name, str) or not isinstance(limits, Limits):
                raise SettingError("limits", self.limits, "expected a mapping of upstreams to their Limits")
