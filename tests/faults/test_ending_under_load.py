"""The end of the process while requests run: what was accepted is answered, streams are told, it exits with 0."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, response, upstream
from tests.serving import PATIENCE, Server, parse, request

from .load import load
from .whole import STARTED_BY, whole


def config(url: str, **server: str) -> str:
    settings = ", ".join(f"{name}: {value}" for name, value in {"watch": "false", **server}.items())
    return f"server: {{{settings}}}\nupstreams: {{api: {{url: '{url}'}}}}\n"


class Held:
    """An upstream whose answers wait: it listens, and the test accepts and answers by hand. It closes all sockets."""

    def __init__(self, listener: socket.socket, stack: ExitStack) -> None:
        self._listener = listener
        self._stack = stack
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def takes(self) -> socket.socket:
        """The next connection, when the head of a request has come over it."""
        connection = self._stack.enter_context(self._listener.accept()[0])
        connection.settimeout(PATIENCE)
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        return connection

    def sends(self, server: Server, payload: bytes) -> socket.socket:
        """A client's connection, over which this was sent."""
        address = (server.host, server.port)
        connection = self._stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
        connection.sendall(payload)
        return connection


@contextmanager
def held() -> Iterator[Held]:
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as stack:
        listener.settimeout(PATIENCE)
        yield Held(listener, stack)


def rest(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


def batch(*paths: str, stream: bool = False) -> bytes:
    document = json.dumps({"requests": [{"method": "GET", "path": path} for path in paths]}).encode()
    accept = "application/x-ndjson" if stream else "application/json"
    return request("POST", "/batch", [("Content-Type", "application/json"), ("Accept", accept)], document)


@on_a_loop
async def test_no_request_fails_that_was_sent_before_the_end(tmp_path: Path) -> None:
    """Clients that go on until an answer bears `Connection: close`, as a load balancer does, see no fault; exit 0."""

    async def answers(peer: Peer) -> None:
        while await peer.request():
            await peer.write(response())

    async with upstream(answers) as behind:
        await asyncio.to_thread(_end_under_load, tmp_path, behind.url)


def _end_under_load(folder: Path, url: str) -> None:
    with whole(folder, config(url, drain_delay="3s", grace="20s")) as running:
        # Every request asks for that itself; the end shows in the readiness.
        with load(running.server, until=lambda _: running.has_said("stopping")) as ledger:
            ledger.waits_for(50)
            assert running.is_ready
            running.signal(signal.SIGTERM)
            running.says("stopping")
            assert running.asks_admin("GET", "/readyz").status == 503
            assert running.asks_admin("GET", "/livez").status == 200
        assert running.ended() == 0
    assert not ledger.faults
    assert set(ledger.answers) == {(200, b"ok")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_come_to_their_end(number: signal.Signals, tmp_path: Path) -> None:
    """A lone request and a batch that run when the signal comes are answered as if nothing were."""
    with held() as behind, whole(tmp_path, config(behind.url)) as running:
        lone = behind.sends(running.server, request("GET", "/lone"))
        first = behind.takes()
        whole_batch = behind.sends(running.server, batch("/item"))
        second = behind.takes()
        running.signal(number)
        running.says("stopping")
        first.sendall(response(b"lone"))
        second.sendall(response(b"item"))
        assert parse(rest(lone)).body == b"lone"
        assert parse(rest(whole_batch)).json()["responses"][0]["status"] == 200
        assert running.ended() == 0


def test_a_new_connection_during_the_delay_is_served_and_closed(tmp_path: Path) -> None:
    """Until the delay is over everything is answered, with `Connection: close`, though the client would go on."""
    with held() as behind, whole(tmp_path, config(behind.url, drain_delay="2s")) as running:
        running.signal(signal.SIGTERM)
        running.says("stopping")
        late = behind.sends(running.server, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream_side = behind.takes()
        upstream_side.sendall(response(b"late"))
        answered = parse(rest(late))
        assert (answered.body, answered.header("connection")) == (b"late", "close")
        assert running.ended() == 0


def test_a_stream_of_results_gets_its_last_record(tmp_path: Path) -> None:
    """At the end of the grace period items that still run are given up, each with its own record."""
    # A fifth of the grace is for what the batches write at its end.
    with held() as behind, whole(tmp_path, config(behind.url, grace="3s")) as running:
        stream = behind.sends(running.server, batch("/quick", "/never", stream=True))
        behind.takes()
        running.signal(signal.SIGTERM)
        records = parse(rest(stream)).body.splitlines()
        last = json.loads(records[-1])
        assert {json.loads(each).get("status") for each in records[:-1]} >= {504}, records
        assert "summary" in str(last) or "failed" in str(last), records
        assert running.ended() == 0


def test_a_stream_of_an_upstream_is_cut_at_the_end_of_grace(tmp_path: Path) -> None:
    """Server-sent events that never end do not hold up the end of the process."""
    with held() as behind, whole(tmp_path, config(behind.url, grace="1s")) as running:
        events = behind.sends(running.server, request("GET", "/events"))
        source = behind.takes()
        source.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        received = b""
        while b"data: 1" not in received:
            received += events.recv(65536)
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
        assert not received.endswith(b"0\r\n\r\n")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """However long the grace, being told twice is enough; the exit code is 1."""
    with held() as behind, whole(tmp_path, config(behind.url, grace="600s")) as running:
        behind.sends(running.server, request("GET", "/never"))
        behind.takes()
        running.signal(signal.SIGTERM)
        running.says("stopping")
        assert running.ended_by(signal.SIGTERM) == 1
        running.says("stopping.at_once")


def test_an_address_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    """The exit code is 1, and the line names the setting and the address."""

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "batchproxy.yaml"
        file.write_text(
            f"server: {{listen: '127.0.0.1:{port}', admin: 'off'}}\nupstreams: {{a: {{url: 'http://a'}}}}\n"
        )
        finished = subprocess.run(
            [sys.executable, "-c", STARTED_BY, str(file), "0"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")},
        )
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "server.listen" in line
