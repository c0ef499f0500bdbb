"""Which address comes next, and which ones are out.

Knows: round robin, ejection after failures, what the health checks said. Decides at once, without awaiting anything;
what time it is comes in as an argument.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from .addresses import Location, has_host
from .health import Health
from .settings import OutlierDetection
from .transports import Pairs

if TYPE_CHECKING:
    from .transports import Transport


class Address:
    """One server of an upstream: where it is, the connections to it, and how it has been doing.

    `host` is the value of `Host` that it gets; None for the client's own. `unchanged` are the headers that it was given
    last, if it gets them as they are.
    """

    __slots__ = (
        "_given",
        "_kept",
        "ejected_until",
        "ejections",
        "health",
        "host",
        "in_flight",
        "location",
        "prefix",
        "ssl_context",
        "streak",
        "transport",
        "unchanged",
        "url",
    )

    def __init__(
        self,
        location: Location,
        transport: Transport,
        *,
        host: bytes | None = None,
        health: Health | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.location = location
        self.url = location.url
        self.prefix = location.prefix
        self.transport = transport
        self.host = host
        self.health = health or Health()
        self.ssl_context = ssl_context
        self.in_flight = 0
        self.streak = 0
        self.ejected_until = float("-inf")
        self.ejections = 0
        self.unchanged: Pairs | None = None
        self._given: Pairs | None = None
        self._kept: Pairs = ()

    def __repr__(self) -> str:
        return f"Address({self.url}, in_flight={self.in_flight}, streak={self.streak}, {self.health!r})"

    def headers(self, given: Pairs) -> Pairs:
        """With the `Host` that this address gets."""
        if given is self._given:
            return self._kept
        host = self.host
        if host is None and not has_host(given):
            # HTTP/1.0 allows that, and we speak 1.1 (RFC 9112, section 3.2).
            host = self.location.authority
        kept = given if host is None else ((b"host", host), *[pair for pair in given if pair[0] != b"host"])
        if type(given) is tuple:
            # Most items of a batch have the same ones; a tuple stays what it is.
            self._given, self._kept = given, kept
            self.unchanged = given if kept is given else None
        return kept

    def is_ejected(self, now: float) -> bool:
        return now < self.ejected_until

    def state(self, now: float) -> dict[str, Any]:
        """For the admin view."""
        return {
            "url": self.url,
            "healthy": self.health.is_good,
            "checked": self.health.is_checked,
            "ejected": self.is_ejected(now),
            "ejections": self.ejections,
            "in_flight": self.in_flight,
            "connections": getattr(self.transport, "open_connections", None),
            "idle_connections": getattr(self.transport, "idle_connections", None),
        }


class Balancer:
    """Round robin over the addresses that are healthy and not ejected."""

    __slots__ = ("_next", "_settings", "addresses")

    def __init__(self, addresses: Sequence[Address], settings: OutlierDetection) -> None:
        self.addresses = tuple(addresses)
        self._settings = settings
        self._next = 0

    def pick(self, now: float, tried: Collection[Address] = ()) -> Address | None:
        """The next address, if there is one another than those `tried`; None if none is healthy.

        If all healthy ones are ejected, ejection is ignored: some answers are better than none.
        """
        addresses = self.addresses
        if len(addresses) == 1:
            return addresses[0] if addresses[0].health.is_good else None
        in_turn = addresses[self._next :] + addresses[: self._next]
        healthy = [each for each in in_turn if each.health.is_good]
        usable = [each for each in healthy if not each.is_ejected(now)] or healthy
        if not usable:
            return None
        picked = next((each for each in usable if each not in tried), usable[0])
        self._next = (addresses.index(picked) + 1) % len(addresses)
        return picked

    def failed(self, address: Address, now: float) -> bool:
        """Counts a failure or a 5xx answer; whether the address has been ejected for it."""
        address.streak += 1
        settings = self._settings
        if address.streak < settings.consecutive_5xx or address.is_ejected(now) or not self._may_eject(now):
            return False
        # Whoever has behaved for a while is forgiven, step by step.
        calm = max(0.0, now - address.ejected_until) // settings.base_ejection_time
        address.ejections = int(max(0, address.ejections - calm)) + 1
        address.ejected_until = now + min(settings.base_ejection_time * address.ejections, settings.max_ejection_time)
        address.streak = 0
        return True

    def _may_eject(self, now: float) -> bool:
        count = len(self.addresses)
        ejected = sum(each.is_ejected(now) for each in self.addresses)
        return count > 1 and (ejected + 1) * 100 <= count * self._settings.max_ejection_percent

    def recovered(self, address: Address) -> None:
        """A health check found the address well again: that counts for more than what requests met before."""
        address.streak = 0
        address.ejected_until = float("-inf")
