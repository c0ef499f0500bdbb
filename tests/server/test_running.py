"""The app of the process and its generations, and what the process asks of the system around it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.server.config import Loaded
from batchproxy.server.http import bound
from batchproxy.server.reload import needs_restart
from batchproxy.server.running import Process, running
from batchproxy.server.settings import Listener, Server
from tests.faults.test_ending_under_load import held, rest
from tests.faults.whole import whole
from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, response, upstream
from tests.serving import PATIENCE, parse, request

from .configured import loaded


def pointing_at(folder: Path, url: str) -> Loaded:
    return loaded(folder, f"upstreams: {{api: {{url: '{url}'}}}}\n")


async def asked(process: Process, path: str = "/") -> tuple[int, bytes]:
    """One request to the app, without a server."""
    sent: list[dict[str, Any]] = []
    incoming = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in incoming:
            return message
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"a")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await process(scope, receive, send)
    body = b"".join(each.get("body", b"") for each in sent if each["type"] == "http.response.body")
    return sent[0]["status"], body


@on_a_loop
async def test_a_request_ends_with_the_generation_it_began_with(tmp_path: Path) -> None:
    """The last generation serves what it has begun, then closes its upstreams; new requests go to the next."""
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        began.set()
        await may_end.wait()
        await peer.write(response(b"old"))
        await peer.rest()

    async def new(peer: Peer) -> None:
        while await peer.request():
            await peer.write(response(b"new"))

    async with upstream(slow) as first, upstream(new) as second, running(pointing_at(tmp_path, first.url)) as process:
        long = asyncio.create_task(asked(process))
        await began.wait()
        process.apply(pointing_at(tmp_path, second.url), 2)
        assert await asked(process) == (200, b"new")
        state = process.state()
        assert state["generation"] == 2
        assert state["retiring"] == [{"generation": 1, "running": 1}]
        assert process.running == 1
        may_end.set()
        assert await long == (200, b"old")
        await first.peers[0].ended.wait()
        while process.state()["retiring"]:
            await asyncio.sleep(0)


@on_a_loop
async def test_what_cannot_work_changes_nothing(tmp_path: Path) -> None:
    """A configuration whose parts refuse their settings is refused as a whole."""
    async with upstream() as behind, running(pointing_at(tmp_path, behind.url)) as process:
        broken = pointing_at(tmp_path, "https://127.0.0.1:1")
        missing = broken.config.upstreams["api"].tls
        object.__setattr__(missing, "ca", str(tmp_path / "missing.pem"))
        with pytest.raises(SettingError):
            process.apply(broken, 2)
        assert process.state()["generation"] == 1
        assert await asked(process) == (200, b"ok")


def test_what_needs_a_restart_is_named() -> None:
    """Settings that only count from the next start on are told, others are not."""
    after = Server(listen="127.0.0.1:1", workers=2, admin_token="new", grace=1, allowed_hosts=("a",))
    assert needs_restart(Server(), after) == ["server.listen", "server.admin_token", "server.workers"]
    assert needs_restart(Server(), Server()) == []


CONFIG = "server: {{watch: false, max_connections: 1, header_timeout: 1s}}\nupstreams: {{api: {{url: '{}'}}}}\n"


def test_too_many_connections_are_shed(tmp_path: Path) -> None:
    """Beyond the limit the answer is 503; when there is room again, all is as before."""
    with held() as behind, whole(tmp_path, CONFIG.format(behind.url)) as process:
        first = behind.sends(process.server, request("GET", "/"))
        source = behind.takes()
        assert process.ask("GET", "/").status == 503
        source.sendall(response(b"first"))
        assert parse(rest(first)).body == b"first"
        source.close()
        again = behind.sends(process.server, request("GET", "/"))
        behind.takes().sendall(response(b"again"))
        assert parse(rest(again)).body == b"again"


def test_half_a_second_head_does_not_cut_the_first_answer(tmp_path: Path) -> None:
    """A head that is late ends the connection only behind the answer that is on its way."""
    with held() as behind, whole(tmp_path, CONFIG.format(behind.url)) as process:
        client = behind.sends(process.server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost")
        source = behind.takes()
        source.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
        received = b""
        while not received.endswith(b"ha"):
            received += client.recv(65536)
        # Another connection's head is late by now, and so is the second one here.
        late = behind.sends(process.server, b"GET")
        assert parse(rest(late)).status == 408
        source.sendall(b"lf")
        assert parse(received + rest(client)).body == b"half"


def test_a_socket_that_cannot_listen_is_refused() -> None:
    """One that was handed over connected, or without connections, would be served for ever, and nobody come."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for each in (ours, datagrams):
            with pytest.raises(OSError, match="cannot listen"):
                bound(Listener(descriptor=os.dup(each.fileno())))


def test_the_manager_is_told(tmp_path: Path) -> None:
    """systemd learns of the start, of reloads and of the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(str(tmp_path / "notify"))
        text = "server: {watch: false}\nupstreams: {a: {url: 'http://127.0.0.1:9'}}\n"
        with whole(tmp_path, text, variables={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:
            assert manager.recv(100) == b"READY=1"
            process.signal(signal.SIGHUP)
            process.says("config.unchanged")
            assert manager.recv(100).startswith(b"RELOADING=1")
            assert manager.recv(100) == b"READY=1"
            process.signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.ended() == 0


def test_that_certificates_are_not_verified_is_told_once_a_generation(tmp_path: Path) -> None:
    """Not by each worker, nor for each address, nor when a generation is only tried."""
    api = "addresses: ['https://127.0.0.1:9', 'https://127.0.0.1:10'], tls: {insecure_skip_verify: true}"
    config = f"server: {{watch: false, workers: 2}}\nupstreams: {{api: {{{api}}}}}\n"
    with whole(tmp_path, config) as process:
        process.file.write_text(config + "routes: [{path: /later, upstream: api}]\n", "utf-8")
        process.signal(signal.SIGHUP)
        process.says("config.reloaded")
        process.signal(signal.SIGTERM)
        process.ended()
        told = [each["detail"] for each in process.log if "verif" in each.get("detail", "")]
        assert len(told) == 2, told
        assert all("`api`" in each for each in told)
