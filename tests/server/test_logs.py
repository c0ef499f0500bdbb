"""The access log: which lines there are, what is in them, and what never is."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchproxy.observe.logs import Lines, access_log, as_json, as_text, printable
from tests.faults.whole import Whole, whole
from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, Script, response, upstream
from tests.serving import PATIENCE, request

CONFIG = """
server: {{watch: false, log: {{items: {items}, access: {access}}}}}
upstreams: {{api: {{url: '{url}'}}}}
"""


async def lines(
    folder: Path,
    work: Callable[[Whole], object],
    *,
    items: str = "failed",
    access: str = "true",
    config: str = CONFIG,
    script: Script | None = None,
) -> list[dict[str, Any]]:
    """What is on standard output when the work is done, in front of an upstream that has nothing at `/missing`."""

    async def answers(peer: Peer) -> None:
        while head := await peer.request():
            is_missing = head.split(b" ")[1].startswith(b"/missing")
            await peer.write(response(status=b"404 Not Found" if is_missing else b"200 OK"))

    def run(url: str) -> list[dict[str, Any]]:
        with whole(folder, config.format(items=items, access=access, url=url)) as running:
            work(running)
            running.process.terminate()
            assert running.ended() == 0
            return running.lines

    async with upstream(script or answers) as behind:
        return await asyncio.to_thread(run, behind.url)


def get(path: str) -> dict[str, Any]:
    return {"method": "GET", "path": path}


@on_a_loop
async def test_a_lone_request_has_one_line(tmp_path: Path) -> None:
    """The line says who asked for what, which upstream answered, and how it went."""
    (line,) = await lines(tmp_path, lambda running: running.ask("GET", "/here"))
    assert (line["msg"], line["http.request.method"], line["url.path"]) == ("request", "GET", "/here")
    assert (line["http.response.status_code"], line["upstream"], line["client.address"]) == (200, "api", "127.0.0.1")
    assert line["bytes_out"] == 2
    assert line["duration_ms"] >= 0
    assert line["request_id"]
    assert "flags" not in line


@pytest.mark.parametrize(("items", "logged"), [("none", []), ("failed", ["/missing"]), ("all", ["/here", "/missing"])])
@on_a_loop
async def test_a_batch_has_one_line_and_its_items_by_setting(items: str, logged: list[str], tmp_path: Path) -> None:
    """Lines of items bear the request id of their batch."""
    found = await lines(tmp_path, lambda running: running.batch(get("/here"), get("/missing")), items=items)
    (batch,) = [each for each in found if each["msg"] == "batch"]
    assert (batch["batch.items"], batch["batch.failed"], batch["batch.mode"]) == (2, 1, "buffered")
    those = [each for each in found if each["msg"] == "item"]
    assert [each["url.path"] for each in those] == logged
    assert {each["request_id"] for each in those} <= {batch["request_id"]}


@on_a_loop
async def test_nothing_secret_is_written(tmp_path: Path) -> None:
    """No query, no header and no body is in any line."""

    def work(running: Whole) -> None:
        running.ask("GET", "/missing?token=hunter2", [("Authorization", "hunter2"), ("Cookie", "a=hunter2")])
        running.batch({**get("/missing?token=hunter2"), "headers": {"x-key": "hunter2"}})
        running.ask("POST", "/missing", [], b"hunter2")

    found = await lines(tmp_path, work, items="all")
    assert len(found) == 4
    assert "hunter2" not in json.dumps(found)


@on_a_loop
async def test_the_access_log_can_be_off(tmp_path: Path) -> None:
    """Then standard output stays empty."""
    assert await lines(tmp_path, lambda running: running.ask("GET", "/"), access="false") == []


LIMITED = """
server: {{watch: false, log: {{items: {items}, access: {access}}}}}
upstreams: {{api: {{url: '{url}'}}}}
routes: [{{path: /, upstream: api, max_response_bytes: 8}}]
"""


@on_a_loop
async def test_a_limit_of_the_route_has_its_flag(tmp_path: Path) -> None:
    """Refused at its head or cut in its midst: then only the line says that it was no success."""

    async def answers(peer: Peer) -> None:
        while head := await peer.request():
            if b"/late" in head:
                await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                await may_go_on.wait()
                await peer.write(b"6\r\n it is\r\n0\r\n\r\n")
            else:
                await peer.write(response(b"too large"))

    def work(running: Whole) -> None:
        running.ask("GET", "/early")
        running.batch(get("/item"))
        with socket.create_connection((running.server.host, running.server.port), timeout=PATIENCE) as client:
            client.sendall(request("GET", "/late"))
            received = b""
            while not received.endswith(b"half\r\n"):
                received += client.recv(65536)
            loop.call_soon_threadsafe(may_go_on.set)
            while client.recv(65536):
                pass

    loop, may_go_on = asyncio.get_running_loop(), asyncio.Event()
    found = await lines(tmp_path, work, config=LIMITED, script=answers)
    told = {each["url.path"]: each for each in found}
    assert {told[path]["flags"] for path in ("/early", "/item", "/late")} == {"LR"}
    assert {told[path]["code"] for path in ("/early", "/item", "/late")} == {"response_too_large"}
    assert told["/late"]["http.response.status_code"] == 200


RECORD = {"ts": "2026-01-01T10:11:12.123Z", "msg": "request", "http.request.method": "GET", "duration_ms": 1.25}


def test_a_terminal_obeys_nothing() -> None:
    """Control characters, and what turns the direction of text, are spelled out in both forms."""
    record = {**RECORD, "url.path": "/\x1b[2J\n\u202e\x9b", "http.response.status_code": 200}
    text = as_text(record).decode()
    assert text.isprintable()
    assert "/\\x1b[2J\\n\\u202e\\x9b" in text
    assert text.startswith("10:11:12  request")
    assert b"\n" not in as_json(record)
    assert b"\x1b" not in as_json(record)
    assert printable("plain ä") == "plain ä"


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    """`auto` is JSON for a file, a pipe or a journal; `console` is text wherever it goes."""
    written = {}
    for form in ("auto", "json", "console"):
        stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
        log, out = access_log(form, items="all", stream=stream)
        assert log is not None
        log._write(RECORD)
        out.close()
        stream.seek(0)
        written[form] = stream.read()
    assert written["auto"] == written["json"]
    assert json.loads(written["json"]) == RECORD
    assert written["console"].startswith("10:11:12")


class _Gone(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_stops_nobody() -> None:
    """Writing goes on to nowhere, and closing does not hang."""
    out = Lines(io.TextIOWrapper(io.BufferedWriter(_Gone(), 1)))
    for _ in range(100):
        out.put(b"{}")
    out.close()
    out.put(b"{}")


@pytest.mark.parametrize(
    ("trusted", "given", "is_kept"),
    [
        ("[]", "of-the-client", True),
        ("[127.0.0.1]", "of-the-client", True),
        ("[10.0.0.0/8]", "of-the-client", False),
        ("[]", "x" * 129, False),
        ("[]", "with a blank", False),
    ],
)
def test_whose_request_id_counts(trusted: str, given: str, is_kept: bool, tmp_path: Path) -> None:
    """Where somebody is trusted, only they may name a request; what others call it reaches no log and no upstream."""

    @on_a_loop
    async def check() -> None:
        async def answers(peer: Peer) -> None:
            while await peer.request():
                await peer.write(response())

        def run(url: str) -> tuple[list[dict[str, Any]], str | None]:
            config = f"server: {{watch: false, trusted_proxies: {trusted}}}\nupstreams: {{api: {{url: '{url}'}}}}\n"
            headers = [("X-Request-ID", given)]
            with whole(tmp_path, config) as running:
                running.ask("GET", "/alone", headers)
                running.ask("GET", "/alone/refused/..", headers)
                batch = b'{"requests": [{"path": "/item"}]}'
                answer = running.ask("POST", "/batch", [*headers, ("Content-Type", "application/json")], batch)
                running.process.terminate()
                running.ended()
                return running.lines, answer.header("x-request-id")

        async with upstream(answers) as behind:
            lines, answered = await asyncio.to_thread(run, behind.url)
            sent = b"".join(bytes(peer.received) for peer in behind.peers)
        known = {each["request_id"] for each in lines}
        assert (known == {given}) is is_kept
        assert (given in known) is is_kept
        assert answered == lines[-1]["request_id"]
        if trusted != "[]":
            assert sent.count(b"x-request-id: " + given.encode()) == 2 * is_kept
            assert sent.count(b"x-request-id: ") == 2

    check()
