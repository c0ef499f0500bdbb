"""What an operator or a neighbour can do to the process, and what must not come of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import upstream
from tests.serving import PATIENCE, ask

from .whole import Whole, whole

PLAIN = "server: {{watch: false, workers: {workers}}}\nupstreams: {{api: {{url: '{url}'}}}}\n"
RAISING = "def factory():\n    raise RuntimeError('no transport today')\n"


async def with_a_process(folder: Path, workers: int, check: Callable[[Whole, str], None]) -> None:
    async with upstream() as behind:

        def run() -> None:
            config = PLAIN.format(workers=workers, url=behind.url)
            with whole(folder, config, variables={"PYTHONPATH": str(folder)}) as running:
                check(running, behind.url)

        await asyncio.to_thread(run)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_transport_that_cannot_be_made_changes_nothing(tmp_path: Path, workers: int) -> None:
    """A configuration whose code raises is refused as a whole; the last one goes on, and so do reloads."""
    (tmp_path / "raising.py").write_text(RAISING)

    @on_a_loop
    async def run() -> None:
        def check(running: Whole, url: str) -> None:
            good = running.file.read_text()
            running.file.write_text(good.replace(f"'{url}'", f"'{url}', transport: 'raising:factory'"))
            answer = running.asks_admin("POST", "/-/reload")
            assert answer.status == 422
            assert "no transport today" in answer.json()["errors"][0]
            assert running.ask("GET", "/").status == 200
            running.file.write_text(good + "endpoints: [{path: /other}]\n")
            assert running.asks_admin("POST", "/-/reload").json()["changed"] is True
            assert running.ask("GET", "/").status == 200

        await with_a_process(tmp_path, workers, check)

    run()


@on_a_loop
async def test_a_worker_listener_closes_with_the_stop(tmp_path: Path) -> None:
    """While workers finish what runs, nobody takes connections that would never be answered."""
    ready, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(peer: object) -> None:
        from tests.proxy.scripted import Peer, response

        assert isinstance(peer, Peer)
        await peer.request()
        ready.set()
        await go.wait()
        await peer.write(response())

    async with upstream(slow) as behind:

        def run() -> None:
            with whole(tmp_path, PLAIN.format(workers=2, url=behind.url)) as running:
                server = running.server
                asking = socket.create_connection((server.host, server.port), timeout=PATIENCE)
                asking.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                asyncio.run_coroutine_threadsafe(ready.wait(), loop).result(PATIENCE)
                running.signal(signal.SIGTERM)
                running.says("stopping")
                while True:
                    try:
                        socket.create_connection((server.host, server.port), timeout=PATIENCE).close()
                    except ConnectionRefusedError:
                        break
                    except ConnectionResetError:
                        continue  # it was in the queue when that was closed
                assert running.asks_admin("POST", "/-/reload").status == 422
                loop.call_soon_threadsafe(go.set)
                with asking, asking.makefile("rb") as answer:
                    assert answer.readline().startswith(b"HTTP/1.1 200 ")
                assert running.ended() == 0

        await asyncio.to_thread(run)


@on_a_loop
async def test_pages_and_names_at_the_admin_listener(tmp_path: Path) -> None:
    """A page in a browser cannot reload; every address of loopback is a name of ours."""

    def check(running: Whole, url: str) -> None:
        for header in (("Origin", "https://evil.test"), ("Sec-Fetch-Site", "cross-site")):
            headers = [("Host", "127.0.0.1"), header]
            assert ask(running.admin, "POST", "/-/reload", headers).status == 403
        assert ask(running.admin, "GET", "/-/config", [("Host", "127.0.0.2:9")]).status == 200
        assert ask(running.admin, "GET", "/-/config", [("Host", "evil.test")]).status == 403

    await with_a_process(tmp_path, 1, check)


def started(folder: Path, *arguments: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "batchproxy", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    environment |= {str(name): str(value) for name, value in more.items()}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE, check=False)


def test_a_file_is_never_taken_for_an_old_socket(tmp_path: Path) -> None:
    """A name that is a file's is refused as a place to listen at, and the file stays."""
    (tmp_path / "precious").write_text("data")
    done = started(
        tmp_path, "serve", "--upstream", "http://127.0.0.1:9", "--admin", "off", "--listen", f"unix:{tmp_path}/precious"
    )
    assert done.returncode == 1
    assert (tmp_path / "precious").read_text() == "data"


def test_files_of_the_folder_are_no_parts_of_ours(tmp_path: Path) -> None:
    """What lies in the current folder under the name of a library is not run."""
    for name in ("rich", "httpx", "msgspec", "uvicorn"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(99)")
    (tmp_path / "batch.json").write_text(json.dumps([{"path": "/a"}]))
    command = [str(Path(sys.executable).with_name("batchproxy"))]
    done = subprocess.run(
        [*command, "send", "batch.json", "--url", "http://127.0.0.1:9/batch"],
        cwd=tmp_path,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 5


def test_variables_of_verbs_do_not_disturb_others(tmp_path: Path) -> None:
    """A variable that one verb reads is no unknown key to the others."""
    (tmp_path / "a.yaml").write_text("upstreams: {a: {url: 'http://127.0.0.1:9'}}\n")
    for name in ("BATCHPROXY_URL", "BATCHPROXY_TOKEN", "BATCHPROXY_ADMIN"):
        assert started(tmp_path, "check", "-c", "a.yaml", **{name: "x"}).returncode == 0


def test_secrets_from_variables_are_masked(tmp_path: Path) -> None:
    """What came from a variable whose name says that it is secret is not printed."""
    (tmp_path / "a.yaml").write_text(
        "upstreams: {a: {url: 'http://127.0.0.1:9'}}\n"
        "routes: [{path: /, upstream: a, add_headers: {X-Partner: '${PARTNER_SECRET}'}}]\n"
    )
    done = started(tmp_path, "check", "-c", "a.yaml", "--print", PARTNER_SECRET="hush")
    assert done.returncode == 0
    assert b"hush" not in done.stdout + done.stderr
