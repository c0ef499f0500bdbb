"""The settings of jobs over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...endpoint import Endpoint
from ...engine.errors import SettingError
from ...engine.events import Observer
from ...engine.headers import is_token
from ...engine.settings import Bytes, Seconds, Settings, count, seconds, strings
from ...engine.target import Entry
from ..store import StoreSettings
from ..webhooks import WebhookSettings
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

    With `worker`, this process works on jobs too, as `work` says. `delivery` is for items that are not idempotent;
    `endpoint_delivery` has another one for endpoints, by their paths, and a batch may say another. With `webhooks`,
    callers may ask to be told of the end of a job; those who work tell them.

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
    endpoint_delivery: Mapping[str, Delivery] = field(default_factory=dict)
    webhooks: WebhookSettings | None = None
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
        self._check_delivery()
        webhooks = self.webhooks
        if webhooks is not None and not (isinstance(webhooks, WebhookSettings) and webhooks.secrets):
            raise SettingError("jobs.webhooks", webhooks, "expected WebhookSettings(secrets={…}) that names a secret")
        for api in self.apis:
            if not callable(getattr(api, "takes", None)):
                raise SettingError("jobs.apis", self.apis, "expected settings such as OpenAISettings(…)")
        Owners(self.principal, anonymous=self.anonymous)

    def _check_delivery(self) -> None:
        object.__setattr__(self, "delivery", _delivery("jobs.delivery", self.delivery))
        if not isinstance(self.endpoint_delivery, Mapping):
            raise SettingError(
                "jobs.endpoint_delivery", self.endpoint_delivery, "expected paths of endpoints with values"
            )
        read = {path: _delivery("jobs.endpoint_delivery", said) for path, said in self.endpoint_delivery.items()}
        object.__setattr__(self, "endpoint_delivery", read)

    def delivery_at(self, path: str) -> Delivery:
        """That of jobs of the endpoint with this path that do not say another."""
        return self.endpoint_delivery.get(path, self.delivery)

    def service(
        self, endpoints: Sequence[Endpoint], entry: Callable[[str], Entry], observers: Sequence[Observer] = ()
    ) -> JobService:
        """The jobs of these endpoints; `entry` says for a `root_path` where their items enter."""
        return JobService(self, endpoints, entry, observers)


def _delivery(setting: str, value: str) -> Delivery:
    try:
        return Delivery(value)
    except ValueError:
        raise SettingError(setting, value, f"expected one of {', '.join(Delivery)}") from None
