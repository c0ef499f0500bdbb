"""Upstreams by name, with a name server of the test's own: names that there are not, that hang, or that move."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Upstream, answering, response, upstream
from tests.serving import PATIENCE

from .whole import STARTED_BY, Whole

# RFC 1035, sections 3.2.2 and 4.1.1.
_ADDRESS = 1
_ANSWER = 0x8180
_NO_SUCH_NAME = 3
_HEADER = struct.Struct("!2sHHHHH")

ROOT = Path(__file__).resolve().parent.parent.parent


class NameServer:
    """Answers by `names`; what is not there does not exist, and to who asks for one of `silent` it says nothing."""

    def __init__(self, listener: socket.socket) -> None:
        self.names: dict[str, str] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.host: str = listener.getsockname()[0]
        self._listener = listener

    def serve(self) -> None:
        """Until an empty question comes."""
        while True:
            question, peer = self._listener.recvfrom(512)
            if not question:
                return
            if answer := self._answer(question):
                self._listener.sendto(answer, peer)

    def _answer(self, question: bytes) -> bytes | None:
        at, labels = _HEADER.size, []
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size])
            at += 1 + size
        name = b".".join(labels).decode("ascii")
        (kind,) = struct.unpack_from("!H", question, at + 1)
        if name in self.silent:
            self.asked.append(name)
            return None
        known = self.names.get(name)
        records = b""
        if known is not None and kind == _ADDRESS:
            self.asked.append(name)
            # The name is that of the question; nobody may keep the answer.
            records = struct.pack("!HHHIH", 0xC00C, _ADDRESS, 1, 0, 4) + socket.inet_aton(known)
        code = _ANSWER if known is not None else _ANSWER | _NO_SUCH_NAME
        head = _HEADER.pack(question[:2], code, 1, 1 if records else 0, 0, 0)
        return head + question[_HEADER.size : at + 5] + records


@pytest.fixture
def names() -> Iterator[NameServer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        # A resolver asks at port 53 and nowhere else; of loopback addresses there are many.
        try:
            listener.bind((loopback(), 53))
        except OSError as fault:
            pytest.skip(f"a name server needs port 53 of a loopback address, which only root may take here: {fault}")
        server = NameServer(listener)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.sendto(b"", listener.getsockname())
            thread.join(PATIENCE)


def loopback() -> str:
    return "127." + ".".join(str(1 + secrets.randbelow(253)) for _ in range(3))


Command: TypeAlias = list[str]


@pytest.fixture
def resolving(names: NameServer, tmp_path: Path) -> Callable[[Command], Command]:
    """Makes a command run where the system asks the test's name server, and no other, with a patience of minutes."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare(1), which gives a process an /etc of its own")
    servers, order = tmp_path / "resolv.conf", tmp_path / "nsswitch.conf"
    servers.write_text(f"nameserver {names.host}\noptions timeout:30 attempts:5\n")
    order.write_text("hosts: files dns\n")
    mounts = " && ".join(
        f"{{ test ! -e /etc/{file.name} || mount --bind {file} /etc/{file.name}; }}" for file in (servers, order)
    )
    wrapped = [unshare, "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]
    names.names["probe.test"] = "127.0.0.1"
    probe = "import socket; print(socket.gethostbyname('probe.test'))"
    tried = subprocess.run(
        [*wrapped, sys.executable, "-c", probe], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    if tried.stdout.strip() != "127.0.0.1":
        pytest.skip(f"no file of /etc can be replaced for one process here: {tried.stderr.strip()[-200:]}")
    names.asked.clear()
    return lambda command: [*wrapped, *command]


def _started(folder: Path, config: str, resolving: Callable[[Command], Command]) -> Whole:
    file = folder / "batchproxy.yaml"
    file.write_text(config, "utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")},
        "BATCHPROXY_SERVER__LISTEN": "127.0.0.1:0",
        "BATCHPROXY_SERVER__ADMIN": "127.0.0.1:0",
        "BATCHPROXY_SERVER__LOG__FORMAT": "json",
    }
    process = subprocess.Popen(
        resolving([sys.executable, "-W", "error", "-c", STARTED_BY, str(file), "0"]),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    running = Whole(process, file)
    running.says("serving")
    return running


@asynccontextmanager
async def process(folder: Path, config: str, resolving: Callable[[Command], Command]) -> AsyncIterator[Whole]:
    """Like `whole`, where names are looked up as the test wants; it must end in order."""
    running = await asyncio.to_thread(_started, folder, config, resolving)
    with running.process:
        try:
            yield running
            running.signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.ended) == 0
        finally:
            running.process.kill()


def config(*upstreams: str, **server: str) -> str:
    """Upstreams `up0` and so on, each under its own path, whatever they need beside that."""
    settings = ", ".join(f"{name}: {value}" for name, value in {"watch": "false", **server}.items())
    lines = [f"server: {{{settings}}}", "upstreams:"]
    lines += [f"  up{number}: {{retry: {{attempts: 0}}, {each}}}" for number, each in enumerate(upstreams)]
    lines += ["routes:", *(f"  - {{path: /{number}, upstream: up{number}}}" for number in range(len(upstreams)))]
    return "\n".join(lines) + "\n"


def get(path: str) -> dict[str, str]:
    return {"method": "GET", "path": path}


@on_a_loop
async def test_a_name_that_there_is_not(
    names: NameServer, resolving: Callable[[Command], Command], tmp_path: Path
) -> None:
    """The process starts all the same; requests are `unreachable`, and whom was looked for is only in the log."""
    async with upstream() as behind:
        names.names["there.test"] = "127.0.0.1"
        text = config("url: 'http://nowhere.test:8000'", f"url: 'http://there.test:{behind.port}'")
        async with process(tmp_path, text, resolving) as running:
            alone = await asyncio.to_thread(running.ask, "GET", "/0")
            assert (alone.status, alone.json()["code"]) == (502, "unreachable")
            assert b"nowhere" not in alone.body
            missing, there = await asyncio.to_thread(running.batch, get("/0"), get("/1"))
            assert (missing["status"], missing["error"], there["status"]) == (502, "unreachable", 200)
            assert "nowhere.test" in running.says("upstream.failed")["detail"]
            # It is there now, and is found without anything being told.
            names.names["nowhere.test"] = "127.0.0.1"
            running.file.write_text(text.replace(":8000", f":{behind.port}"), "utf-8")
            assert (await asyncio.to_thread(running.asks_admin, "POST", "/-/reload")).status == 200
            assert (await asyncio.to_thread(running.ask, "GET", "/0")).status == 200


@pytest.mark.parametrize("transport", ["native", "httpx"])
@on_a_loop
async def test_a_name_that_hangs_holds_up_nobody_else(
    transport: str, names: NameServer, resolving: Callable[[Command], Command], tmp_path: Path
) -> None:
    """With more requests for it than there are threads, others are looked up and answered, and the process ends."""
    names.silent |= {f"hangs{number}.test" for number in range(8)}
    names.names["there.test"] = "127.0.0.1"
    more = f"transport: {transport}"
    hanging = [f"url: 'http://hangs{number}.test:8000', {more}, timeouts: {{connect: 1s}}" for number in range(8)]
    # Each connection of its own, so that each request looks the name up.
    async with upstream(answering(response(b"ok", b"connection: close"), then_close=True)) as behind:
        text = config(f"url: 'http://there.test:{behind.port}', {more}", *hanging, max_in_flight="500")
        async with process(tmp_path, text, resolving) as running:
            paths = [f"/{1 + number % 8}" for number in range(48)]
            held = [asyncio.create_task(asyncio.to_thread(running.batch, *map(get, paths))) for _ in range(2)]
            while len(set(names.asked)) < 8:
                await asyncio.sleep(0.01)
            for _ in range(5):
                assert (await asyncio.to_thread(running.ask, "GET", "/0")).status == 200
            for results in await asyncio.gather(*held):
                # By the timeout of connections, or by the circuit breaker that has had enough of it.
                assert {each["status"] for each in results} <= {502, 503}
                assert results[0]["status"] == 502
            assert (await asyncio.to_thread(running.ask, "GET", "/0")).status == 200


@asynccontextmanager
async def two_at_one_port() -> AsyncIterator[tuple[Upstream, str]]:
    """An upstream at 127.0.0.1 that answers `old`, and the address of another at the same port that answers `new`."""
    async with upstream(answering(response(b"old"))) as old:

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(response(b"new"))
            writer.close()

        address = loopback()
        new = await asyncio.start_server(connected, address, old.port)
        try:
            yield old, address
        finally:
            new.close()


@on_a_loop
async def test_a_name_that_moves(names: NameServer, resolving: Callable[[Command], Command], tmp_path: Path) -> None:
    """Connections that are kept stay where they are; the next one that is opened goes to the new address."""
    async with two_at_one_port() as (old, address):
        names.names["moves.test"] = "127.0.0.1"
        text = config(f"url: 'http://moves.test:{old.port}', idle_expiry: 3s")
        async with process(tmp_path, text, resolving) as running:

            async def asked() -> bytes:
                return (await asyncio.to_thread(running.ask, "GET", "/0")).body

            assert await asked() == b"old"
            names.names["moves.test"] = address
            assert await asked() == b"old"
            assert names.asked == ["moves.test"]
            # Nobody asks, so that it is closed for want of use.
            await old.peers[0].ended.wait()
            assert await asked() == b"new"
            assert len(old.peers) == 1


@on_a_loop
async def test_a_name_that_moves_with_its_server(
    names: NameServer, resolving: Callable[[Command], Command], tmp_path: Path
) -> None:
    """When the old server ends its connections, as one does that is replaced, the new one is asked at once."""
    async with two_at_one_port() as (old, address):
        names.names["moves.test"] = "127.0.0.1"
        async with process(tmp_path, config(f"url: 'http://moves.test:{old.port}'"), resolving) as running:
            for each in await asyncio.to_thread(running.batch, get("/0/1"), get("/0/2")):
                assert each["status"] == 200
            names.names["moves.test"] = address
            for peer in old.peers:
                peer.close()
            for _ in range(3):
                assert (await asyncio.to_thread(running.ask, "GET", "/0")).body == b"new"
