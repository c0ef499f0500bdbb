"""Who submits jobs and reads what became of them: over HTTP, and again, until there is an answer.

Knows: the resources of jobs. Must not know: what is done to the processes meanwhile.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.chaos.site import Site

_PIECE = 50
"""How many lines are sent at once."""
_PAUSE = 0.1
_PAGE = 1000
_LATER = frozenset({409, 425, 502, 503, 504, 507})


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """`key` stands for it, however often it is submitted."""

    key: str
    lines: Sequence[bytes]


async def _unnoticed(what: object) -> None:
    pass


class Client:
    """`async with` it."""

    def __init__(self, site: Site) -> None:
        self.cut_off = 0
        """How many submissions have ended without an answer."""
        self._site = site
        self._client = httpx.AsyncClient(timeout=30, trust_env=False)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def submitted(
        self,
        new: NewJob,
        moment: Callable[[float], Awaitable[None]] = _unnoticed,
        refused: Callable[[str], Awaitable[None]] = _unnoticed,
    ) -> str:
        """The path of the job, once it is accepted. `moment` is told which part of the lines was sent, and `refused`
        the codes of answers that want it to come again."""
        headers = {"content-type": "application/x-ndjson", "prefer": "respond-async", "idempotency-key": new.key}
        while True:
            try:
                body = _sent(new.lines, moment)
                answer = await self._client.post(f"{self._site.address}/batch", headers=headers, content=body)
            except httpx.TransportError:
                self.cut_off += 1
                await asyncio.sleep(_PAUSE)
                continue
            if answer.status_code == 202:
                return str(answer.headers["location"])
            if answer.status_code not in _LATER:
                raise RuntimeError(f"The job was refused: {answer.status_code} {answer.text}")
            await refused(answer.json()["code"])
            await asyncio.sleep(_PAUSE)

    async def ended(self, path: str) -> dict[str, Any]:
        """The job, when it has ended."""
        while True:
            job = await self._read(path)
            if job["finished_at"] is not None:
                return job
            await asyncio.sleep(_PAUSE)

    async def listed(self) -> int:
        """How many jobs there are."""
        return len((await self._read("/batch/jobs?limit=100"))["jobs"])

    async def results(self, path: str) -> list[tuple[int, str]]:
        """The number and the outcome of each item, in the order in which they ended."""
        found: list[tuple[int, str]] = []
        query = f"order=completion&limit={_PAGE}"
        while True:
            page = await self._read(f"{path}/results?{query}")
            found += [(each["index"], each["outcome"]) for each in page["results"]]
            if page["complete"]:
                return found
            query = f"order=completion&limit={_PAGE}&after={page['cursor']}"

    async def _read(self, path: str) -> dict[str, Any]:
        while True:
            try:
                answer = await self._client.get(f"{self._site.address}{path}", headers={"accept": "application/json"})
            except httpx.TransportError:
                await asyncio.sleep(_PAUSE)
                continue
            if answer.status_code == 200:
                document: dict[str, Any] = answer.json()
                return document
            if answer.status_code not in _LATER:
                raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
            await asyncio.sleep(_PAUSE)


async def _sent(lines: Sequence[bytes], moment: Callable[[float], Awaitable[None]]) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), _PIECE):
        await moment(start / len(lines))
        yield b"".join(lines[start : start + _PIECE])
    await moment(1.0)


def line(path: str, seconds: float, size: int) -> bytes:
    """An item for the API behind: when it answers, and with how much."""
    return (
        json.dumps({"method": "POST", "path": f"/{path}?{seconds:.3f}&{size}", "body": {"item": path}}).encode() + b"\n"
    )
