"""A new configuration while requests run: not one fails, and each is answered by one generation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Server, serve

from .load import load
from .whole import Whole, whole


def naming(name: bytes) -> Callable[..., Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(name))]})
        await send({"type": "http.response.body", "body": name})

    return app


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Server, Server]]:
    with serve(naming(b"first"), lifespan="off") as first, serve(naming(b"second"), lifespan="off") as second:
        yield first, second


def config(upstream: Server) -> str:
    return f"upstreams: {{api: {{url: '{upstream.url}'}}}}\n"


BAD = "upstreams: {api: {url: 'http://127.0.0.1:9', timeot: 5s}}\n"


def by_rename(file: Path, text: str) -> None:
    following = file.with_suffix(".new")
    following.write_text(text, "utf-8")
    following.replace(file)


def in_place(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")


def by_link(file: Path, text: str) -> None:
    """As Kubernetes does with a ConfigMap: the file is a link through a link to a folder, and that link is swapped."""
    folder = file.parent
    data = folder / f"..{len(list(folder.iterdir()))}"
    data.mkdir()
    (data / file.name).write_text(text, "utf-8")
    (folder / "..data_tmp").symlink_to(data.name)
    os.replace(folder / "..data_tmp", folder / "..data")
    if not file.is_symlink():
        file.unlink()
        file.symlink_to(Path("..data") / file.name)


WAYS = [by_rename, in_place, by_link]


@pytest.mark.parametrize("change", WAYS)
def test_a_changed_file_is_taken_up_by_itself(
    change: Callable[[Path, str], None], upstreams: tuple[Server, Server], tmp_path: Path
) -> None:
    """However the file is replaced, the new content counts, and no request fails meanwhile."""
    first, second = upstreams
    with whole(tmp_path, config(first)) as running, load(running.server) as ledger:
        ledger.waits_for(20, (200, b"first"))
        change(running.file, config(second))
        ledger.waits_for(20, (200, b"second"))
        change(running.file, config(first))
        running.says("config.reloaded", 2)
        ledger.waits_for(20, (200, b"first"))
    assert set(ledger.answers) == {(200, b"first"), (200, b"second")}
    assert not ledger.faults


def test_a_bad_file_changes_nothing_and_says_why(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """The last good configuration goes on, the error is logged with its place, and readiness warns until it is gone."""
    first, second = upstreams
    with whole(tmp_path, "server: {watch: false}\n" + config(first)) as running, load(running.server) as ledger:
        ledger.waits_for(20)
        running.file.write_text("server: {watch: false}\n" + BAD, "utf-8")
        running.signal(signal.SIGHUP)
        refused = running.says("config.refused")
        assert "batchproxy.yaml:2:" in refused["detail"]
        assert "timeot" in refused["detail"]
        ledger.waits_for(20, (200, b"first"))
        assert running.asks_admin("GET", "/readyz").json()["status"] == "warn"
        running.file.write_text("server: {watch: false}\n" + config(second), "utf-8")
        running.signal(signal.SIGHUP)
        running.says("config.reloaded")
        ledger.waits_for(20, (200, b"second"))
        assert running.asks_admin("GET", "/readyz").json()["status"] == "pass"
    assert set(ledger.answers) == {(200, b"first"), (200, b"second")}
    assert not ledger.faults


def test_many_reloads_leave_nothing_behind(upstreams: tuple[Server, Server], tmp_path: Path) -> None:
    """Generations that have come to their end hold no connection to their upstreams."""
    texts = ["server: {watch: false}\n" + config(each) for each in upstreams]
    with whole(tmp_path, texts[0]) as running:
        with load(running.server) as ledger:
            for number in range(12):
                running.file.write_text(texts[(number + 1) % 2], "utf-8")
                assert running.asks_admin("POST", "/-/reload").json()["generation"] == number + 2
                ledger.waits_for(4)
        assert not ledger.faults
        assert _settled(running)["retiring"] == []
        # Listeners, the loop's own, one connection upstream for each client, and those of the two views.
        assert running.descriptors < 40


def _settled(running: Whole) -> Any:
    while True:
        (worker,) = running.asks_admin("GET", "/-/upstreams").json()["workers"]
        if not worker["retiring"]:
            return worker
