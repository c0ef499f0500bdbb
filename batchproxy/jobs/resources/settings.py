"""The settings of jobs over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from ...endpoint import Endpoint
from ...engine.errors import SettingError
from ...engine.events import Observer
from ...engine.headers import is_token
from ...engine.settings import Bytes, Seconds, Settings, count, seconds, strings
from ...engine.target import Entry
from ..store import StoreSettings
from ..working import Delivery, WorkSettings
from .apis import JobApi
from .principal import FindPrincipal, Owners
from .service import JobService

_DAY = 86400.0


def _gently() -> WorkSettings:
    """Few at once, for the app of this process has others to serve."""
    return WorkSettings(concurrency=4, chunks=4)


@dataclass(frozen=True, kw_only=True, eq=False)
class JobsSettings(Settings):
    """Batches that outlive their connection. Sizes are in bytes, times in seconds. Raises `SettingError`.

    `store` is where they are kept. `principal` says whose a job is: `credential` is the hash of `Authorization`,
    `X-API-Key` and `Api-Key`, whichever are there; `header:NAME` a header that somebody in front sets, and no client
    can; `cookie:NAME` the hash of a cookie; or a function of the ASGI scope, which may be asynchronous. With
    `anonymous`, all who are nobody in particular share their jobs; without, they have none.

    `secret_key_file` holds the key for what jobs keep of credentials; without, it is in the environment, as
    `BATCHPROXY_JOBS_KEY`. `plain_headers` are inherited headers that are no credentials.

    `max_items` and `max_bytes` bound a submission, `upload_timeout` its time. `wait` is the longest time for which an
    answer waits for a job, `stream_timeout` that of a stream, `deadline` that of a job. `poll` is how soon a change is
    noticed without a hint.

    With `worker`, this process works on jobs too, as `work` says. `delivery` is for items that are not idempotent.

    `apis` are other APIs over the same jobs, such as `OpenAISettings()` of `batchproxy.jobs.openai`.
    """

    store: StoreSettings
    principal: str | FindPrincipal = "credential"
    anonymous: bool = False
    secret_key_file: str | None = None
    plain_headers: Collection[str] = ()
    max_items: int = count(50_000)
    max_bytes: Bytes = count(200_000_000)
    upload_timeout: Seconds = seconds(3600)
    wait: Seconds = seconds(60, least=1)
    stream_timeout: Seconds = seconds(300, least=1)
    deadline: Seconds = seconds(_DAY)
    poll: Seconds = seconds(1)
    worker: bool = True
    work: WorkSettings = field(default_factory=_gently)
    delivery: Delivery = Delivery.AT_MOST_ONCE
    apis: Sequence[JobApi] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.store, StoreSettings):
            raise SettingError("jobs.store", self.store, "expected StoreSettings(url=…)")
        if not isinstance(self.work, WorkSettings):
            raise SettingError("jobs.work", self.work, "expected WorkSettings(…)")
        for name in ("anonymous", "worker"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(f"jobs.{name}", getattr(self, name), "expected True or False")
        for header in strings("jobs.plain_headers", self.plain_headers):
            if not is_token(header):
                raise SettingError("jobs.plain_headers", self.plain_headers, "expected names of headers")
        try:
            object.__setattr__(self, "delivery", Delivery(self.delivery))
        except ValueError:
            raise SettingError("jobs.delivery", self.delivery, f"expected one of {', '.join(Delivery)}") from None
        for api in self.apis:
            if not callable(getattr(api, "takes", None)):
                raise SettingError("jobs.apis", self.apis, "expected settings such as OpenAISettings(…)")
        Owners(self.principal, anonymous=self.anonymous)

    def service(
        self, endpoints: Sequence[Endpoint], entry: Callable[[str], Entry], observers: Sequence[Observer] = ()
    ) -> JobService:
        """The jobs of these endpoints; `entry` says for a `root_path` where their items enter."""
        return JobService(self, endpoints, entry, observers)
