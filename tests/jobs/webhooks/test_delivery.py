"""One try over real sockets: what it makes of answers, and where it connects to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.webhooks.delivery import Delivery, Reply, Resolver, Undelivered
from batchproxy.jobs.webhooks.guard import destination
from batchproxy.jobs.webhooks.settings import WebhookSettings
from tests.proxy.on_a_loop import LOOPS, PATIENCE, on_a_loop, run
from tests.proxy.scripted import Peer, Script

from .sending import NO_CONTENT, Receiver, receiving, resolving, settings, silence, writing

SAID = [("webhook-id", "msg_1")]


async def post(said: WebhookSettings, url: str, resolve: Any = None) -> Reply:
    resolver = Resolver()
    try:
        return await Delivery(said, resolve or resolver).post(destination(url, said), SAID, b'{"a":1}')
    finally:
        resolver.close()


async def answered(script: Script, **changed: Any) -> Reply:
    async with receiving(script) as receiver:
        reply = await post(settings(receiver.port, **changed), receiver.url)
        await gone(receiver)
        return reply


async def undelivered(script: Script, **changed: Any) -> str:
    async with receiving(script) as receiver:
        with pytest.raises(Undelivered) as fault:
            await post(settings(receiver.port, **changed), receiver.url)
        await gone(receiver)
        return str(fault.value)


async def gone(receiver: Receiver) -> None:
    """Nothing is left open towards it."""
    for peer in receiver.upstream.peers:
        await asyncio.wait_for(peer.ended.wait(), PATIENCE)


# Requests and answers


@pytest.mark.parametrize("loop", LOOPS)
def test_what_is_sent(loop: str) -> None:
    """One POST of exactly the payload, over a connection for it alone; on each loop."""

    async def main() -> None:
        async with receiving() as receiver:
            assert await post(settings(receiver.port), receiver.url) == Reply(204, None)
            [request] = receiver.received
            assert request.first == "POST /hook?from=us HTTP/1.1"
            assert request.body == b'{"a":1}'
            assert dict(request.headers) == {
                "host": f"127.0.0.1:{receiver.port}",
                "user-agent": "batchproxy",
                "content-type": "application/json",
                "content-length": "7",
                "connection": "close",
                "webhook-id": "msg_1",
            }

    run(main(), loop)


@pytest.mark.parametrize("status", [200, 202, 299, 301, 307, 308, 400, 410, 429, 500, 503])
@on_a_loop
async def test_every_status_is_told(status: int) -> None:
    """That of a redirect too: nothing follows it."""
    head = f"HTTP/1.1 {status} Whatever\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nok".encode()
    assert await answered(writing(head)) == Reply(status, None)


@on_a_loop
async def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    assert (await answered(writing(interim + NO_CONTENT))).status == 204
    assert "only interim" in await undelivered(writing(b"HTTP/1.1 100 Continue\r\n\r\n" * 100))


@on_a_loop
async def test_a_status_without_words() -> None:
    """HTTP/1.0 and a status line without a reason are answers too."""
    assert (await answered(writing(b"HTTP/1.0 200\r\n\r\n"))).status == 200


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7.0), (b"  120 ", 120.0), (b"", None), (b"-1", None), (b"Fri, 31 Dec 1999 23:59:59 GMT", None)],
)
@on_a_loop
async def test_a_wish_for_later_is_told(value: bytes, seconds: float | None) -> None:
    reply = await answered(writing(b"HTTP/1.1 503 Busy\r\nRetry-After:" + value + b"\r\nx: y\r\n\r\n"))
    assert reply == Reply(503, seconds)


BETWEEN_SOCKETS = 64 * 1024 * 1024
"""More bytes than fit between two sockets."""


def endless(start: bytes, piece: bytes) -> tuple[Script, list[int]]:
    """Goes on writing until the other side has enough; and how much it was."""
    written = [0]

    async def script(peer: Peer) -> None:
        await peer.write(start)
        while True:
            await peer.write(piece)
            written[0] += len(piece)

    return script, written


@on_a_loop
async def test_a_huge_answer_is_cut_off() -> None:
    """Its head counts; who goes on writing is told by the end of the connection."""
    script, written = endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)
    assert (await answered(script)).status == 200
    assert written[0] < BETWEEN_SOCKETS


# What is no answer


@on_a_loop
async def test_a_head_without_end_is_none() -> None:
    script, written = endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000)
    assert "more than 16384 bytes" in await undelivered(script)
    assert written[0] < BETWEEN_SOCKETS


@on_a_loop
async def test_a_slow_drip_ends_with_the_time() -> None:
    """That something comes again and again does not make it longer."""

    async def drip(peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            await peer.write(b"x")
            await asyncio.sleep(0.01)

    assert "no answer within 1 s" in await undelivered(drip, timeout=1)


@on_a_loop
async def test_silence_ends_with_the_time() -> None:
    assert "no answer within 1 s" in await undelivered(silence, timeout=1)


async def resets(peer: Peer) -> None:
    peer.reset()


async def resets_within(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\n")
    peer.reset()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (resets, "ConnectionResetError|ended after 0 bytes"),
        (resets_within, "ConnectionResetError|ended after 17 bytes"),
        (writing(b""), "ended after 0 bytes"),
        (writing(b"HTTP/1.1 200 OK\r\n"), "ended after 17 bytes"),
        (writing(b"HTTP/2 200\r\n\r\n"), "not one of HTTP/1.1"),
        (writing(b"HTTP/1.1 2000 OK\r\n\r\n"), "not one of HTTP/1.1"),
        (writing(b"HTTP/1.1 600 OK\r\n\r\n"), "not one of HTTP/1.1"),
        (writing(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not one of HTTP/1.1"),
    ],
)
@on_a_loop
async def test_what_is_no_answer(script: Script, told: str) -> None:
    fault = await undelivered(script)
    assert any(each in fault for each in told.split("|")), fault


@on_a_loop
async def test_nobody_listens() -> None:
    async with receiving() as receiver:
        port = receiver.port
    with pytest.raises(Undelivered, match=r"127\.0\.0\.1: "):
        await post(settings(port), f"http://127.0.0.1:{port}/")


@on_a_loop
async def test_a_cancelled_try_leaves_nothing_open() -> None:
    async with receiving(silence) as receiver:
        trying = asyncio.create_task(post(settings(receiver.port), receiver.url))
        await receiver.got(1)
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        await gone(receiver)


# Where it connects to


async def elsewhere(address: str, port: int) -> tuple[asyncio.Server, list[str]]:
    """Somebody on another address of this machine, at the same port; and who came."""
    came: list[str] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(address)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(NO_CONTENT)
        writer.close()

    return await asyncio.start_server(connected, address, port), came


def changing(*answers: Sequence[str]) -> tuple[Callable[[str, int], Awaitable[Sequence[str]]], list[str]]:
    """A name server that says something else each time; the last again and again."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


@on_a_loop
async def test_a_name_that_changes_its_address_gains_nothing() -> None:
    """DNS rebinding: what was judged is connected to, and the name is not looked up again for that; later it is judged
    anew, and refused before anything is sent."""
    async with receiving() as receiver:
        inside, came = await elsewhere("127.0.0.2", receiver.port)
        async with inside:
            resolve, asked = changing(["127.0.0.1"], ["127.0.0.2"])
            said = settings(receiver.port, allow=["127.0.0.1/32"])
            url = f"http://localhost:{receiver.port}/"
            assert (await post(said, url, resolve)).status == 204
            assert len(asked) == 1
            with pytest.raises(Undelivered, match=r"localhost resolves to 127\.0\.0\.2"):
                await post(said, url, resolve)
            assert (len(asked), came, len(receiver.received)) == (2, [], 1)
            # The one inside is there, and would have answered.
            assert (await post(settings(receiver.port), url, resolve)).status == 204
            assert came == ["127.0.0.2"]


@on_a_loop
async def test_an_address_inside_among_others_is_refused() -> None:
    async with receiving() as receiver:
        said = settings(receiver.port, allow=["127.0.0.1/32"])
        mixed = resolving({"hooks.example": ["127.0.0.1", "10.0.0.1"]})
        with pytest.raises(Undelivered, match="nothing is sent there"):
            await post(said, f"http://hooks.example:{receiver.port}/", mixed)
        assert receiver.upstream.peers == []


@on_a_loop
async def test_the_names_of_this_machine_are_refused() -> None:
    """As the system resolves them, without anything allowed."""
    async with receiving() as receiver:
        said = settings(receiver.port, allow=[])
        with pytest.raises(Undelivered, match=r"localhost resolves to .*127\.0\.0\.1"):
            await post(said, f"http://localhost:{receiver.port}/")
        assert receiver.upstream.peers == []
        by_name = settings(receiver.port, allow=["localhost"])
        assert (await post(by_name, f"http://localhost:{receiver.port}/")).status == 204


@on_a_loop
async def test_the_next_address_is_tried() -> None:
    """If nobody listens; not once a request was sent."""
    async with receiving() as receiver:
        resolve = resolving({"hooks.example": ["127.0.0.3", "127.0.0.4", "127.0.0.1"]})
        url = f"http://hooks.example:{receiver.port}/"
        assert (await post(settings(receiver.port), url, resolve)).status == 204
    async with receiving(resets) as receiver:
        other, came = await elsewhere("127.0.0.2", receiver.port)
        async with other:
            resolve = resolving({"hooks.example": ["127.0.0.1", "127.0.0.2"]})
            with pytest.raises(Undelivered):
                await post(settings(receiver.port), f"http://hooks.example:{receiver.port}/", resolve)
            assert came == []


@on_a_loop
async def test_a_name_that_is_not_there() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(Undelivered, match=r"hooks\.example cannot be resolved: .*Name or service not known"):
        await post(settings(80), "http://hooks.example/", resolve)


@on_a_loop
async def test_a_name_that_is_resolved_slowly_ends_with_the_time() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(Undelivered, match="no answer within"):
        await post(settings(80, timeout=0.2), "http://hooks.example/", resolve)


# TLS


class Authority:
    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.bundle))
        self.asked: list[str | None] = []

    def context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _, asked, __: self.asked.append(asked)
        return context


HOOKS = resolving({"hooks.example": ["127.0.0.1"], "127.0.0.1": ["127.0.0.1"]})


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_is_that_of_the_name(loop: str, tmp_path: Path) -> None:
    """SNI and certificate are those of the name, though an address is connected to."""

    async def main() -> None:
        authority = Authority(tmp_path)
        async with receiving(tls=authority.context("hooks.example")) as receiver:
            said = settings(receiver.port, http=False, ca=str(authority.bundle))
            assert (await post(said, f"https://hooks.example:{receiver.port}/", HOOKS)).status == 204
            assert authority.asked == ["hooks.example"]
            assert receiver.received[0].headers["host"] == f"hooks.example:{receiver.port}"

    run(main(), loop)


@on_a_loop
async def test_tls_with_an_address_in_the_place_of_a_name(tmp_path: Path) -> None:
    """Its certificate is for the address."""
    authority = Authority(tmp_path)
    async with receiving(tls=authority.context("127.0.0.1")) as receiver:
        said = settings(receiver.port, ca=str(authority.bundle))
        assert (await post(said, f"https://127.0.0.1:{receiver.port}/", HOOKS)).status == 204


@pytest.mark.parametrize(
    ("name", "is_trusted", "told"),
    [
        ("elsewhere.example", True, "hostname mismatch|Hostname mismatch"),
        ("127.0.0.1", True, "hostname mismatch|Hostname mismatch"),
        ("hooks.example", False, "CERTIFICATE_VERIFY_FAILED"),
    ],
    ids=["wrong name", "its address", "unknown authority"],
)
@on_a_loop
async def test_a_wrong_certificate_gets_nothing(name: str, is_trusted: bool, told: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with receiving(tls=authority.context(name)) as receiver:
        said = settings(receiver.port, ca=str(authority.bundle) if is_trusted else None)
        with pytest.raises(Undelivered, match=told):
            await post(said, f"https://hooks.example:{receiver.port}/", HOOKS)
        assert receiver.received == []


@on_a_loop
async def test_who_does_not_speak_tls_gets_nothing() -> None:
    async with receiving(writing(b"HTTP/1.1 200 OK\r\n\r\n")) as receiver:
        with pytest.raises(Undelivered):
            await post(settings(receiver.port, timeout=1), f"https://hooks.example:{receiver.port}/", HOOKS)
        assert all(b"msg_1" not in peer.received for peer in receiver.upstream.peers)


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    """Are told at the start."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(SettingError, match="ca="):
            Delivery(settings(ca=str(path)), HOOKS)
