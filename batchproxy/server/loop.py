"""The event loop of the process: uvloop, where there is one, with lookups of names that hold up nobody else.

Knows: how a loop connects. Must not know: who connects, to what.

The system's resolver cannot be interrupted, and takes half a minute if no name server answers. Loops run it in a few
threads that all share, and wait for them at the end: one name that hangs would keep every other upstream from being
found, and the process from ending. So each name that is looked up has a thread of its own, which nobody waits for; who
asks for the same name meanwhile waits for its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING or sys.platform == "win32":
    from asyncio import SelectorEventLoop as _Base
else:
    try:
        from uvloop import Loop as _Base
    except ImportError:
        from asyncio import SelectorEventLoop as _Base

Found: TypeAlias = list[tuple[Any, ...]]
"""What `socket.getaddrinfo` returns."""


class Loop(_Base):
    """A loop whose lookups of different names do not wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[tuple[Any, ...], asyncio.Future[Found]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Found:
        """As many as ask for the same wait for one lookup; whoever gives up leaves it to the others."""
        wanted = (host, port, family, type, proto, flags)
        found = self._lookups.get(wanted)
        if found is None:
            found = self.create_future()
            threading.Thread(target=self._look_up, args=(wanted, found), name=f"lookup {host}", daemon=True).start()
            self._lookups[wanted] = found
            found.add_done_callback(lambda _: self._lookups.pop(wanted))
        return await asyncio.shield(found)

    def _look_up(self, wanted: tuple[Any, ...], found: asyncio.Future[Found]) -> None:
        try:
            tell = partial(found.set_result, socket.getaddrinfo(*wanted))
        except Exception as fault:
            tell = partial(_fail, found, fault)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.call_soon_threadsafe(tell)

    async def create_connection(
        self, protocol_factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> tuple[Any, Any]:
        """As ever, but the name is looked up here: uvloop would do it where nothing can be set."""
        if host is None or _is_address(host):
            return await super().create_connection(protocol_factory, host, port, **more)
        about = {name: more.pop(name, 0) for name in ("family", "proto", "flags")}
        addresses = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **about)
        if more.get("ssl") and more.get("server_hostname") is None:
            more["server_hostname"] = host
        fault: OSError = OSError(f"no address of {host}")
        for address in dict.fromkeys(each[4][0] for each in addresses):
            try:
                return await super().create_connection(protocol_factory, address, port, **more)
            except ssl.SSLError:
                raise  # There is somebody: others of the name are not to be tried in its place.
            except OSError as refused:
                fault = refused
        raise fault


def _fail(found: asyncio.Future[Found], fault: Exception) -> None:
    found.set_exception(fault)
    found.exception()  # nobody may be waiting any more


def _is_address(host: str | bytes) -> bool:
    try:
        ip_address(host.decode("ascii") if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True


def run(main: Coroutine[Any, Any, int]) -> int:
    """Runs a coroutine on such a loop."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)
