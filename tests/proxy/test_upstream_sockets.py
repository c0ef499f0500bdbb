"""`LiveUpstream` over real connections: several addresses, faults in every phase, deadlines, certificates, the end."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from batchproxy.proxy.settings import TLS, HealthCheck, Retry, Timeouts, Upstream
from batchproxy.proxy.transports import Outgoing, UpstreamError
from batchproxy.proxy.upstream import LiveUpstream

from .nginx import unused_port
from .on_a_loop import LOOPS, on_a_loop, run
from .played import request, whole
from .scripted import Peer, Upstream as Server, answering, response, upstream

SOON = 0.2
TRANSPORTS = ("native", "httpx")
FAST = Retry(backoff=0)


def live(*urls: str, **settings: Any) -> LiveUpstream:
    where: dict[str, Any] = {"url": urls[0]} if len(urls) == 1 else {"addresses": urls}
    return LiveUpstream("orders", Upstream(**where, **settings))


def is_idle(upstream: LiveUpstream) -> bool:
    state = upstream.state()
    return state["in_flight"] == state["queued"] == 0 and all(each["in_flight"] == 0 for each in state["addresses"])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_prefix_and_host_on_the_wire(transport: str) -> None:
    """Exact bytes, in order."""

    @on_a_loop
    async def main() -> None:
        async with upstream() as server:
            target = live(f"{server.url}/api/", host="upstream", transport=transport)
            assert await whole(target, request(target=b"/a%2Fb?x=1", headers=[(b"a", b"1"), (b"host", b"c")])) == (
                200,
                b"ok",
            )
            await target.aclose()
            expected = f"GET /api/a%2Fb?x=1 HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\na: 1\r\n\r\n"
            assert bytes(server.peers[0].received).decode() == expected

    main()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_dead_address_is_passed_over(transport: str) -> None:
    """Every request of a batch is answered as long as one address lives."""

    @on_a_loop
    async def main() -> None:
        async with upstream() as server:
            target = live(f"http://127.0.0.1:{port}", server.url, transport=transport, retry=FAST)
            for _ in range(12):
                assert await whole(target, request()) == (200, b"ok")
            dead, alive = target.state()["addresses"]
            assert (dead["ejected"], alive["ejected"]) == (True, False)
            assert is_idle(target)
            await target.aclose()

    with unused_port() as port:
        main()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("method", "arrivals"), [("GET", 3), ("PUT", 3), ("DELETE", 3), ("POST", 1), ("PATCH", 1)])
def test_a_write_arrives_once(method: str, arrivals: int, transport: str) -> None:
    """An upstream that reads requests and hangs up gets a write once, and anything else as often as is allowed."""

    async def script(peer: Peer) -> None:
        await peer.request()
        arrived.append(peer)

    arrived: list[Peer] = []

    @on_a_loop
    async def main() -> None:
        async with upstream(script) as server:
            target = live(server.url, transport=transport, retry=Retry(attempts=2, backoff=0))
            with pytest.raises(UpstreamError, match="reset-before-response"):
                await whole(target, request(method, body=b"x"))
            assert is_idle(target)
            await target.aclose()

    main()
    assert len(arrived) == arrivals


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_sent_again_after_a_byte_of_the_answer(transport: str) -> None:
    """A truncated answer is a truncated answer."""

    @on_a_loop
    async def main() -> None:
        async with upstream(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab", then_close=True)) as server:
            target = live(server.url, transport=transport, retry=FAST)
            with pytest.raises(UpstreamError, match="truncated"):
                await whole(target, request())
            assert len(server.peers) == 1
            assert is_idle(target)
            await target.aclose()

    main()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab"])
def test_the_total_of_the_upstream_is_kept(start: bytes, transport: str) -> None:
    """Before the answer and inside it; the connection is cut."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(start)
        await peer.rest()

    @on_a_loop
    async def main() -> None:
        async with upstream(script) as server:
            target = live(server.url, transport=transport, timeouts=Timeouts(total=SOON))
            with pytest.raises(UpstreamError, match="total-timeout"):
                await whole(target, request())
            await server.peers[0].ended.wait()
            assert is_idle(target)
            assert target.state()["failures"] == (0 if start else 1)
            await target.aclose()

    main()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("waits", [False, True])
def test_cancelled_at_any_step_nothing_is_held(loop: str, transport: str, waits: bool) -> None:
    """Wherever a request is given up, its place and its connection are free, and the next one goes through."""
    steps = 0
    while cancelled_at(steps, loop, transport, waits):
        steps += 1
    assert steps > 5


def cancelled_at(steps: int, loop: str, transport: str, waits: bool) -> bool:
    """Whether there was still something to cancel after so many turns of the loop."""
    was_running = False

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
            await asyncio.sleep(0)
            await peer.write(b"1\r\nb\r\n0\r\n\r\n")

    async def main() -> None:
        nonlocal was_running
        async with upstream(script) as server:
            target = live(server.url, transport=transport, max_in_flight=1)
            before = [asyncio.create_task(whole(target, request()))] if waits else []
            await asyncio.sleep(0)
            task = asyncio.create_task(whole(target, request()))
            for _ in range(steps):
                await asyncio.sleep(0)
            was_running = not task.done()
            task.cancel()
            await asyncio.gather(task, *before, return_exceptions=True)
            assert is_idle(target)
            assert await whole(target, request()) == (200, b"ab")
            await target.aclose()
            assert target.state()["addresses"][0]["connections"] in (0, None)
            for peer in server.peers:
                await peer.ended.wait()

    run(main(), loop)
    return was_running


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_checks_over_the_same_connections(transport: str) -> None:
    """Health is asked for over the transport of the address, by the `Host` that it gets."""

    async def script(peer: Peer) -> None:
        while head := await peer.request():
            heads.append(head)
            asked.set()
            await peer.write(response(status=b"500 No" if head.startswith(b"GET /health ") else b"200 OK"))

    heads: list[bytes] = []
    asked = asyncio.Event()

    @on_a_loop
    async def main() -> None:
        async with upstream(script) as server:
            check = HealthCheck(path="/health", interval=SOON)
            target = live(server.url, transport=transport, host="api.example", health_check=check)
            target.start()
            await asked.wait()
            while target.is_available:
                await asyncio.sleep(0)
            with pytest.raises(UpstreamError, match="no-healthy-address"):
                await whole(target, request())
            await target.aclose()
            assert heads[0] == b"GET /health HTTP/1.1\r\nhost: api.example\r\nuser-agent: batchproxy\r\n\r\n"
            assert len(server.peers) == 1

    main()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_upstreams_share_no_connection(transport: str, tmp_path: Path) -> None:
    """Two upstreams with different certificates to one server are two clients to it, each with its own identity."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    def identity(name: str) -> TLS:
        path = str(tmp_path / f"{name}.pem")
        authority.issue_cert(f"{name}.example", common_name=name).private_key_and_cert_chain_pem.write_to_path(path)
        return TLS(ca=str(tmp_path / "ca.pem"), certificate=path, key=path)

    async def script(peer: Peer) -> None:
        certificate = peer.writer.get_extra_info("peercert")
        names = [value for _, value in certificate["subjectAltName"]]
        while await peer.request():
            await peer.write(response(names[0].encode()))

    @on_a_loop
    async def main() -> None:
        async with upstream(script, tls=context) as server:
            url = f"https://localhost:{server.port}"
            targets = {name: live(url, tls=identity(name), transport=transport) for name in ("alice", "bob")}
            for _ in range(3):
                for name, target in targets.items():
                    assert await whole(target, request()) == (200, f"{name}.example".encode())
            assert len(server.peers) == 2
            for target in targets.values():
                await target.aclose()

    main()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_drained_upstream_goes_on_and_keeps_nothing(transport: str) -> None:
    """What runs is answered; connections end, and what comes later gets a fresh one."""

    server = Server()

    async def script(peer: Peer) -> None:
        is_first = len(server.peers) == 1
        while await peer.request():
            await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
            if is_first:
                await go_on.wait()
            await peer.write(b"k")

    go_on = asyncio.Event()

    @on_a_loop
    async def main() -> None:
        nonlocal server
        async with upstream(script) as server:
            target = live(server.url, transport=transport)
            answer = await target.send(request())
            assert await whole(target, request()) == (200, b"ok")
            target.drain()
            go_on.set()
            assert await answer.read() + await answer.read() == b"ok"
            assert await answer.read() == b""
            for peer in server.peers:
                await peer.ended.wait()
            assert await whole(target, request()) == (200, b"ok")
            assert len(server.peers) == 3
            await target.aclose()

    main()


@on_a_loop
async def test_a_slow_upstream_takes_no_place_of_another() -> None:
    """Each upstream has its own places and connections."""

    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with upstream(silent) as slow, upstream() as quick:
        held, free = live(slow.url, max_in_flight=2, max_queue=1), live(quick.url)
        tasks = [asyncio.create_task(whole(held, request())) for _ in range(3)]
        while held.state()["queued"] == 0:
            await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="overloaded"):
            await held.send(request())
        for _ in range(20):
            assert await whole(free, request()) == (200, b"ok")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert is_idle(held)
        await held.aclose()
        await free.aclose()


@on_a_loop
async def test_a_write_behind_a_full_queue_is_never_sent() -> None:
    """A refused request has not left."""

    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with upstream(silent) as server:
        target = live(server.url, max_in_flight=1, max_queue=0)
        task = asyncio.create_task(whole(target, request()))
        while not server.peers:
            await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="overloaded"):
            await target.send(Outgoing("POST", b"/write", [(b"host", b"h")], body=b"x"))
        task.cancel()
        await asyncio.wait([task])
        await target.aclose()
        await server.peers[0].ended.wait()
        assert b"/write" not in bytes(server.peers[0].received)
