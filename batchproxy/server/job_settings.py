"""The section `jobs` of a config file.

Knows: its keys, and which settings of `batchproxy.jobs` they are. Those are imported when such a section is read, and
not before: a process without jobs needs nothing that they need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..engine.errors import SettingError
from ..engine.settings import Bytes, MiB, Seconds, Settings, count, optional_count, seconds, strings

if TYPE_CHECKING:
    from ..jobs.resources import JobsSettings
    from ..jobs.store import StoreSettings
    from ..jobs.webhooks import WebhookSettings
    from ..jobs.working import WorkSettings

KEY_VARIABLE = "BATCHPROXY_JOBS_KEY"
"""Where the key for credentials is, if it is in no file."""
SECRET = "default"
"""The name of the only secret of webhooks."""

_DAY = 86400.0
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Store(Settings):
    """Where jobs are kept, and for how long."""

    url: str | None = None
    """None for a file of SQLite in the folder of state; see `default_file`."""
    hosts: int = count(1)
    blobs: str | None = None
    blobs_endpoint: str | None = None
    blobs_region: str | None = None
    pooler: bool = False
    connections: int = count(8)
    wait: Seconds = seconds(5)
    lease: Seconds = seconds(30)
    keep: Seconds = seconds(_DAY)
    open_jobs: int | None = optional_count()
    stored_bytes: Bytes | None = optional_count(least=MiB)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made()

    def made(self) -> StoreSettings:
        """Raises `SettingError`."""

        def make() -> StoreSettings:
            from ..jobs.store import StoreSettings

            return StoreSettings(**{**_own(self), "url": self.url or f"sqlite:///{default_file()}"})

        return _made(make, "url")


@dataclass(frozen=True, kw_only=True)
class Shared(Settings):
    """What all workers together may ask of one upstream."""

    rate: int | None = optional_count()
    per: Seconds = seconds(1)
    burst: int | None = optional_count()
    max_in_flight: int | None = optional_count()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is None and self.burst is not None:
            raise SettingError("burst", self.burst, "expected a `rate` along with it")


@dataclass(frozen=True, kw_only=True)
class Work(Settings):
    """How a process works on jobs. How long it takes to end, the process says: `server.grace`."""

    embedded: bool = True
    concurrency: int = count(4)
    chunks: int = count(4)
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
    limits: Mapping[str, Shared] = field(default_factory=dict)
    """By the names of upstreams."""
    watchdog: int = count(3)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_flag("embedded", self.embedded)

    def made(self) -> WorkSettings:
        from ..jobs.store import Limits
        from ..jobs.working import WorkSettings

        own = {name: value for name, value in _own(self).items() if name not in ("embedded", "limits")}
        return WorkSettings(**own, limits={name: Limits(**_own(each)) for name, each in self.limits.items()})


@dataclass(frozen=True, kw_only=True)
class Webhooks(Settings):
    """Who is told of the end of jobs: `url` of every one, and callers who ask for it, where there are `callbacks`."""

    url: str | None = None
    signing: Collection[str] = ()
    """References to secrets, never secrets."""
    callbacks: Mapping[str, Collection[str]] = field(default_factory=dict)
    """The same for callers, by the names that they use."""
    http: bool = False
    ports: Collection[int] = ()
    allow: Collection[str] = ()
    ca: str | None = None
    timeout: Seconds = seconds(20)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is None and not self.callbacks:
            raise SettingError("url", self.url, "expected a URL that is told of every job, or `callbacks` for callers")
        if self.url is None and self.signing:
            raise SettingError("signing", self.signing, "expected a `url` that is told; callers have `callbacks`")
        if self.url is not None and not self.signing:
            raise SettingError("signing", self.signing, "expected at least one env:NAME or file:/path")
        if isinstance(self.callbacks, Mapping) and SECRET in self.callbacks:
            raise SettingError("callbacks", SECRET, "expected another name: this one is that of `signing`")
        settings = self.made()
        if self.url is None:
            return
        from ..jobs.webhooks import WebhookRefused, checked

        try:
            checked(self.url, SECRET, settings)
        except WebhookRefused as refused:
            # The path of such a URL may be as good as a password.
            raise SettingError("url", "…", f"expected a URL that may be told: {refused}") from None

    def made(self) -> WebhookSettings:
        """What a sender needs. Raises `SettingError`."""
        return self._made({SECRET: self.signing, **self.callbacks} if self.signing else self.callbacks)

    def of_callers(self) -> WebhookSettings | None:
        """What is judged by what callers ask for; None if they may not ask. Raises `SettingError`."""
        return self._made(self.callbacks) if self.callbacks else None

    def _made(self, secrets: Mapping[str, Collection[str]]) -> WebhookSettings:
        def make() -> WebhookSettings:
            from ..jobs.webhooks import WebhookSettings

            ours = ("url", "signing", "callbacks")
            own = {name: value for name, value in _own(self).items() if name not in ours}
            return WebhookSettings(secrets=secrets, **own)

        names = {f"secrets.{name}": "signing" if name == SECRET else "callbacks" for name in secrets}
        return _made(make, "url", {"secrets": "callbacks", **names})


@dataclass(frozen=True, kw_only=True)
class Jobs(Settings):
    """Batches that outlive their connection."""

    store: Store = field(default_factory=Store)
    endpoints: Collection[str] | None = None
    principal: str = "credential"
    anonymous: bool = False
    key_file: str | None = None
    plain_headers: Collection[str] = ()
    delivery: Literal["at_most_once", "at_least_once"] = "at_most_once"
    endpoint_delivery: Mapping[str, Literal["at_most_once", "at_least_once"]] = field(default_factory=dict)
    max_items: int = count(50_000)
    max_bytes: Bytes = count(200_000_000)
    upload_timeout: Seconds = seconds(3600)
    wait: Seconds = seconds(60, least=1)
    stream_timeout: Seconds = seconds(300, least=1)
    deadline: Seconds = seconds(_DAY)
    poll: Seconds = seconds(1)
    worker: Work = field(default_factory=Work)
    webhooks: Webhooks | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.store, Store):
            raise SettingError("store", self.store, "expected a Store")
        for path in strings("endpoints", () if self.endpoints is None else self.endpoints):
            if not path.startswith("/"):
                raise SettingError("endpoints", path, "expected paths of endpoints, such as `/batch`")
        _check_flag("anonymous", self.anonymous)
        self.made()

    def made(self) -> JobsSettings:
        """What the resources of endpoints need. Raises `SettingError`."""

        def make() -> JobsSettings:
            from ..jobs.resources import JobsSettings
            from ..jobs.working import Delivery

            ours = ("endpoints", "key_file", "webhooks", "worker", "store", "delivery", "endpoint_delivery")
            own = {name: value for name, value in _own(self).items() if name not in ours}
            return JobsSettings(
                **own,
                store=self.store.made(),
                secret_key_file=self.key_file,
                worker=False,
                delivery=Delivery(self.delivery),
                endpoint_delivery={path: Delivery(said) for path, said in self.endpoint_delivery.items()},
                webhooks=None if self.webhooks is None else self.webhooks.of_callers(),
            )

        return _made(make, "principal", {"secret_key_file": "key_file"})

    def is_on(self, path: str) -> bool:
        """Whether the endpoint with this path has jobs."""
        return self.endpoints is None or path in self.endpoints


def default_file() -> Path:
    """The file of SQLite if nobody says which: in the folder that systemd gives a service, else in that of the user.

    Raises `SettingError`.
    """
    of_systemd = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if of_systemd:
        return Path(of_systemd) / "jobs.db"
    of_user = os.environ.get("XDG_STATE_HOME", "")
    try:
        folder = Path(of_user) if Path(of_user).is_absolute() else Path("~/.local/state").expanduser()
    except RuntimeError:
        raise SettingError("url", None, "expected one, for this user has no home") from None
    return folder / "batchproxy" / "jobs.db"


def _own(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in type(settings).__dataclass_fields__}


def _made(make: Callable[[], _Made], blamed: str, names: dict[str, str] | None = None) -> _Made:
    """What `make` makes; its errors name our keys. `blamed` is the key that cannot work without a missing package."""
    try:
        return make()
    except SettingError as fault:
        setting = fault.setting.removeprefix("jobs.")
        raise SettingError((names or {}).get(setting, setting), fault.value, fault.expected) from None
    except ModuleNotFoundError as fault:
        expected = f"expected batchproxy[jobs] to be installed, for there is no `{fault.name}`"
        raise SettingError(blamed, "…", expected) from None


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SettingError(name, value, "expected true or false")
