"""The settings of upstreams. The words are Envoy's, for operators know them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..engine.settings import Bytes, KiB, Seconds, Settings, count, optional_count, seconds


@dataclass(frozen=True, kw_only=True)
class Timeouts(Settings):
    """`connect` includes name resolution and TLS; `first_byte` runs from the end of the request to the head of the
    answer; `idle` is the longest pause inside a message; `total` covers all attempts, the queue included."""

    connect: Seconds = seconds(2)
    first_byte: Seconds = seconds(30)
    idle: Seconds = seconds(60)
    total: Seconds | None = seconds(None)


@dataclass(frozen=True, kw_only=True)
class TLS(Settings):
    """How an upstream proves who it is, and how we do. Files are read when the upstream is made.

    `ca` is a bundle in PEM; None for the system's trust. `server_name` is what SNI names and the certificate must
    hold; None for the host of the address.
    """

    ca: str | None = None
    server_name: str | None = None
    certificate: str | None = None
    key: str | None = None
    min_version: Literal["1.2", "1.3"] = "1.2"
    insecure_skip_verify: bool = False


@dataclass(frozen=True, kw_only=True)
class Retry(Settings):
    """Further attempts, for idempotent methods only, as long as nothing of an answer arrived.

    A stale idle connection is tried once more without counting here. `budget` is the share of running requests that
    may be retries, `min_budget` how many always may.
    """

    attempts: int = count(1, least=0)
    on: Collection[str] = ("connect-failure", "reset-before-response")
    per_try_timeout: Seconds | None = seconds(None)
    backoff: Seconds = seconds(0.025, least=0)
    max_backoff: Seconds = seconds(1)
    budget: float = field(default=0.2, metadata={"type": (int, float), "least": 0, "unit": "a number"})
    min_budget: int = count(3, least=0)


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


@dataclass(frozen=True, kw_only=True)
class HealthCheck(Settings):
    """Asks each address for `path`; a status from 200 to 399 is healthy."""

    path: str = "/"
    interval: Seconds = seconds(10)
    timeout: Seconds = seconds(2)
    healthy: int = count(2)
    unhealthy: int = count(3)


@dataclass(frozen=True, kw_only=True)
class Upstream(Settings):
    """A server, or several alike, to which requests go. Raises `SettingError`.

    `url` is `http://host[:port][/prefix]`, `https://…` or `unix:/path/of.sock`; `addresses` are several of them, then
    without `url`. `host` is what the upstream gets as `Host`: `preserve` the client's, `upstream` that of the address,
    `auto` the client's over http and the address's over https, or a literal host.
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
    retry: Retry = field(default_factory=Retry)
    circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    outlier_detection: OutlierDetection = field(default_factory=OutlierDetection)
    health_check: HealthCheck | None = None
    required: bool = False
    """Whether the process is unready as long as this upstream has no healthy address."""
