"""Several workers: one that dies is replaced, a reload reaches all or none, and the end is as orderly as with one."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import PATIENCE, Server, serve

from .load import load
from .test_reload_under_load import BAD, config, naming
from .whole import Whole, whole

SETTINGS = "server: {watch: false, workers: 2, drain_delay: 1s}\n"


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Server, Server]]:
    with serve(naming(b"first"), lifespan="off") as first, serve(naming(b"second"), lifespan="off") as second:
        yield first, second


def workers(running: Whole) -> list[dict[str, Any]]:
    found = running.asks_admin("GET", "/-/upstreams").json()["workers"]
    assert isinstance(found, list)
    return found


def test_a_reload_reaches_all_or_none(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """All workers change to the same generation, a bad file changes none, and no request fails."""
    first, second = upstreams
    with whole(tmp_path, SETTINGS + config(first)) as running, load(running.server) as ledger:
        ledger.waits_for(20, (200, b"first"))
        running.file.write_text(SETTINGS + BAD, "utf-8")
        assert running.asks_admin("POST", "/-/reload").status == 422
        assert [each["generation"] for each in workers(running)] == [1, 1]
        running.file.write_text(SETTINGS + config(second), "utf-8")
        assert running.asks_admin("POST", "/-/reload").status == 200
        assert [each["generation"] for each in workers(running)] == [2, 2]
        ledger.waits_for(20, (200, b"second"))
    assert set(ledger.answers) == {(200, b"first"), (200, b"second")}
    assert not ledger.faults


def test_a_worker_that_dies_is_replaced(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """Another one serves meanwhile, and the new one serves the generation of now."""
    first, second = upstreams
    with whole(tmp_path, SETTINGS + config(first)) as running:
        running.file.write_text(SETTINGS + config(second), "utf-8")
        assert running.asks_admin("POST", "/-/reload").status == 200
        victim, other = workers(running)
        os.kill(victim["pid"], signal.SIGKILL)
        assert running.ask("GET", "/").body == b"second"
        running.says("worker.replaced")
        replaced, same = workers(running)
        assert replaced["pid"] != victim["pid"]
        assert same["pid"] == other["pid"]
        assert [replaced["generation"], same["generation"]] == [2, 2]
        assert replaced["digest"] == same["digest"]


def test_the_end_is_orderly(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """SIGTERM to the parent ends all, no request fails that was sent before, and the exit code is 0."""
    settings = SETTINGS.replace("drain_delay: 1s", "drain_delay: 3s")  # each of the clients is to see the end of it
    with whole(tmp_path, settings + config(upstreams[0])) as running:
        pids = [each["pid"] for each in workers(running)]
        with load(running.server, until=lambda _: running.has_said("stopping")) as ledger:
            ledger.waits_for(50)
            running.signal(signal.SIGTERM)
            running.says("stopping")
            assert running.asks_admin("GET", "/readyz").status == 503
        assert running.ended() == 0
    assert not ledger.faults
    assert set(ledger.answers) == {(200, b"first")}
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_workers_do_not_outlive_their_parent(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """However the parent ends, its workers end."""
    with whole(tmp_path, SETTINGS + config(upstreams[0])) as running:
        lives = [os.pidfd_open(each["pid"]) for each in workers(running)]
        running.process.kill()
        running.ended()
    try:
        # A pidfd can be read from once its process has ended, reaped or not.
        for life in lives:
            assert select.select([life], [], [], PATIENCE)[0]
    finally:
        for life in lives:
            os.close(life)
