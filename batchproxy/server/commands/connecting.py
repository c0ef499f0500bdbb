"""Whether what a configuration names can be reached: each address of the upstreams, the store of jobs, their bucket.

An address is connected to, with all handshakes, and left again. In the store the version of its tables is read, and
nothing made. In the bucket a little is written, read, listed and removed: each of that may be forbidden by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...engine.errors import SettingError
from ...proxy.addresses import Location, located
from ...proxy.settings import Upstream
from ...proxy.transports.tls import tls_context
from .batch_file import named

if TYPE_CHECKING:
    from ...jobs.store import StoreSettings
    from ..job_settings import Store

_AT_ONCE = 16


class Tried(NamedTuple):
    """`then` is what will become of it at the start."""

    name: str
    url: str
    fault: str | None
    then: str | None = None


async def tried(upstreams: Mapping[str, Upstream], store: Store | None = None) -> list[Tried]:
    """Each address of each upstream, the store and the bucket, and what is wrong with it, if so."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str, settings: Upstream, url: str) -> Tried:
        async with gate:
            return Tried(name, url, await _fault(settings, located(url)))

    of_jobs = [] if store is None else [_tried_store(store)]
    if store is not None and store.made().bucket is not None:
        of_jobs.append(_tried_bucket(store.made()))
    return await asyncio.gather(
        *(
            one(name, settings, url)
            for name, settings in upstreams.items()
            for url in ([settings.url] if settings.url is not None else settings.addresses)
        ),
        *of_jobs,
    )


async def _tried_store(store: Store) -> Tried:
    from ...jobs.store import StoreError, looked_at

    settings = store.made()
    # Credentials may stand on either side.
    url = named(settings.url.partition("?")[0]) if settings.is_postgresql else str(settings.file)
    try:
        if store.url is None and not settings.file.parent.exists():
            return Tried("jobs.store", url, _unmakable(settings.file.parent), "its folder will be made at the start")
        return Tried("jobs.store", url, None, await looked_at(settings))
    except (StoreError, SettingError) as error:
        return Tried("jobs.store", url, str(error))
    except Exception as error:
        # Whatever the driver makes of its URL; what it says may quote a password.
        expected = "expected postgresql://user@host:port/database"
        return Tried("jobs.store", url, f"`url` cannot be used, {expected} ({type(error).__name__})")


def _unmakable(folder: Path) -> str | None:
    """Why the start cannot make it."""
    above = next(each for each in folder.parents if each.exists())
    return None if os.access(above, os.W_OK | os.X_OK) else f"There is no folder {folder}, and none can be made there."


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
