"""One try: the host is resolved, judged, connected to, and asked once; all that counts of the answer is its head.

Knows: names, sockets, TLS and as much HTTP/1.1 as a webhook needs. Must not know: the outbox, later tries.

It is plain asyncio: the connection goes to the address that was judged, and no part between here and the socket could
look the name up again, follow a redirect, or read an environment. What is unread of the answer is cut off.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from ...engine.errors import SettingError
from .guard import Address, Destination, judged
from .settings import WebhookSettings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host as text; raises `OSError` if there are none."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_RETRY_AFTER = re.compile(rb"\r\nretry-after:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_MOST_HEAD = 16 * 1024
_MOST_INTERIM = 8
_MOST_ADDRESSES = 4
_RESOLVERS = 8


class Reply(msgspec.Struct, frozen=True):
    status: int
    retry_after: float | None


class Undelivered(Exception):
    """There was no answer; the text is for the operator alone: it names addresses."""


class Resolver:
    """The system's, in threads of its own: a name server that is slow keeps nobody else waiting."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="batchproxy-webhook-names")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _found, host, port)
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Delivery:
    """How requests of these settings are sent. Raises `SettingError`."""

    def __init__(self, settings: WebhookSettings, resolve: Resolve) -> None:
        self._settings = settings
        self._resolve = resolve
        try:
            self._context = ssl.create_default_context(cafile=settings.ca)
        except (OSError, ssl.SSLError) as fault:
            told = f"expected a file with certificates in PEM: {fault}"
            raise SettingError("ca", settings.ca, told) from None
        self._context.set_alpn_protocols(["http/1.1"])

    async def post(self, to: Destination, headers: Sequence[tuple[str, str]], body: bytes) -> Reply:
        """Raises `Undelivered`, at the latest after `timeout`."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                reader, writer = await self._connected(to, await self._addresses(to))
                try:
                    writer.write(_request(to, headers, body))
                    return await _reply(reader)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise Undelivered(f"no answer within {self._settings.timeout:g} s") from None
        except OSError as fault:
            raise Undelivered(repr(fault)) from None

    async def _addresses(self, to: Destination) -> list[Address]:
        try:
            found = await self._resolve(to.host, to.port)
        except (OSError, UnicodeError) as fault:
            raise Undelivered(f"{to.host} cannot be resolved: {fault}") from None
        addresses = judged(found, to.host, self._settings)
        if not addresses:
            shown = ", ".join(found[:_MOST_ADDRESSES]) or "nothing"
            raise Undelivered(f"{to.host} resolves to {shown}: nothing is sent there")
        return addresses[:_MOST_ADDRESSES]

    async def _connected(
        self, to: Destination, addresses: Sequence[Address]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the first address that accepts one; the next is tried in time."""
        share = self._settings.timeout / (len(addresses) + 1)
        faults = []
        for address in addresses:
            try:
                async with asyncio.timeout(share):
                    return await self._open(to, address)
            except TimeoutError:
                faults.append(f"{address}: no connection in time")
            except OSError as fault:  # of TLS as well
                faults.append(f"{address}: {fault}")
        raise Undelivered("; ".join(faults))

    async def _open(self, to: Destination, address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """To this address, with SNI and the certificate of the name."""
        if to.is_tls:
            return await asyncio.open_connection(
                str(address), to.port, limit=_MOST_HEAD, ssl=self._context, server_hostname=to.host
            )
        return await asyncio.open_connection(str(address), to.port, limit=_MOST_HEAD)


def _found(host: str, port: int) -> list[str]:
    return [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _request(to: Destination, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    fields = [
        ("host", to.authority),
        ("user-agent", "batchproxy"),
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
        *headers,
    ]
    lines = [f"POST {to.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("ascii") + body


async def _reply(reader: asyncio.StreamReader) -> Reply:
    """The first answer that is not an interim one. Raises `Undelivered` and `OSError`."""
    for _ in range(_MOST_INTERIM):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as fault:
            raise Undelivered(f"the connection ended after {len(fault.partial)} bytes of an answer") from None
        except asyncio.LimitOverrunError:
            raise Undelivered(f"the head of the answer has more than {_MOST_HEAD} bytes") from None
        match = _STATUS.match(head)
        if match is None:
            raise Undelivered("the answer is not one of HTTP/1.1")
        status = int(match[1])
        if status >= 200:
            wish = _RETRY_AFTER.search(head)
            return Reply(status, float(wish[1]) if wish else None)
    raise Undelivered("there were only interim answers")
