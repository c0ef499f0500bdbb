"""An upstream that misbehaves by request: what real ones do on a bad day, told by the path.

Knows: sockets. `python -m benchmarks.flaky` listens on a free port and tells it. Must not know: who asks.
"""

import asyncio
import random
import re
import struct
import sys
from asyncio import StreamReader, StreamWriter
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BODY = b'{"ok": true, "text": "' + b"x" * 400 + b'"}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


async def serve_connection(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers requests until one says that the connection shall break."""
    try:
        while (head := await _head(reader)) and await _answer(head, reader, writer):
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _head(reader: StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def _answer(head: bytes, reader: StreamReader, writer: StreamWriter) -> bool:
    """Writes an answer, or what passes for one; whether the connection goes on."""
    if length := LENGTH.search(head):
        await reader.readexactly(int(length[1]))
    kind = head.split(b" ", 2)[1].split(b"/")[1].split(b"?")[0].decode()
    if kind == "reset":
        return _reset(writer)
    if kind == "midhead":
        writer.write(HEAD[:30])
        return _reset(writer)
    if kind == "midbody":
        writer.write(HEAD + b"content-length: 1000\r\n\r\n" + BODY)
        return _reset(writer)
    if kind == "chunked":
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"%x\r\n%b\r\n" % (len(BODY), BODY))
        writer.write(b"0\r\n\r\n")
        return True
    if kind == "large":
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % (len(BODY) * 2000) + BODY * 2000)
        return True
    if kind == "hang":
        await asyncio.sleep(3600)
    if kind == "slow":
        await asyncio.sleep(random.uniform(0.01, 0.2))
    writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    return kind != "close"


def _reset(writer: StreamWriter) -> bool:
    # The connection ends with RST instead of FIN.
    socket: Any = writer.get_extra_info("socket")
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    return False


async def main() -> None:
    """Serves until it is killed."""
    server = await asyncio.start_server(serve_connection, "127.0.0.1", 0, backlog=1024)
    print(f"running on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
