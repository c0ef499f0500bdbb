"""The settings of the process, and the whole of a config file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..endpoint import Endpoint
from ..engine.routing import Route
from ..engine.settings import Bytes, KiB, Seconds, Settings, count, seconds
from ..proxy.settings import Upstream


@dataclass(frozen=True, kw_only=True)
class Log(Settings):
    """What is logged, and how. `auto` is `console` on a terminal, else `json`; `items` is which items get a line."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"
    access: bool = True
    items: Literal["none", "failed", "all"] = "failed"


@dataclass(frozen=True, kw_only=True)
class Server(Settings):
    """The process. `listen` and `admin` are `host:port`, `[v6]:port`, `unix:/path.sock` or `fd:3`; `admin: "off"` for
    none. Limits are per worker."""

    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9090"
    admin_hosts: Collection[str] = ()
    """Values of `Host` that the admin listener takes beside loopback names and addresses."""
    admin_token: str | None = None
    """Asked for as `Authorization: Bearer …` by all but the health endpoints; needed where `admin` is not loopback."""
    name: str = "batchproxy"
    """Our pseudonym in `Via` and `CDN-Loop`; proxies in a chain each need one of their own."""
    workers: int = count(1)
    trusted_proxies: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    max_header_bytes: Bytes = count(64 * KiB)
    max_connections: int = count(1000)
    max_in_flight: int = count(256)
    max_queue: int = count(1024, least=0)
    keep_alive: Seconds = seconds(75)
    drain_delay: Seconds = seconds(0, least=0)
    grace: Seconds = seconds(25)
    watch: bool = True
    """Whether a changed config file is taken up by itself."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    log: Log = field(default_factory=Log)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """A whole config file."""

    server: Server = field(default_factory=Server)
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    routes: Sequence[Route] = ()
    """None at all and one upstream: everything goes there."""
    endpoints: Sequence[Endpoint] = (Endpoint(),)
