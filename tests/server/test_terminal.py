"""The command line on a real terminal: forms, colours, widths, and the keys that end it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, response, upstream
from tests.serving import PATIENCE, Server, ask, serve

from .terminals import CTRL_C, Session, session as on_terminal

CONFIG = """\
server: {listen: "127.0.0.1:0", admin: "off", watch: false}
upstreams:
  api: {url: "http://127.0.0.1:9"}
  another-one-of-some-length: {url: "http://a-host-with-a-long-name.internal.example:8080/and/a/prefix"}
routes:
  - {path: /users/with/a/path/that/is/longer/than/others, upstream: another-one-of-some-length, methods: [GET, POST]}
  - {path: /, upstream: api}
"""
WITHOUT_COLOURS: tuple[Mapping[str, str], ...] = ({"NO_COLOR": "1"}, {"TERM": "dumb"})


@contextmanager
def session(*arguments: str | Path, **options: Any) -> Iterator[Session]:
    """The command line on a terminal."""
    with on_terminal(sys.executable, "-m", "batchproxy", *arguments, **options) as running:
        yield running


def run(*arguments: str | Path, **options: Any) -> tuple[int, Session]:
    """To the end, without a key."""
    with session(*arguments, **options) as running:
        return running.end(), running


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "api.yaml"
    path.write_text(CONFIG, "utf-8")
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.yaml"
    path.write_text("upstream: {}\n", "utf-8")
    return path


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    path = tmp_path / "batch.json"
    items = [{"path": "/fine"}, {"path": "/fails"}, {"path": "/" + "long/" * 30}]
    path.write_text(json.dumps(items), "utf-8")
    return path


class Batches:
    """An app; it tells when `/slow` has begun, and when that was cancelled."""

    def __init__(self) -> None:
        self.has_begun, self.was_cancelled = threading.Event(), threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["path"] == "/slow":
            self.has_begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
        await send({"type": "http.response.start", "status": 500 if scope["path"] == "/fails" else 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serve(BatchMiddleware(Batches())) as server:
        yield f"{server.url}/batch"


# Forms


def served(config: Path, **options: Any) -> Session:
    """A whole life of the process, with one request in it, which finds no upstream."""
    flags = options.pop("flags", ())
    with session(*flags, "serve", "-c", config, **options) as running:
        port = running.until(rb"running on http://127\.0\.0\.1:(\d+)")[1]
        assert ask(Server(host="127.0.0.1", port=int(port)), "GET", "/x").status == 502
        running.until(rb"/x")
        running.type(CTRL_C)
        assert running.end() == 0
    return running


@pytest.mark.parametrize("piped", [(), ("stdout",), ("stderr",), ("stdout", "stderr")])
def test_each_log_has_the_form_that_fits_its_stream(piped: tuple[str, ...], config: Path) -> None:
    """Text for people on a terminal, JSON elsewhere, for the access log and for the events each by itself; Ctrl-C ends
    it in good order."""
    running = served(config, piped=piped)
    access, events = ([json.loads(line) for line in running.seen[name].splitlines()] for name in ("stdout", "stderr"))
    assert all(line["http.response.status_code"] == 502 for line in access)
    assert [line["msg"] for line in events[-1:]] == ["stopped"] * ("stderr" in piped)
    assert len(access) == ("stdout" in piped)
    assert ("GET /x" in running.terminal) == ("stdout" not in piped)
    assert ("info    stopped\n" in running.terminal) == ("stderr" not in piped)
    assert "{" not in running.terminal
    assert b"Traceback" not in running.everything


# Colours


def on_a_terminal(config: Path, wrong: Path, batch: Path, endpoint: str, **options: Any) -> dict[str, str]:
    """What each command puts on the screen."""
    flags = options.get("flags", ())
    commands: dict[str, tuple[str | Path, ...]] = {
        "check": ("check", "-c", wrong),
        "send": ("send", batch, "--url", endpoint),
        "routes": ("routes", "-c", config),
        "help": ("--help",),
    }
    more = {name: value for name, value in options.items() if name != "flags"}
    with ThreadPoolExecutor(2) as pool:
        runs = {name: pool.submit(run, *flags, *words, **more) for name, words in commands.items()}
        life = pool.submit(served, config, **options)
        return {name: each.result()[1].terminal for name, each in runs.items()} | {"serve": life.result().terminal}


def test_colours_are_for_terminals(config: Path, wrong: Path, batch: Path, endpoint: str) -> None:
    """Statuses are coloured on a terminal; nothing is where the output goes elsewhere, whatever a variable says."""
    seen = on_a_terminal(config, wrong, batch, endpoint)
    assert "\x1b[32m   200\x1b[0m" in seen["send"]
    assert "\x1b[31m   500\x1b[0m" in seen["send"]
    assert "\x1b[31m502\x1b[0m" in seen["serve"]
    assert "\x1b[1m" in seen["routes"]
    for words in (("routes", "-c", config), ("send", batch, "--url", endpoint), ("--help",)):
        _, running = run(*words, piped=("stdout",), variables={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
        assert running.seen["stdout"]
        assert b"\x1b" not in running.everything


@pytest.mark.parametrize(
    "options",
    [*({"variables": each} for each in WITHOUT_COLOURS), {"flags": ("--no-color",)}],
    ids=["NO_COLOR", "TERM=dumb", "--no-color"],
)
def test_nobody_gets_colours_who_wants_none(
    options: dict[str, Any], config: Path, wrong: Path, batch: Path, endpoint: str
) -> None:
    """Neither tables, nor logs, nor help, nor errors have any."""
    for name, screen in on_a_terminal(config, wrong, batch, endpoint, **options).items():
        assert screen, name
        assert "\x1b" not in screen, name


# Widths


@pytest.mark.parametrize("kind", ["xterm-256color", "dumb"])
@pytest.mark.parametrize("columns", [50, 80, 300])
def test_tables_are_as_wide_as_the_terminal(columns: int, kind: str, config: Path, batch: Path, endpoint: str) -> None:
    """No line is longer than the screen, nothing is left out, and where there is room nothing is folded."""
    for words, whole in (
        (("routes", "-c", config), ["/users/with/a/path/that/is/longer/than/others", "another-one-of-some-length"]),
        (("send", batch, "--url", endpoint), ["/" + "long/" * 30, "/fails"]),
    ):
        _, running = run(*words, columns=columns, variables={"TERM": kind})
        lines = re.sub(r"\x1b\[[0-9;]*m", "", running.terminal).split("\n")
        assert max(map(len, lines)) <= columns
        for shown in whole:
            at = next(index for index, line in enumerate(lines) if shown[:4] in line)
            column = lines[at].index(shown[:4])
            unfolded = "".join(line[column:].split(" ")[0] for line in lines[at:])
            assert unfolded.startswith(shown)
            assert shown in lines[at] or columns < 300


# Streams


@pytest.mark.parametrize("piped", ["stdout", "stderr"])
def test_data_goes_to_stdout_and_talk_to_stderr(piped: str, config: Path, batch: Path, endpoint: str) -> None:
    """With one of the two in a pipe, the other alone is on the screen."""
    for words, data, talk in (
        (("check", "-c", config, "--print"), b"upstreams:", b"ok: 2 upstreams, 2 routes, 1 endpoint"),
        (("send", batch, "--url", endpoint), b"/fails", b"3 items, 2 succeeded, 1 failed"),
        (("send", batch, "--url", endpoint, "--stream"), b"/fails", b"3 items, 2 succeeded, 1 failed"),
        (("routes", "-c", config), b"/users", b""),
        (("routes", "-c", config, "--match", "GET"), b"", b"--match GET: expected"),
        (("--help",), b"Usage: batchproxy", b""),
        (("nonsense",), b"", b"No such command"),
    ):
        _, running = run(*words, piped=(piped,))
        in_pipe, on_screen = running.seen[piped], running.seen["terminal"]
        out, err = (in_pipe, on_screen) if piped == "stdout" else (on_screen, in_pipe)
        assert (data in out, talk in err) == (True, True)
        assert (bool(out), bool(err)) == (bool(data), bool(talk))


# Ctrl-C


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_serve_gracefully(workers: int, config: Path) -> None:
    """What runs is answered, the exit code is 0, and nothing is said of exceptions, by no process of the group."""

    @on_a_loop
    async def live() -> None:
        may_answer, has_come = asyncio.Event(), asyncio.Event()

        async def slow(peer: Peer) -> None:
            await peer.request()
            has_come.set()
            await may_answer.wait()
            await peer.write(response(b"late"))

        async with upstream(slow) as behind:
            more = ("--upstream", f"api={behind.url}", "--workers", str(workers))
            with session("serve", "-c", config, *more) as running:
                port = (await asyncio.to_thread(running.until, rb"running on http://127\.0\.0\.1:(\d+)"))[1]
                server = Server(host="127.0.0.1", port=int(port))
                asking = asyncio.create_task(asyncio.to_thread(ask, server, "GET", "/x"))
                await asyncio.wait_for(has_come.wait(), PATIENCE)
                running.type(CTRL_C)
                await asyncio.to_thread(running.until, rb"stopping: ")
                may_answer.set()
                assert (await asking).body == b"late"
                assert await asyncio.to_thread(running.end) == 0
            assert "Traceback" not in running.terminal
            assert running.terminal.endswith("info    stopped\n")

    live()


def test_ctrl_c_twice_ends_serve_at_once(config: Path) -> None:
    """A second time, but for the same moment, what runs is not waited for: the exit code is 1."""

    @on_a_loop
    async def live() -> None:
        has_come = asyncio.Event()

        async def silent(peer: Peer) -> None:
            await peer.request()
            has_come.set()
            await peer.rest()

        async with upstream(silent) as behind:
            with session("serve", "-c", config, "--upstream", f"api={behind.url}") as running:
                port = (await asyncio.to_thread(running.until, rb"running on http://127\.0\.0\.1:(\d+)"))[1]
                reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
                writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
                await asyncio.wait_for(has_come.wait(), PATIENCE)
                running.type(CTRL_C)
                await asyncio.to_thread(running.until, rb"stopping: ")
                assert await asyncio.to_thread(running.end_by, CTRL_C) == 1
                assert await reader.read() == b""
                writer.close()
            assert "Traceback" not in running.terminal

    live()


@pytest.mark.parametrize("options", [("--stream",), ("--stream", "--json"), ()])
def test_ctrl_c_ends_send(options: tuple[str, ...], tmp_path: Path) -> None:
    """What has come stays on the screen, the server hears that nobody waits, and shells see that it was interrupted."""
    file = tmp_path / "batch.json"
    file.write_text('[{"path": "/fine"}, {"path": "/slow"}]', "utf-8")
    app = Batches()
    with (
        serve(BatchMiddleware(app, item_timeout=600, batch_timeout=600)) as server,
        session("send", file, "--url", f"{server.url}/batch", *options) as running,
    ):
        assert app.has_begun.wait(PATIENCE)
        if options:
            running.until(rb'"index":0' if "--json" in options else rb"/fine")
        running.type(CTRL_C)
        assert running.end() == -signal.SIGINT
        assert app.was_cancelled.wait(PATIENCE)
    assert running.terminal.count("\n") == bool(options)
    assert running.terminal.endswith("^C")
