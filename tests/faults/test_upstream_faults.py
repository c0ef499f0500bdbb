"""What an upstream can do wrong, seen through the whole process: each fault has its code, and others do not suffer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, Script, upstream
from tests.serving import Malformed

from .whole import Whole, whole

CONFIG = """
server: {{watch: false}}
upstreams:
  faulty:
    url: {faulty}
    timeouts: {{{timeouts}}}
    retry: {{attempts: 0}}
  sound: {{url: {sound}}}
routes:
  - {{path: /faulty, upstream: faulty}}
  - {{path: /sound, upstream: sound}}
"""


async def resets_at_once(peer: Peer) -> None:
    peer.reset()


async def resets_before_the_head(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def closes_before_the_head(peer: Peer) -> None:
    await peer.request()


async def resets_in_the_head(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"HTTP/1.1 200 OK\r\nx-half")
    peer.reset()


async def resets_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    peer.reset()


async def ends_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")


async def speaks_something_else(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def says_nothing(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


async def pauses_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await peer.rest()


async def ends_after_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole")


SHORT: dict[Script, str] = {says_nothing: "first_byte: 500ms", pauses_in_the_body: "idle: 500ms"}
"""Timeouts of those that run into one; the others may take as long as they need."""
PHASES = [
    (resets_at_once, 502, 502),
    (resets_before_the_head, 502, 502),
    (closes_before_the_head, 502, 502),
    (resets_in_the_head, 502, 502),
    (speaks_something_else, 502, 502),
    (says_nothing, 504, 504),
    # The head of the answer has gone out: a lone client sees it end before its end.
    (resets_in_the_body, None, 502),
    (ends_in_the_body, None, 502),
    (pauses_in_the_body, None, 504),
    (ends_after_the_body, 200, 200),
]


async def seen(folder: Path, script: Script, check: Callable[[Whole], None]) -> None:
    """Runs a check, which blocks, against a process in front of a faulty upstream and a sound one."""

    def run(text: str) -> None:
        with whole(folder, text) as running:
            check(running)

    async with upstream(script) as faulty, upstream() as sound:
        timeouts = SHORT.get(script, "")
        await asyncio.to_thread(run, CONFIG.format(faulty=faulty.url, sound=sound.url, timeouts=timeouts))


def get(path: str) -> dict[str, str]:
    return {"method": "GET", "path": path}


@on_a_loop
async def test_every_phase_has_its_status(tmp_path: Path) -> None:
    """A lone request and an item fail alike, a broken answer is never shown as whole, and a sound upstream answers."""

    def status(running: Whole, path: str) -> int | None:
        try:
            return running.ask("GET", path).status
        except Malformed:
            return None

    def run(text: str) -> None:
        with whole(tmp_path, text) as running:
            for script, alone, item in PHASES:
                path = f"/{script.__name__}"
                found = status(running, path)
                faulty, sound = running.batch(get(path), get("/sound"))
                assert (path, found, faulty["status"], sound["status"]) == (path, alone, item, 200)
                assert running.is_ready

    async with AsyncExitStack() as stack:
        sound = await stack.enter_async_context(upstream())
        upstreams, routes = [f"  sound: {{url: {sound.url}}}"], ["  - {path: /sound, upstream: sound}"]
        for script, _, _ in PHASES:
            name = script.__name__
            faulty = await stack.enter_async_context(upstream(script))
            timeouts = SHORT.get(script, "")
            upstreams.append(f"  {name}: {{url: {faulty.url}, timeouts: {{{timeouts}}}, retry: {{attempts: 0}}}}")
            routes.append(f"  - {{path: /{name}, upstream: {name}}}")
        text = "\n".join(["server: {watch: false}", "upstreams:", *upstreams, "routes:", *routes, ""])
        await asyncio.to_thread(run, text)


@on_a_loop
async def test_a_black_hole_holds_up_nobody_else(tmp_path: Path) -> None:
    """While requests wait for an upstream that says nothing, the others are answered."""
    asked, enough = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hole(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await enough.wait()

    def check(running: Whole) -> None:
        waiting = asyncio.run_coroutine_threadsafe(asyncio.to_thread(running.ask, "GET", "/faulty"), loop)
        asyncio.run_coroutine_threadsafe(asked.wait(), loop).result()
        for _ in range(20):
            assert running.ask("GET", "/sound").status == 200
        assert not waiting.done()
        loop.call_soon_threadsafe(enough.set)
        assert waiting.result().status == 502

    await seen(tmp_path, hole, check)


@on_a_loop
async def test_nobody_listens(tmp_path: Path) -> None:
    """An upstream that refuses connections is a 502, flagged as a connection that failed; readiness goes on."""

    def check(port: int) -> None:
        url = f"http://127.0.0.1:{port}"
        text = f"server: {{watch: false}}\nupstreams: {{gone: {{url: '{url}', retry: {{attempts: 0}}}}}}\n"
        with whole(tmp_path, text) as running:
            assert running.ask("GET", "/").status == 502
            assert running.is_ready
            assert running.batch(get("/"))[0]["status"] == 502
        running.ended()
        assert [each["flags"] for each in running.lines if each["msg"] in ("request", "item")][:2] == ["UF", "UF"]

    with socket.socket() as nobody:  # who has the port, and does not listen there
        nobody.bind(("127.0.0.1", 0))
        await asyncio.to_thread(check, nobody.getsockname()[1])


def authority_and(host: str, **more: Any) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, **more).configure_cert(context)
    return authority, context


LONG_AGO, OVER = datetime(2019, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
CERTIFICATES: list[tuple[str, bool, dict[str, Any], int]] = [
    ("127.0.0.1", True, {}, 200),
    ("127.0.0.1", False, {}, 502),
    ("elsewhere.example", True, {}, 502),
    ("127.0.0.1", True, {"not_before": LONG_AGO, "not_after": OVER}, 502),
]


@pytest.mark.parametrize(
    ("host", "is_trusted", "more", "status"), CERTIFICATES, ids=["sound", "unknown", "wrong name", "expired"]
)
@on_a_loop
async def test_certificates(host: str, is_trusted: bool, more: dict[str, Any], status: int, tmp_path: Path) -> None:
    """Only a certificate in date, of a trusted authority, for the host of the address is accepted."""
    authority, context = authority_and(host, **more)
    bundle = tmp_path / "ca.pem"
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(str(bundle))

    def check(port: int) -> None:
        settings = f"{{url: 'https://127.0.0.1:{port}', tls: {{ca: '{bundle}'}}, retry: {{attempts: 0}}}}"
        with whole(tmp_path, f"server: {{watch: false}}\nupstreams: {{api: {settings}}}\n") as running:
            assert running.ask("GET", "/").status == status
            assert running.batch(get("/"))[0]["status"] == status

    async with upstream(tls=context) as behind:
        await asyncio.to_thread(check, behind.port)
