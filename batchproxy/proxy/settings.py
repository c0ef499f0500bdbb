"""The settings of upstreams. The words are Envoy's, for operators know them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Literal

from ..engine.errors import SettingError
from ..engine.model import Refusal
from ..engine.paths import canonical
from ..engine.settings import Bytes, KiB, Seconds, Settings, count, optional_count, seconds, strings
from .addresses import Location, is_host, located

RETRY_ON: Mapping[str, Collection[str]] = {
    "connect-failure": ("connect-failure", "connect-timeout"),
    "tls-failure": ("tls-failure",),
    "reset-before-response": ("reset-before-response",),
    "first-byte-timeout": ("first-byte-timeout",),
}
"""What `retry.on` may name, and the reasons that each stands for."""

_IMPORT_STRING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_DNS_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_MOST_PORTION = 100


@dataclass(frozen=True, kw_only=True)
class Timeouts(Settings):
    """`connect` includes name resolution and TLS; `first_byte` runs from the end of the request to the head of the
    answer; `idle` is the longest pause inside a message; `total` covers all attempts, the queue included."""

    connect: Seconds = seconds(2)
    first_byte: Seconds = seconds(10)
    idle: Seconds = seconds(60)
    total: Seconds | None = seconds(None)


@dataclass(frozen=True, kw_only=True)
class TLS(Settings):
    """How an upstream proves who it is, and how we do. Files are read when the upstream is made.

    `ca` is a bundle in PEM; None for the system's trust. `server_name` is what SNI names and the certificate must
    hold; None for the host of the address. `key` may be left out if it is in the file of the `certificate`.
    """

    ca: str | None = None
    server_name: str | None = None
    certificate: str | None = None
    key: str | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    insecure_skip_verify: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_version not in ("1.2", "1.3"):
            raise SettingError("min_version", self.min_version, 'expected "1.2" or "1.3"')
        if self.key is not None and self.certificate is None:
            raise SettingError("key", "…", "expected a certificate along with the key")
        if self.server_name is not None and not _DNS_NAME.fullmatch(self.server_name):
            raise SettingError("server_name", self.server_name, "expected a host name in ASCII, without a port")
        _check_flag("insecure_skip_verify", self.insecure_skip_verify)

    @property
    def is_default(self) -> bool:
        return all(getattr(self, each.name) == each.default for each in fields(self))


@dataclass(frozen=True, kw_only=True)
class Retry(Settings):
    """Further attempts, for idempotent methods only, as long as nothing of an answer arrived.

    A stale idle connection is tried once more without counting here. `on` names the failures that are tried again:
    `connect-failure` (not in time included), `tls-failure`, `reset-before-response`, `first-byte-timeout`.
    `per_try_timeout` is the longest that an attempt may take to its answer's head; an attempt that it ends is tried
    again. `budget` is the share of running requests that may be retries, `min_budget` how many always may.
    """

    attempts: int = count(1, least=0)
    on: Collection[str] = ("connect-failure", "reset-before-response")
    per_try_timeout: Seconds | None = seconds(None)
    backoff: Seconds = seconds(0.025, least=0)
    max_backoff: Seconds = seconds(1)
    budget: float = field(default=0.2, metadata={"type": (int, float), "least": 0, "unit": "a number"})
    min_budget: int = count(3, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in strings("on", self.on):
            if name not in RETRY_ON:
                near = get_close_matches(name, RETRY_ON, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise SettingError("on", name, f"expected some of {', '.join(RETRY_ON)}{hint}")
        if self.max_backoff < self.backoff:
            raise SettingError("max_backoff", self.max_backoff, f"expected at least backoff, which is {self.backoff}")
        if self.budget > 1:
            raise SettingError("budget", self.budget, "expected a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class CircuitBreaker(Settings):
    """After so many failures in a row (no connection, no answer, a broken one) requests are refused for `open_for`;
    then one is let through, and decides."""

    consecutive_failures: int = count(10)
    open_for: Seconds = seconds(5)


@dataclass(frozen=True, kw_only=True)
class OutlierDetection(Settings):
    """Takes an address out of rotation after so many failures or 5xx answers in a row, for `base_ejection_time` times
    how often it happened; never more than `max_ejection_percent` of the addresses, and never the only one."""

    consecutive_5xx: int = count(5)
    base_ejection_time: Seconds = seconds(30)
    max_ejection_time: Seconds = seconds(300)
    max_ejection_percent: int = field(default=50, metadata={"type": int, "least": 0, "unit": "an integer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_ejection_time < self.base_ejection_time:
            expected = f"expected at least base_ejection_time, which is {self.base_ejection_time}"
            raise SettingError("max_ejection_time", self.max_ejection_time, expected)
        if self.max_ejection_percent > _MOST_PORTION:
            raise SettingError("max_ejection_percent", self.max_ejection_percent, "expected a share from 0 to 100")


@dataclass(frozen=True, kw_only=True)
class HealthCheck(Settings):
    """Asks each address for `path`, as it is, without a prefix of the address; a status from 200 to 399 is healthy.

    The first check decides alone, then only `healthy` or `unhealthy` checks in a row change what is believed.
    """

    path: str = "/"
    interval: Seconds = seconds(10)
    timeout: Seconds = seconds(2)
    healthy: int = count(2)
    unhealthy: int = count(3)

    def __post_init__(self) -> None:
        super().__post_init__()
        judged = canonical(self.path) if isinstance(self.path, str) else None
        if judged is None or isinstance(judged, Refusal):
            raise SettingError("path", self.path, "expected a path" if judged is None else judged.detail)
        if not self.path.isascii() or re.search(r"[\s\"<>^`{|}]", self.path):
            raise SettingError("path", self.path, "expected a path as it is sent, percent-encoded")


@dataclass(frozen=True, kw_only=True)
class Upstream(Settings):
    """A server, or several alike, to which requests go. Raises `SettingError`.

    `url` is `http://host[:port][/prefix]`, `https://…` or `unix:/path/of.sock`; `addresses` are several of them, then
    without `url`. `host` is what the upstream gets as `Host`: `preserve` the client's, `upstream` that of the address,
    `auto` the client's over http and the address's over https, or a literal host. `min_upload_rate` is bytes a second
    that a client has to send of a body, once it has kept us waiting for `timeouts.idle` altogether. It is a mean since
    the body began, with `timeouts.idle` of credit: a lot at the start buys time for dripping later. `transport` is
    `native`, `httpx`, or `package.module:factory`, a function without arguments that makes an httpx transport for one
    address.
    """

    url: str | None = None
    addresses: Sequence[str] = ()
    host: str = "auto"
    timeouts: Timeouts = field(default_factory=Timeouts)
    tls: TLS = field(default_factory=TLS)
    transport: str = "native"
    http2: bool = False
    max_connections: int = count(100)
    max_in_flight: int = count(64)
    max_queue: int = count(1024, least=0)
    idle_expiry: Seconds = seconds(30)
    max_response_header_bytes: Bytes = count(64 * KiB)
    max_request_bytes: Bytes | None = optional_count(least=0)
    max_response_bytes: Bytes | None = optional_count(least=1)
    min_upload_rate: Bytes | None = optional_count(least=1)
    retry: Retry = field(default_factory=Retry)
    circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    outlier_detection: OutlierDetection = field(default_factory=OutlierDetection)
    health_check: HealthCheck | None = None
    required: bool = False
    """Whether the process is unready as long as this upstream has no healthy address."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is not None and self.addresses:
            raise SettingError("addresses", list(self.addresses), "expected either url or addresses, not both")
        locations = self._locations()
        self._check_host()
        self._check_transport(locations)
        if locations[0].scheme != "https" and not self.tls.is_default:
            raise SettingError("tls", self.tls, f"expected an https url; this one is {locations[0].url}")
        _check_flag("required", self.required)

    def _locations(self) -> list[Location]:
        """Where the addresses are, in order. Raises `SettingError`."""
        if self.url is not None:
            return [located(self.url)]
        locations = [located(each, setting="addresses") for each in strings("addresses", self.addresses)]
        if not locations:
            raise SettingError("url", None, "expected a url, or several addresses")
        seen: set[str] = set()
        for each in locations:
            if each.scheme != locations[0].scheme:
                raise SettingError("addresses", list(self.addresses), "expected all of one scheme")
            if each.origin.lower() in seen:
                raise SettingError("addresses", each.url, "expected each address once")
            seen.add(each.origin.lower())
        return locations

    def _check_host(self) -> None:
        if not isinstance(self.host, str) or not is_host(self.host):
            raise SettingError("host", self.host, "expected preserve, upstream, auto, or a host as `Host` has it")

    def _check_transport(self, locations: Sequence[Location]) -> None:
        named = isinstance(self.transport, str) and _IMPORT_STRING.fullmatch(self.transport) is not None
        if self.transport not in ("native", "httpx") and not named:
            raise SettingError("transport", self.transport, "expected native, httpx or package.module:factory")
        _check_flag("http2", self.http2)
        if self.http2 and self.transport != "httpx":
            raise SettingError("http2", True, f"expected `transport: httpx`; {self.transport} speaks what it speaks")


def _check_flag(setting: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SettingError(setting, value, "expected true or false")
