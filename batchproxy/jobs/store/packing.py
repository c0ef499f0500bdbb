"""Items as they lie in a chunk's input: their bytes as they came, one after another, each behind its length."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_decoder = msgspec.msgpack.Decoder(list[bytes])
_encoder = msgspec.msgpack.Encoder()


def packed(items: Sequence[bytes]) -> bytes:
    return _encoder.encode(items)


def unpacked(data: bytes) -> list[bytes]:
    return _decoder.decode(data)
