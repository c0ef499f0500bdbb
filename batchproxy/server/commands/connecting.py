"""Whether the addresses of the upstreams can be reached: resolves, connects, shakes hands, and leaves again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from ...engine.errors import SettingError
from ...proxy.addresses import Location, located
from ...proxy.settings import Upstream
from ...proxy.transports.tls import tls_context

_AT_ONCE = 16


class Tried(NamedTuple):
    upstream: str
    url: str
    fault: str | None


async def tried(upstreams: Mapping[str, Upstream]) -> list[Tried]:
    """Each address of each upstream, and what is wrong with it, if so."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str, settings: Upstream, url: str) -> Tried:
        async with gate:
            return Tried(name, url, await _fault(settings, located(url)))

    return await asyncio.gather(
        *(
            one(name, settings, url)
            for name, settings in upstreams.items()
            for url in ([settings.url] if settings.url is not None else settings.addresses)
        )
    )


async def _fault(settings: Upstream, location: Location) -> str | None:
    try:
        async with asyncio.timeout(settings.timeouts.connect):
            writer = await _opened(settings, location)
    except TimeoutError:
        return f"no connection within {settings.timeouts.connect:g} s"
    except (OSError, SettingError) as fault:
        return str(fault)
    # Not a farewell in good form: a server that does not answer it would hold us up.
    writer.transport.abort()
    return None


async def _opened(settings: Upstream, location: Location) -> asyncio.StreamWriter:
    if location.socket is not None:
        return (await asyncio.open_unix_connection(location.socket))[1]
    if location.scheme != "https":
        return (await asyncio.open_connection(location.host, location.port))[1]
    name = settings.tls.server_name or location.host
    context = tls_context(settings.tls)
    return (await asyncio.open_connection(location.host, location.port, ssl=context, server_hostname=name))[1]
