"""Signals that come before anything is served or twice, and the terminal that goes away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchproxy.server.config import load
from batchproxy.server.life import _Life
from tests.programs import ROOT
from tests.protocol import virtual_time
from tests.serving import PATIENCE

from .terminals import Session, session

CONFIG = """\
server: {listen: "127.0.0.1:0", admin: "off", watch: false, log: {format: json}}
upstreams: {api: {url: "http://127.0.0.1:9"}}
"""
# Stops the command where it looks for what it needs, until a line comes on standard input.
GATE = """\
import sys
class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            sys.meta_path.remove(self)
            print("gate", flush=True)
            sys.stdin.readline()
sys.meta_path.insert(0, Gate())
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "api.yaml"
    path.write_text(CONFIG, "utf-8")
    return path


@contextmanager
def started(folder: Path, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command, held up by `GATE`."""
    hooks = folder / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(GATE, "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "batchproxy", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{hooks}:{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "gate\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("verb", ["serve", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_comes_before_the_start(number: signal.Signals, verb: str, config: Path, tmp_path: Path) -> None:
    """What has begun nothing yet ends at once, in order, and without a word."""
    with started(tmp_path, "--quiet", verb, "-c", config) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_other_verbs_die_of_signals(number: signal.Signals, config: Path, tmp_path: Path) -> None:
    """So that shells end their loops, but without a traceback."""
    with started(tmp_path, "check", "-c", config) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (-number, "")


def test_the_end_comes_while_the_file_is_read(tmp_path: Path) -> None:
    """A file that does not come to its end holds up nobody who wants to leave."""
    pipe = tmp_path / "api.yaml"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "batchproxy", "serve", "-c", str(pipe)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT, text=True) as process, pipe.open("w"):
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, said) == (0, "")


def test_an_early_reload_comes_after_the_start(tmp_path: Path) -> None:
    """SIGHUP while the first file is read is no end; the file of then is read when all is up."""
    pipe, following = tmp_path / "api.yaml", tmp_path / "following"
    os.mkfifo(pipe)
    following.write_text(CONFIG + "routes: [{path: /later, upstream: api}]\n", "utf-8")
    command = [sys.executable, "-m", "batchproxy", "serve", "-c", str(pipe)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT, text=True) as process:
        try:
            with pipe.open("w") as first:
                process.send_signal(signal.SIGHUP)
                first.write(CONFIG)
                following.replace(pipe)
            assert process.stderr is not None
            said = iter(process.stderr.readline, "")
            assert next(line for line in said if '"serving"' in line)
            assert "generation=2" in next(line for line in said if '"config.reloaded"' in line)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


# The terminal


def serving(config: Path, *prefix: str) -> list[str | Path]:
    return [*prefix, sys.executable, "-m", "batchproxy", "serve", "-c", config]


def is_up(running: Session) -> None:
    running.until(rb'"serving"')


@pytest.mark.parametrize("prefix", [(), ("sh", "-c", '"$@"; true', "sh")], ids=["alone", "in a shell"])
def test_a_closed_terminal_is_the_end(prefix: tuple[str, ...], config: Path) -> None:
    """What runs in a window does not live on unseen, and keep its port."""
    with session(*serving(config, *prefix), piped=("stderr",)) as running:
        is_up(running)
        running.hang_up()
        code = running.end()
    assert b'"stopped"' in running.seen["stderr"], (code, running.seen)


def test_who_was_told_to_outlive_its_terminal_does(config: Path) -> None:
    """Under nohup, SIGHUP is a reload like any other."""
    with session(*serving(config, "nohup"), piped=("stderr", "stdout")) as running:
        is_up(running)
        running.hang_up()
        running.signal(signal.SIGHUP)
        running.until(rb'"config.unchanged"')
        running.signal(signal.SIGTERM)
        assert running.end() == 0


def test_on_a_terminal_a_hangup_is_a_reload(config: Path) -> None:
    """As long as the terminal is there."""
    with session(*serving(config), piped=("stderr",)) as running:
        is_up(running)
        running.signal(signal.SIGHUP)
        running.until(rb'"config.unchanged"')
        running.signal(signal.SIGTERM)
        assert running.end() == 0


# Twice


class _Fleet:
    """Processes that are only told to end."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_killed = False

    def kill(self) -> None:
        self.is_killed = True


def test_what_is_said_twice_within_a_moment_is_said_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timeout(1) tells the process and then its whole group: that is no reason to drop what runs; a later word is."""
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)

    async def live() -> None:
        loaded = load(config)
        fleet: Any = _Fleet()
        life = _Life(lambda: loaded, loaded, fleet, {})
        life._stop_asked(signal.SIGTERM)
        life._stop_asked(signal.SIGTERM)
        await asyncio.sleep(0.1)
        life._stop_asked(signal.SIGINT)
        assert (fleet.is_killed, exits) == (False, [])
        await asyncio.sleep(0.2)
        life._stop_asked(signal.SIGINT)
        assert (fleet.is_killed, exits) == (True, [1])

    virtual_time.run(live())
