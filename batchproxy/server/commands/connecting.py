"""Whether what a configuration names can be reached: each address of the upstreams, and the bucket of jobs.

An address is connected to, with all handshakes, and left again. In the bucket a little is written, read, listed and
removed: each of that may be forbidden by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ...engine.errors import SettingError
from ...proxy.addresses import Location, located
from ...proxy.settings import Upstream
from ...proxy.transports.tls import tls_context

if TYPE_CHECKING:
    from ...jobs.store import StoreSettings
    from ..job_settings import Store

_AT_ONCE = 16


class Tried(NamedTuple):
    name: str
    url: str
    fault: str | None


async def tried(upstreams: Mapping[str, Upstream], store: Store | None = None) -> list[Tried]:
    """Each address of each upstream, and the bucket, and what is wrong with it, if so."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str, settings: Upstream, url: str) -> Tried:
        async with gate:
            return Tried(name, url, await _fault(settings, located(url)))

    buckets = [] if store is None or store.made().bucket is None else [_tried_bucket(store.made())]
    return await asyncio.gather(
        *(
            one(name, settings, url)
            for name, settings in upstreams.items()
            for url in ([settings.url] if settings.url is not None else settings.addresses)
        ),
        *buckets,
    )


async def _tried_bucket(settings: StoreSettings) -> Tried:
    from ...jobs.store import JobsError
    from ...jobs.store.ids import new_id
    from ...jobs.store.store import objects_of

    blobs, place = objects_of(settings), f"check-{new_id()}"
    fault: str | None = None
    try:
        writer = blobs.writer(place, "content")
        await writer.write(b"x")
        await writer.commit()
        await blobs.read(place, "content", 0, 1)
        await blobs.clear(place)
    except JobsError as error:
        fault = str(error)
    return Tried("jobs.store.blobs", settings.blobs or "", fault)


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
