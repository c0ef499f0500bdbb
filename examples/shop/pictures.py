"""Small pictures, drawn without an imaging library."""

import struct
import zlib


def png(colour: tuple[int, int, int], size: int = 24) -> bytes:
    """A square of one colour that fades to white, as a PNG file."""
    rows = b"".join(b"\0" + bytes(_fade(colour, row / size)) * size for row in range(size))
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)  # eight bits each of red, green and blue
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _fade(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    return tuple(round(part + (255 - part) * share) for part in colour)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
