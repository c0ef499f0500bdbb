"""The settings of webhooks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network

from ...engine.errors import SettingError
from ...engine.settings import Seconds, Settings, count, seconds, strings

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True, kw_only=True, eq=False)
class WebhookSettings(Settings):
    """Who may be told, how it is signed, and how much is sent at once.

    `secrets` has names, and for each where its secrets are: `env:NAME` or `file:/path`, each with one or more
    `whsec_…`, with blanks or line ends between them. A message is signed with all secrets of its name. They are read
    anew for each message: who writes a new secret beside the old one rotates it without a restart.

    Only `https` is sent to, on the `ports` 443, unless `http` is on: then also `http`, on port 80. `allow` has CIDRs,
    and names of hosts whose addresses may be any: of others every address must be a public one. `ca` is a bundle in
    PEM; None for the system's trust.

    `timeout` is for one try as a whole. At most `concurrency` are under way at once, of them `per_host` to one host.
    `poll` is how often the outbox is looked into without a hint. At the end, what is under way may take `grace`.
    """

    secrets: Mapping[str, Collection[str]] = field(default_factory=dict)
    http: bool = False
    ports: Collection[int] = ()
    allow: Collection[str] = ()
    ca: str | None = None
    timeout: Seconds = seconds(20)
    concurrency: int = count(32)
    per_host: int = count(4)
    poll: Seconds = seconds(5)
    grace: Seconds = seconds(5, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_secrets()
        if not isinstance(self.http, bool):
            raise SettingError("http", self.http, "expected true or false")
        if isinstance(self.ports, str | bytes) or not isinstance(self.ports, Collection):
            raise SettingError("ports", self.ports, "expected a list of ports")
        for port in self.ports:
            if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
                raise SettingError("ports", port, "expected a port from 1 to 65535")
        for each in strings("allow", self.allow):
            if _network(each) is None and not _HOST.fullmatch(each):
                raise SettingError("allow", each, "expected a CIDR, or the name of a host in lower-case ASCII")

    def _check_secrets(self) -> None:
        if not isinstance(self.secrets, Mapping):
            raise SettingError("secrets", self.secrets, "expected names with lists of env:NAME or file:/path")
        for name, references in self.secrets.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise SettingError("secrets", name, "expected a name of letters, digits, _ and -")
            if not references:
                raise SettingError(f"secrets.{name}", references, "expected at least one env:NAME or file:/path")
            for each in strings(f"secrets.{name}", references):
                if not _REFERENCE.fullmatch(each):
                    # It may be the secret itself.
                    raise SettingError(f"secrets.{name}", "…", "expected env:NAME or file:/path, not the secret itself")

    def port_is_allowed(self, scheme: str, port: int) -> bool:
        return port in self.ports or port == (443 if scheme == "https" else 80)

    @cached_property
    def allowed_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(found for each in self.allow if (found := _network(each)) is not None)

    @cached_property
    def allowed_hosts(self) -> frozenset[str]:
        return frozenset(each for each in self.allow if _network(each) is None)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None
