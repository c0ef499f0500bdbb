"""TLS towards an upstream: whom it trusts, how it shows itself, and every way in which that fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from batchproxy.engine.errors import Failure, SettingError
from batchproxy.proxy.settings import TLS
from batchproxy.proxy.transports import Sent, UpstreamError

from ..scripted import Peer, response, upstream
from .exchanging import failing, get, on_both_loops, pieces, silent, transport, whole


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """The authority's certificate, another one's, and a client certificate with its key."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    client = authority.issue_cert("client@example.com")
    client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    return {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other", "client")}


def server_context(authority: trustme.CA, *names: str, asks: bool = False, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@on_both_loops
async def test_tls(authority: trustme.CA, files: dict[str, str]) -> None:
    """A certificate of a trusted authority with the right name is taken; client certificates are shown when asked."""
    shown: dict[str, Any] = {"ca": files["ca"], "certificate": files["client"], "key": files["client"]}
    context = server_context(authority, "orders.internal", "127.0.0.1", asks=True)
    async with upstream(tls=context) as server:
        url = f"https://127.0.0.1:{server.port}"
        for tls in (
            TLS(**shown),
            TLS(**shown, server_name="orders.internal", min_version="1.3"),
        ):
            pool = transport(url, tls=tls)
            assert (await whole(pool, get()))[2] == b"ok"
            await pool.aclose()


@on_both_loops
async def test_verification_can_be_switched_off(authority: trustme.CA) -> None:
    """`insecure_skip_verify` takes any certificate."""
    async with upstream(tls=server_context(authority, "else.example")) as server:
        pool = transport(f"https://127.0.0.1:{server.port}", tls=TLS(insecure_skip_verify=True))
        assert (await whole(pool, get()))[2] == b"ok"
        await pool.aclose()


@pytest.mark.parametrize("setting", ["ca", "certificate"])
def test_files_that_cannot_be_read(setting: str, tmp_path: Path) -> None:
    """A missing or broken file is a wrong setting."""
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for path in (str(broken), str(tmp_path / "missing.pem")):
        with pytest.raises(SettingError) as error:
            transport("https://h", tls=TLS(ca=path) if setting == "ca" else TLS(certificate=path, key=path))
        assert (error.value.setting, error.value.value) == (setting, path)


@pytest.mark.parametrize("fault", ["unknown authority", "wrong name", "expired", "no TLS"])
@on_both_loops
async def test_servers_that_are_not_trusted(fault: str, authority: trustme.CA, files: dict[str, str]) -> None:
    """Nothing of a request goes to the wrong server or in the clear."""
    more: dict[str, Any] = {"not_after": datetime(2020, 1, 1, tzinfo=UTC)} if fault == "expired" else {}
    context = server_context(authority, "127.0.0.1", **more)
    script, context_or_none = (answering_in_the_clear, None) if fault == "no TLS" else (silent, context)
    async with upstream(script, tls=context_or_none) as server:
        tls = TLS(
            ca=files["other" if fault == "unknown authority" else "ca"],
            server_name="elsewhere.example" if fault == "wrong name" else None,
        )
        pool = transport(f"https://127.0.0.1:{server.port}", tls=tls)
        error = await failing(pool, get(b"/secret"))
        assert (error.reason.name, error.reason.failure) == ("tls-failure", Failure.UNREACHABLE)
        assert (error.sent, error.answered) == (Sent.NOTHING, False)
        await pool.aclose()
        assert pool.open_connections == 0
    assert b"secret" not in b"".join(bytes(peer.received) for peer in server.peers)


@pytest.mark.parametrize("fault", ["no client certificate", "old version"])
@on_both_loops
async def test_servers_that_do_not_trust_us(fault: str, authority: trustme.CA, files: dict[str, str]) -> None:
    """What the server says in its alert is told, also if it comes only after our part of the handshake is over."""
    context = server_context(authority, "127.0.0.1", asks=fault == "no client certificate")
    if fault == "old version":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with refusing(context) as port:
        tls = TLS(ca=files["ca"], min_version="1.3" if fault == "old version" else "1.2")
        pool = transport(f"https://127.0.0.1:{port}", tls=tls)
        error = await failing(pool, get(method="POST"))
        assert (error.reason.name, error.answered) == ("tls-failure", False)
        assert "alert" in error.detail
        await pool.aclose()


@asynccontextmanager
async def refusing(context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of a server that refuses one client's handshake: in a thread, for asyncio's sends no alerts."""

    def serve() -> None:
        client, _ = listener.accept()
        with client, client.dup() as wire, suppress(OSError):
            with pytest.raises(ssl.SSLError), context.wrap_socket(client, server_side=True):
                pass
            while wire.recv(65536):  # else its end would be a reset, which may overtake the alert
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        yield listener.getsockname()[1]
        await serving


async def answering_in_the_clear(peer: Peer) -> None:
    await peer.reader.read(1)
    await peer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")


@on_both_loops
async def test_a_body_that_ends_with_its_tls_connection(authority: trustme.CA, files: dict[str, str]) -> None:
    """It is whole when the server has closed the connection, and cut when that was reset."""

    async def script(peer: Peer) -> None:
        head = await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        if b"/cut" in head:
            await gate.wait()
            peer.reset()

    gate = asyncio.Event()
    async with upstream(script, tls=server_context(authority, "127.0.0.1")) as server:
        pool = transport(f"https://127.0.0.1:{server.port}", tls=TLS(ca=files["ca"]))
        assert (await whole(pool, get()))[2] == b"all of it"
        answer = await pool.send(get(b"/cut"))
        assert await answer.read() == b"all of it"
        gate.set()
        with pytest.raises(UpstreamError, match="truncated"):
            await answer.read()
        await pool.aclose()


@on_both_loops
async def test_large_bodies_over_tls(authority: trustme.CA, files: dict[str, str]) -> None:
    """Both ways, in pieces, with the connection kept."""
    size = 3_000_000

    async def script(peer: Peer) -> None:
        while await peer.head():
            await peer.exactly(size)
            await peer.write(response(b"y" * size))

    async with upstream(script, tls=server_context(authority, "127.0.0.1")) as server:
        pool = transport(f"https://127.0.0.1:{server.port}", tls=TLS(ca=files["ca"]))
        for _ in range(2):
            request = get(method="PUT", body=pieces(*[b"x" * 100_000] * 30), length=size)
            assert (await whole(pool, request))[2] == b"y" * size
        await pool.aclose()
    assert len(server.peers) == 1


def test_an_encrypted_key_is_a_wrong_setting(tmp_path: Path, files: dict[str, str]) -> None:
    """Nobody is asked for its password on the terminal."""
    key = serialization.load_pem_private_key(Path(files["client"]).read_bytes(), None)
    kind = serialization.PrivateFormat.PKCS8
    hidden = key.private_bytes(serialization.Encoding.PEM, kind, serialization.BestAvailableEncryption(b"secret"))
    (tmp_path / "hidden.pem").write_bytes(hidden)
    with pytest.raises(SettingError, match="without a password"):
        transport("https://h", tls=TLS(certificate=files["client"], key=str(tmp_path / "hidden.pem")))
