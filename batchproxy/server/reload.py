"""Reloading: reads the configuration anew, puts it to work as a whole or not at all, and remembers the verdict.

Knows: when to read and what to compare. Must not know: how requests are served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from watchfiles import awatch

from .config import ConfigErrors, Loaded
from .fleet import Fleet, Refused
from .job_settings import Jobs
from .settings import Config, Server

logger = logging.getLogger("batchproxy")

_SETTLE_MS = 200
_LOOK_MS = 2000
_NEEDS_RESTART = (
    "listen",
    "admin",
    "admin_hosts",
    "admin_token",
    "workers",
    "max_connections",
    "header_timeout",
    "keep_alive",
    "max_in_flight",
    "max_queue",
    "tls_certificate",
    "tls_key",
    "watch",
    "log",
)
"""What only counts from the next start on."""


class Verdict(msgspec.Struct, frozen=True):
    """What came of a reload. `errors` and `warnings` are as `check` prints them; what waits for a restart is among the
    warnings for as long as it waits, whoever brought it."""

    accepted: bool
    changed: bool
    generation: int
    digest: str
    errors: list[str] = []
    warnings: list[str] = []
    at: float = 0.0


class Reloader:
    """One reload at a time. `load` reads everything anew; it may raise `ConfigErrors`."""

    def __init__(self, load: Callable[[], Loaded], loaded: Loaded, fleet: Fleet) -> None:
        self._load = load
        self._fleet = fleet
        self._lock = asyncio.Lock()
        self.loaded = loaded
        self.start = loaded
        """With which the process has begun."""
        self._certificate = fingerprint(_tls_files(loaded.config.server))
        self.is_closed = False
        """Set when the process stops: nothing is reloaded any more."""
        self.number = 1
        self.last = Verdict(True, True, 1, loaded.digest, warnings=list(loaded.warnings), at=time.time())

    async def begin(self) -> None:
        """Puts the first generation to work; who asks for a reload meanwhile waits. Raises `Refused`."""
        async with self._lock:
            await self._fleet.start(self.loaded, self.number)

    async def reload(self, cause: str) -> Verdict:
        """Reads anew and, if all is well, swaps. The verdict is logged, and kept as `last`."""
        async with self._lock:
            self.last = await self._attempt()
        verdict = self.last
        if not verdict.accepted:
            logger.error("config.refused: cause=%s generation=%d\n%s", cause, self.number, "\n".join(verdict.errors))
        elif verdict.changed:
            logger.info("config.reloaded: cause=%s generation=%d digest=%s", cause, self.number, verdict.digest[:12])
        else:
            logger.info("config.unchanged: cause=%s generation=%d", cause, self.number)
        for warning in verdict.warnings:
            logger.warning("config.warning: %s", warning)
        return verdict

    async def _attempt(self) -> Verdict:
        if self.is_closed:
            return self._refused(["the process is stopping"])
        try:
            loaded = await asyncio.to_thread(self._load)
            if loaded.digest == self.loaded.digest:
                return self._verdict(changed=False, warnings=self._waiting(loaded.config))
            await self._fleet.apply(loaded, self.number + 1)
        except ConfigErrors as errors:
            return self._refused([str(each) for each in errors.errors])
        except Refused as refusal:
            return self._refused([str(refusal)])
        except Exception as fault:
            # A guard or transport of the operator's own may raise anything; serving, and watching, go on.
            logger.exception("config.failed: what the configuration names could not be made")
            return self._refused([f"{type(fault).__name__}: {fault}"])
        self.number += 1
        self.loaded = loaded
        return self._verdict(changed=True, warnings=[*loaded.warnings, *self._waiting(loaded.config)])

    @property
    def pending(self) -> list[str]:
        """Keys whose values of now only count when the process is started anew."""
        return self._pending(self.loaded.config)

    def _pending(self, config: Config) -> list[str]:
        return [
            *needs_restart(self.start.config.server, config.server),
            *jobs_need_restart(self.start.config.jobs, config.jobs),
        ]

    def _waiting(self, config: Config) -> list[str]:
        """What is to be said of all that needs a restart."""
        told = list(map(_told, self._pending(config)))
        if fingerprint(_tls_files(self.start.config.server)) != self._certificate:
            told.append("server.tls_certificate or its key is another one now, and needs a restart")
        return told

    def _verdict(self, *, changed: bool, warnings: list[str]) -> Verdict:
        return Verdict(True, changed, self.number, self.loaded.digest, warnings=warnings, at=time.time())

    def _refused(self, errors: list[str]) -> Verdict:
        return Verdict(False, False, self.number, self.loaded.digest, errors=errors, at=time.time())

    async def watch(self) -> None:
        """Reloads when one of the files has changed, in whatever way. Runs until it is cancelled."""
        files = self.loaded.files
        seen = fingerprint(files)
        while files:
            async for _ in changes(files):
                now = fingerprint(files)
                if now != seen:
                    # Taken before the reading: what changes meanwhile is seen in the next turn.
                    seen = now
                    break
            await self.reload("watch")
            if self.loaded.files != files:
                files = self.loaded.files
                seen = fingerprint(files)


def _tls_files(server: Server) -> tuple[Path, ...]:
    return tuple(Path(name) for name in (server.tls_certificate, server.tls_key) if name is not None)


def _told(key: str) -> str:
    return f"{key} has changed, and needs a restart"


def needs_restart(before: Server, after: Server) -> list[str]:
    """Keys by which a new configuration asks for what cannot be changed while the process runs."""
    return [
        f"server.{name}"
        for name in _NEEDS_RESTART
        if _comparable(getattr(before, name)) != _comparable(getattr(after, name))
    ]


def jobs_need_restart(before: Jobs | None, after: Jobs | None) -> list[str]:
    """The same of the section `jobs`: the store, its worker and webhooks are those of the start."""
    if before is None or after is None:
        return [] if before is after else ["jobs"]
    names = ("store", "worker", "webhooks")
    return [f"jobs.{name}" for name in names if getattr(before, name) != getattr(after, name)]


def _comparable(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dataclass_fields__") else value


async def changes(files: tuple[Path, ...]) -> AsyncIterator[None]:
    """Something happened near the files: in their folders, and in those that links lead to, for a mounted ConfigMap
    is changed by swapping a link."""
    folders = {path.parent for path in files} | {path.resolve().parent for path in files}
    there = [folder for folder in folders if folder.is_dir()]
    # Looks by itself, too: what happens before the watch stands, or on a file system that tells nothing, is not missed.
    async for _ in awatch(
        *there,
        recursive=False,
        step=50,
        debounce=_SETTLE_MS,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        watch_filter=None,
    ):
        yield None


def fingerprint(files: tuple[Path, ...]) -> tuple[tuple[str, int, int, int] | None, ...]:
    """What tells one content of the files from another without reading them."""
    found: list[tuple[str, int, int, int] | None] = []
    for path in files:
        try:
            status = path.stat()
            found.append((str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)
