"""What the items of jobs may ask of an upstream, of two workers together that share nothing but the store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.whole import Whole, whole
from tests.serving import serve

from .job_process import ended, eventually, submitted, working

MOST, RATE, BURST, EACH = 3, 10, 2, 2
"""In flight in all, items in a second, items at once, and what one worker may do by itself."""
REST = 6
CONFIG = """
server: {{watch: false}}
upstreams:
  places: {{url: "{url}"}}
  paced: {{url: "{url}"}}
  resting: {{url: "{url}"}}
routes:
  - {{upstream: places, path: /places}}
  - {{upstream: paced, path: /paced}}
  - {{upstream: resting, path: /resting}}
jobs:
  anonymous: true
  store: {{url: "sqlite:///{folder}/jobs.db"}}
  worker:
    embedded: false
    concurrency: {each}
    chunks: 1
    poll: 100ms
    limits:
      places: {{max_in_flight: {most}}}
      paced: {{rate: {rate}, burst: {burst}}}
      resting: {{rate: {rate}, burst: {burst}}}
"""


class Upstream:
    """Counts. Below `/places` it answers when it is told to; once below `/resting` it asks for a rest."""

    def __init__(self) -> None:
        self.in_flight = self.most_in_flight = 0
        self.came: list[float] = []
        self.asked_to_rest: float | None = None
        self.rest_at = 0
        self.open = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.came.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        status, headers = 200, [(b"content-length", b"0")]
        try:
            if scope["path"].startswith("/places"):
                while not self.open.is_set():
                    await asyncio.sleep(0.01)
                for _ in range(20):
                    await asyncio.sleep(0)
            if scope["path"].startswith("/resting") and len(self.came) == self.rest_at:
                self.asked_to_rest = self.came[-1]
                status, headers = 429, [*headers, (b"retry-after", b"%d" % REST)]
        finally:
            self.in_flight -= 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body"})


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def process(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """It takes jobs, and two others do them."""
    folder: Path = tmp_path_factory.mktemp("limits")
    with serve(upstream, access_log=False, lifespan="off") as server:
        text = CONFIG.format(url=server.url, folder=folder, each=EACH, most=MOST, rate=RATE, burst=BURST)
        with whole(folder, text) as running, working("-c", running.file), working("-c", running.file):
            try:
                yield running
            finally:
                upstream.open.set()


def test_there_are_never_more_in_flight_than_all_may_have(process: Whole, upstream: Upstream) -> None:
    """As many as are allowed, which neither of the two could do alone; and no more until all is done."""
    job = submitted(process, [f"/places/{number}" for number in range(240)])
    eventually(lambda: upstream.in_flight, MOST.__eq__)
    upstream.open.set()
    assert ended(process, job)["counts"]["completed"] == 240
    assert upstream.most_in_flight == MOST > EACH
    assert len(upstream.came) == 240


def test_a_rate_is_that_of_all(process: Whole, upstream: Upstream) -> None:
    """Many items take as long as the rate lets them; two rates would be through in half of the time."""
    upstream.came.clear()
    number = 120
    began = time.monotonic()
    job = submitted(process, [f"/paced/{number}" for number in range(number)])
    eventually(lambda: len(upstream.came) >= 3 * RATE, bool)
    process.ask("POST", f"{job}/cancel")
    assert ended(process, job)["counts"]["failed"] == 0
    came = upstream.came[: 3 * RATE]
    # What comes at first, and in a block that a worker has taken, is not spread.
    assert came[-1] - began >= (len(came) - 2 * BURST - 2 * EACH) / RATE * 0.75


def test_a_rest_that_one_is_asked_for_is_kept_by_both(process: Whole, upstream: Upstream) -> None:
    """Soon nothing comes any more, until it is over; then it goes on. What was refused is no failure."""
    upstream.came.clear()
    upstream.rest_at = 20
    job = submitted(process, [f"/resting/{number}" for number in range(600)])
    asked = eventually(lambda: upstream.asked_to_rest, bool)
    eventually(lambda: upstream.came[-1], lambda last: last > asked + REST * 0.95)
    process.ask("POST", f"{job}/cancel")
    assert ended(process, job)["counts"]["failed"] == 0
    # The other one learns of it when it asks the store the next time, about a second later at most.
    assert [came - asked for came in upstream.came if asked + REST / 2 < came < asked + REST * 0.95] == []
