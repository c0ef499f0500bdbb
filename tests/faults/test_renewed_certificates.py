"""Files of an upstream's TLS that are replaced while the process runs: the authority to trust, and who we are."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, response, upstream
from tests.serving import PATIENCE

from .beside import beside
from .whole import Whole


class Issued:
    """An authority, and what it issued to the server and to us."""

    def __init__(self, name: str) -> None:
        self.authority = trustme.CA(organization_name=name)
        self.server = self.authority.issue_cert("127.0.0.1")
        self.ours = self.authority.issue_cert(f"{name}.test")

    def write_to(self, folder: Path) -> None:
        """As a tool that renews them does: each file is replaced by another."""
        for name, blobs in (
            ("ca.pem", [self.authority.cert_pem]),
            ("cert.pem", self.ours.cert_chain_pems),
            ("key.pem", [self.ours.private_key_pem]),
        ):
            following = folder / f"{name}.new"
            following.write_bytes(b"".join(blob.bytes() for blob in blobs))
            following.replace(folder / name)


class Secured:
    """An upstream that wants to know who asks, by whichever authority; a request for `/held` waits to be released."""

    def __init__(self, *known: Issued) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.verify_mode = ssl.CERT_REQUIRED
        for each in known:
            each.authority.configure_trust(self.context)
        self.shows(known[0])
        self.url = ""
        self.held = asyncio.Event()
        self.released = asyncio.Event()

    def shows(self, issued: Issued) -> None:
        """In handshakes from now on."""
        issued.server.configure_cert(self.context)

    async def script(self, peer: Peer) -> None:
        """Each answer says whose certificate the request came with, and how many came over this connection."""
        shown: Any = peer.writer.get_extra_info("peercert")
        count = 0
        while head := await peer.request():
            if b"/held" in head:
                self.held.set()
                await self.released.wait()
            count += 1
            await peer.write(response(f"{shown['subjectAltName'][0][1]} {count}".encode()))


@pytest.fixture
def old() -> Issued:
    return Issued("old")


@pytest.fixture
def new() -> Issued:
    return Issued("new")


@asynccontextmanager
async def secured(
    folder: Path, old: Issued, new: Issued, *, watch: bool = False
) -> AsyncIterator[tuple[Secured, Whole]]:
    """The upstream and the process, at work with the old files."""
    files = folder / "tls"
    files.mkdir()
    old.write_to(files)
    secured = Secured(old, new)
    async with upstream(secured.script, tls=secured.context) as behind:
        tls = "tls: {ca: tls/ca.pem, certificate: tls/cert.pem, key: tls/key.pem}"
        settings = f"{{url: 'https://127.0.0.1:{behind.port}', retry: {{attempts: 0}}, {tls}}}"
        text = f"server: {{watch: {str(watch).lower()}}}\nupstreams: {{api: {settings}}}\n"
        async with beside(folder, text) as running:
            yield secured, running


async def asked(running: Whole, target: str = "/") -> tuple[int, bytes]:
    answer = await asyncio.to_thread(running.ask, "GET", target)
    return answer.status, answer.body if answer.status == 200 else b""


def _reload(running: Whole) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batchproxy", "reload", "--admin", f"127.0.0.1:{running.admin.port}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")},
    )


@pytest.mark.parametrize("by", ["signal", "command", "watch"])
@on_a_loop
async def test_renewed_files_are_used(by: str, old: Issued, new: Issued, tmp_path: Path) -> None:
    """Connections that are opened after the reload prove and trust by the new files; a request that runs ends well."""
    async with secured(tmp_path, old, new, watch=by == "watch") as (behind, running):
        assert await asked(running) == (200, b"old.test 1")
        held = asyncio.create_task(asked(running, "/held"))
        await behind.held.wait()
        new.write_to(tmp_path / "tls")
        behind.shows(new)
        if by == "signal":
            running.signal(signal.SIGHUP)
        elif by == "command":
            assert (await asyncio.to_thread(_reload, running)).returncode == 0
        await asyncio.to_thread(running.says, "config.reloaded")
        # A watch may have seen only some of the files replaced yet, and sees the others soon.
        while by == "watch" and not (await asked(running))[1].startswith(b"new.test"):
            await asyncio.sleep(0.05)
        assert (await asked(running))[1].startswith(b"new.test")
        behind.released.set()
        assert await held == (200, b"old.test 2")
        assert (await asked(running))[1].startswith(b"new.test")


@on_a_loop
async def test_without_a_reload_nothing_changes(old: Issued, new: Issued, tmp_path: Path) -> None:
    """Files are read when the upstream is made: replaced ones wait, for new connections as well as for kept ones."""
    async with secured(tmp_path, old, new) as (behind, running):
        assert await asked(running) == (200, b"old.test 1")
        new.write_to(tmp_path / "tls")
        # The first goes over the connection that is kept, the second needs another while the first is held.
        held = asyncio.create_task(asked(running, "/held"))
        await behind.held.wait()
        assert await asked(running) == (200, b"old.test 1")
        behind.released.set()
        assert await held == (200, b"old.test 2")


def _garbage(files: Path, _new: Issued) -> None:
    (files / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")


def _of_another(files: Path, new: Issued) -> None:
    """The certificate is there already, and its key not yet."""
    (files / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in new.ours.cert_chain_pems))


def _missing(files: Path, _new: Issued) -> None:
    (files / "key.pem").unlink()


def _empty(files: Path, _new: Issued) -> None:
    (files / "ca.pem").write_bytes(b"")


FAULTS = {_garbage: "cert.pem", _of_another: "cert.pem", _missing: "key.pem", _empty: "ca.pem"}


@pytest.mark.parametrize("spoil", FAULTS)
@on_a_loop
async def test_wrong_files_are_refused(spoil: Any, old: Issued, new: Issued, tmp_path: Path) -> None:
    """The reload says which setting and file is wrong; what was at work stays, kept connections and new ones."""
    async with secured(tmp_path, old, new) as (behind, running):
        assert await asked(running) == (200, b"old.test 1")
        spoil(tmp_path / "tls", new)
        verdict = await asyncio.to_thread(_reload, running)
        assert verdict.returncode == 78, verdict
        assert FAULTS[spoil] in verdict.stderr
        assert "batchproxy.yaml:2:" in verdict.stderr
        assert running.says("config.refused")
        held = asyncio.create_task(asked(running, "/held"))
        await behind.held.wait()
        assert await asked(running) == (200, b"old.test 1")
        behind.released.set()
        assert await held == (200, b"old.test 2")
        # When they are right again, nothing is left of it.
        new.write_to(tmp_path / "tls")
        behind.shows(new)
        assert (await asyncio.to_thread(_reload, running)).returncode == 0
        assert await asked(running) == (200, b"new.test 1")
