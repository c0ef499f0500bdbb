"""Content codings: gzip, or none, as `Accept-Encoding` asks for it (RFC 9110, section 12.5.3).

Knows: quality values, gzip. Must not know: what is coded.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping

from ...engine.errors import NotAcceptable

_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_UNSAID = 0.0001
"""How welcome no coding is if nothing is said of it: less than any that is asked for."""
_LEVEL = 3
"""Twice as quick as the usual 6, and a twentieth larger."""
_IN_THREAD = 64 * 1024
"""From here on the loop is not kept waiting."""
_GZIP = 16 + zlib.MAX_WBITS


class Codings:
    """How welcome `gzip` and no coding (`plain`) are: 0 is not at all."""

    __slots__ = ("gzip", "plain")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        given = headers.get(b"accept-encoding")
        said = _qualities((given or b"").decode("latin-1").lower())
        others = said.get("*", 0.0)
        self.gzip = said.get("gzip", said.get("x-gzip", others))
        self.plain = said.get("identity", said.get("*", _UNSAID))

    def prefers_gzip(self) -> bool:
        """Raises `NotAcceptable` if neither is welcome."""
        if self.gzip == self.plain == 0:
            raise NotAcceptable("The answer is available with the content coding gzip, and without any.")
        return self.gzip > 0 and self.gzip >= self.plain


def _qualities(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in text.split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
        if name:
            found[name] = max(quality, found.get(name, 0.0))
    return found


class Gzip:
    """One content, part by part; whoever has got a part can read all of it."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)

    async def part(self, content: bytes) -> bytes:
        return await self._compressed(content, zlib.Z_SYNC_FLUSH)

    async def end(self, content: bytes = b"") -> bytes:
        return await self._compressed(content, zlib.Z_FINISH)

    async def _compressed(self, content: bytes, how: int) -> bytes:
        if len(content) < _IN_THREAD:
            return self._compress(content, how)
        return await asyncio.to_thread(self._compress, content, how)

    def _compress(self, content: bytes, how: int) -> bytes:
        return self._compressor.compress(content) + self._compressor.flush(how)
