"""A real server and a client made of sockets, for tests that must see the bytes.

Knows: uvicorn's life in a thread, and how an HTTP/1.1 response is framed. Must not know: batches.
Answers are read without an HTTP library, which would hide faults.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import uvicorn

App: TypeAlias = Callable[..., Awaitable[None]]
Headers: TypeAlias = list[tuple[str, str]]

# How long a test may hang on a server or a socket before it fails; nothing waits for this time to pass. Where several
# tests and their processes share one slow core, the start of a process alone may take a third of it.
PATIENCE = 90.0


class StartupFailed(Exception):
    """The server did not come up; the text is what the app or uvicorn said, the cause is what was raised."""


class ShutdownFailed(Exception):
    """The server came up, but ended with an error."""


class Malformed(Exception):
    """The bytes are not exactly one complete HTTP/1.1 response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Header names as they were sent; a chunked body is joined."""

    status: int
    headers: Headers
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)

    def json(self) -> Any:
        return json.loads(self.body)


# Serving


@contextmanager
def serve(app: App, **uvicorn_options: Any) -> Iterator[Server]:
    """Serve `app` with a real uvicorn on a free port of 127.0.0.1 until the block ends.

    The lifespan is on, so a failure to start is raised here as StartupFailed. Options are those of `uvicorn.Config`:
    `http="h11"` or `"httptools"`, `loop="uvloop"`, `lifespan="off"` for an app that has none, and so on.
    """
    options: dict[str, Any] = {"lifespan": "on", "loop": "asyncio", "log_config": None, "timeout_graceful_shutdown": 5}
    config = uvicorn.Config(app, **(options | uvicorn_options))
    # With its protocol named, asyncio switches off the delay of small packets.
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        host, port = listener.getsockname()
        running = _Running(config, listener)
        running.start()
        try:
            yield Server(host=host, port=port)
        finally:
            running.stop()


class _Uvicorn(uvicorn.Server):
    """Tells another thread when the start is over, and ends without pauses when that asks for it.

    Uvicorn looks ten times a second whether it has to end, and as often whether it may. Measured: a fifth of a second
    for each server, and hundreds of tests have one of their own.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_to_end = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.settled.set()

    def end(self) -> None:
        """Of another thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._asked_to_end.set)

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked_to_end.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            await asyncio.wait_for(self._idle(), self.config.timeout_graceful_shutdown)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
        await self.lifespan.shutdown()

    async def _idle(self) -> None:
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.002)
        for server in self.servers:
            await server.wait_closed()


class _Running:
    """One uvicorn in one thread, and what it said went wrong."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        self._server = _Uvicorn(config)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="uvicorn", daemon=True)
        self._raised: BaseException | None = None
        self._complaints = _Complaints(self._thread)

    def start(self) -> None:
        self._thread.start()
        if not self._server.settled.wait(PATIENCE):
            raise StartupFailed(f"the server has not started within {PATIENCE} s")
        if not self._server.started:
            self._thread.join(PATIENCE)
            raise StartupFailed(self._complaints.text() or repr(self._raised)) from self._cause()

    def stop(self) -> None:
        self._server.end()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise ShutdownFailed(f"the server has not stopped within {PATIENCE} s")
        if self._raised is not None or self._server.lifespan.should_exit:
            raise ShutdownFailed(self._complaints.text() or repr(self._raised)) from self._cause()

    def _run(self) -> None:
        with self._complaints.collected():
            try:
                self._server.run(sockets=[self._listener])
            except BaseException as error:  # SystemExit is how uvicorn reports a failed start
                self._raised = error
            finally:
                self._server.settled.set()

    def _cause(self) -> BaseException | None:
        return self._complaints.cause or self._raised


class _Complaints(logging.Handler):
    """What uvicorn logs as an error in one thread: it swallows the exceptions of the lifespan and logs them instead."""

    def __init__(self, thread: threading.Thread) -> None:
        super().__init__(logging.ERROR)
        self.cause: BaseException | None = None
        self._thread = thread
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread.ident:
            self._texts.append(record.getMessage().strip())
            if record.exc_info and self.cause is None:
                self.cause = record.exc_info[1]

    def text(self) -> str:
        return "\n".join(self._texts)

    @contextmanager
    def collected(self) -> Iterator[None]:
        logger = logging.getLogger("uvicorn.error")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


# Asking


def request(method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
    """The bytes of one request that asks for the connection to be closed.

    Only `Host` (if none is given), `Connection` and, with a body, `Content-Length` are added.
    """
    own = list(headers)
    if not any(name.lower() == "host" for name, _ in own):
        own.insert(0, ("Host", "testserver"))
    own.append(("Connection", "close"))
    if body is not None:
        own.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in own), "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body or b"")


def raw(server: Server, payload: bytes) -> bytes:
    """Send the bytes, and return everything that came back until the server closed; ask with `Connection: close`."""
    with socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection:
        with suppress(ConnectionError):  # a server may answer and close before it has read everything
            connection.sendall(payload)
        return b"".join(_received(connection))


def ask(
    server: Server, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
) -> Response:
    """Send one request over its own connection, and return the parsed answer."""
    return parse(raw(server, request(method, target, headers, body)), method=method)


def _received(connection: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionResetError):  # what came before counts; `parse` notices if it is not all
        while data := connection.recv(65536):
            yield data


# Parsing


def parse(data: bytes, *, method: str = "GET") -> Response:
    """Read exactly one response, by chunks, by length or to the end; `method` matters for HEAD, which has no body.

    Interim answers (1xx) are skipped. Anything missing or left over is Malformed.
    """
    rest = _Rest(data)
    status, headers = _head(rest)
    while status < 200:
        status, headers = _head(rest)
    bodiless = method == "HEAD" or status in (204, 304)
    body = b"" if bodiless else _body(headers, rest)
    if left := rest.everything():
        raise Malformed(f"{len(left)} bytes after the response: {left[:200]!r}")
    return Response(status=status, headers=headers, body=body)


class _Rest:
    """The bytes not read yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def line(self) -> str:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise Malformed(f"a line does not end: {self._data[self._at :][:200]!r}")
        line = self._data[self._at : end]
        self._at = end + 2
        return line.decode("latin-1")

    def exactly(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) < size:
            raise Malformed(f"the body ends after {len(piece)} of {size} bytes")
        self._at += size
        return piece

    def everything(self) -> bytes:
        return self.exactly(len(self._data) - self._at)


def _head(rest: _Rest) -> tuple[int, Headers]:
    line = rest.line()
    matched = re.fullmatch(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?", line)
    if not matched:
        raise Malformed(f"not a status line: {line!r}")
    return int(matched[1]), [_header(line) for line in iter(rest.line, "")]


def _header(line: str) -> tuple[str, str]:
    matched = re.fullmatch(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line)  # RFC 9110, section 5.1
    if not matched:
        raise Malformed(f"not a header line: {line!r}")
    return matched[1], matched[2]


def _body(headers: Headers, rest: _Rest) -> bytes:
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value.lower() for name, value in headers if name.lower() == "transfer-encoding"]
    if codings == ["chunked"] and not lengths:
        return b"".join(_chunks(rest))
    if codings or len(lengths) > 1:
        raise Malformed(f"transfer-encoding {codings} with content-length {lengths}")
    if not lengths:
        return rest.everything()
    return rest.exactly(_number(lengths[0], "[0-9]+", 10))


def _chunks(rest: _Rest) -> Iterator[bytes]:
    while size := _number(rest.line().partition(";")[0], "[0-9A-Fa-f]+", 16):
        yield rest.exactly(size)
        if rest.exactly(2) != b"\r\n":
            raise Malformed(f"a chunk of {size} bytes does not end after them")
    while rest.line():
        pass  # the trailer section, up to its empty line


def _number(text: str, digits: str, base: int) -> int:
    if not re.fullmatch(digits, text):
        raise Malformed(f"not a length: {text!r}")
    return int(text, base)
