"""The settings of the process, and the whole of a config file."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Annotated, Literal, NamedTuple, get_args

from ..endpoint import Endpoint
from ..engine.errors import SettingError
from ..engine.routing import Route
from ..engine.settings import Bytes, KiB, Seconds, Settings, count, seconds, strings
from ..proxy.forwarding import Forwarding
from ..proxy.settings import Upstream
from .job_settings import Jobs
from .openai_settings import OpenAI

Level = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]
LoggedItems = Literal["none", "failed", "all"]

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_ALLOWED_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_UPSTREAM_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")
_MOST_PORT = 65535
_FORMS = "expected host:port, [v6]:port, unix:/path.sock or fd:3"


class OneOf(NamedTuple):
    """Marks a choice between classes of settings; the `key` of an object says which of them it is."""

    key: str


class Listener(NamedTuple):
    """Where to listen: at a host and port, at a unix socket, or at a socket that was inherited."""

    host: str = ""
    port: int = 0
    socket: str | None = None
    descriptor: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it. Of an inherited socket that is not known."""
        if self.socket is not None or self.host == "localhost":
            return True
        return self.descriptor is None and not self.host.strip("0123456789abcdefABCDEF.:") and _is_loopback(self.host)


def read_listener(setting: str, value: object) -> Listener:
    """Reads `host:port`, `[v6]:port`, `unix:/path.sock` or `fd:3`. Raises `SettingError`."""
    if not isinstance(value, str):
        raise SettingError(setting, value, _FORMS)
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or path.endswith("/") or "\0" in path:
            raise SettingError(setting, value, "expected unix:/path.sock, the path absolute")
        return Listener(socket=path)
    if re.fullmatch(r"fd:[0-9]{1,4}", value):
        return Listener(descriptor=int(value[3:]))
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > _MOST_PORT:
        raise SettingError(setting, value, f"{_FORMS}; the port is a number from 0 to {_MOST_PORT}")
    if host.startswith("[") and host.endswith("]"):
        if ":" not in host or not _is_address(host[1:-1]):
            raise SettingError(setting, value, "expected an IPv6 address between the brackets")
        return Listener(host=host[1:-1], port=int(port))
    is_number = re.fullmatch(r"[0-9.]+", host) is not None
    if _HOST_NAME.fullmatch(host) is None or (is_number and not _is_address(host)):
        raise SettingError(setting, value, f"{_FORMS}; all addresses are 0.0.0.0 or [::]")
    return Listener(host=host, port=int(port))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    return _is_address(text) and ip_address(text).is_loopback


def _check_choice(setting: str, value: object, choices: object) -> None:
    known = get_args(choices)
    if value not in known:
        raise SettingError(setting, value, f"expected one of {', '.join(known)}")


def _check_flags(settings: Settings, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(settings, name), bool):
            raise SettingError(name, getattr(settings, name), "expected true or false")


@dataclass(frozen=True, kw_only=True)
class Log(Settings):
    """What is logged, and how. `auto` is `console` on a terminal, else `json`; `items` is which items get a line."""

    level: Level = "info"
    format: LogFormat = "auto"
    access: bool = True
    items: LoggedItems = "failed"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("level", Level), ("format", LogFormat), ("items", LoggedItems)):
            _check_choice(name, getattr(self, name), choices)
        _check_flags(self, "access")


@dataclass(frozen=True, kw_only=True)
class Server(Settings):
    """The process. `listen` and `admin` are `host:port`, `[v6]:port`, `unix:/path.sock` or `fd:3`; `admin: "off"` for
    none. Limits are per worker."""

    listen: str = "127.0.0.1:8080"
    admin: str = "127.0.0.1:9090"
    admin_hosts: Collection[str] = ()
    """Values of `Host` that the admin listener takes beside loopback names and addresses."""
    admin_token: str | None = field(default=None, repr=False)
    """Asked for as `Authorization: Bearer …` by all but the health endpoints; needed where `admin` is not loopback."""
    name: str = "batchproxy"
    """Our pseudonym in `Via` and `CDN-Loop`; proxies in a chain each need one of their own."""
    workers: int = count(1)
    trusted_proxies: Collection[str] = ()
    allowed_hosts: Collection[str] = ()
    max_header_bytes: Bytes = count(64 * KiB)
    max_connections: int = count(1000)
    max_in_flight: int = count(2048)
    """More than an upstream takes and queues, so that one that hangs leaves places for the others."""
    max_queue: int = count(4096, least=0)
    keep_alive: Seconds = seconds(75)
    header_timeout: Seconds = seconds(10)
    """How long the head of a request may take."""
    drain_delay: Seconds = seconds(0, least=0)
    grace: Seconds = seconds(25)
    watch: bool = True
    """Whether a changed config file is taken up by itself."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        super().__post_init__()
        listen = read_listener("listen", self.listen)
        self._check_admin(listen)
        # Checked by what uses them.
        Forwarding(trusted_proxies=self.trusted_proxies, name=self.name)
        for setting in ("allowed_hosts", "admin_hosts"):
            for name in strings(setting, getattr(self, setting)):
                if _ALLOWED_HOST.fullmatch(name) is None:
                    expected = "expected host names in small letters, without a port, such as `api.example.com`"
                    raise SettingError(setting, name, expected)
        if self.tls_key is not None and self.tls_certificate is None:
            raise SettingError("tls_key", self.tls_key, "expected a tls_certificate along with it")
        if self.tls_certificate is not None and self.tls_key is None:
            raise SettingError("tls_certificate", self.tls_certificate, "expected a tls_key along with it")
        _check_flags(self, "watch")
        if not isinstance(self.log, Log):
            raise SettingError("log", self.log, "expected a Log")

    def _check_admin(self, listen: Listener) -> None:
        # The token is never shown, not even one that is refused.
        if self.admin_token is not None and not (
            isinstance(self.admin_token, str) and re.fullmatch(r"[\x21-\x7e]+", self.admin_token)
        ):
            raise SettingError("admin_token", "…", "expected visible ASCII characters, at least one, without blanks")
        if self.admin == "off":
            return
        admin = read_listener("admin", self.admin)
        if admin == listen and (admin.port or admin.socket or admin.descriptor is not None):
            raise SettingError("admin", self.admin, "expected another address than that of listen")
        if not admin.is_loopback and self.admin_token is None:
            expected = "expected an admin_token, for others can reach this address; or one of loopback"
            raise SettingError("admin", self.admin, expected)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """A whole config file."""

    server: Server = field(default_factory=Server)
    upstreams: Mapping[str, Upstream] = field(default_factory=dict)
    routes: Sequence[Route] = ()
    """None at all and one upstream: everything goes there."""
    endpoints: Sequence[Annotated[Endpoint | OpenAI, OneOf("dialect")]] = (Endpoint(),)
    jobs: Jobs | None = None
    """None: every batch ends with its connection."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.upstreams:
            if not isinstance(name, str) or _UPSTREAM_NAME.fullmatch(name) is None or "__" in name:
                expected = "expected a name of letters, digits, `-` and `_`, not two `_` together"
                raise SettingError("upstreams", name, expected)

    @property
    def batch_endpoints(self) -> list[Endpoint]:
        """Those that take batches."""
        return [each for each in self.endpoints if isinstance(each, Endpoint)]

    @property
    def apis(self) -> list[OpenAI]:
        """Those that are other APIs over the same jobs."""
        return [each for each in self.endpoints if isinstance(each, OpenAI)]

    @property
    def all_routes(self) -> Sequence[Route]:
        """The routes; where there are none, one that leads everything to the only upstream."""
        if self.routes or len(self.upstreams) != 1:
            return self.routes
        return (Route(upstream=next(iter(self.upstreams))),)
