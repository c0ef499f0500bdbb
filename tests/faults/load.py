"""Clients that ask again and again until they are told to stop, and keep a ledger of what became of each request."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.serving import PATIENCE, Response, Server, ask


class Ledger:
    """What became of the requests; `faults` must be empty where none may fail."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[int, bytes]] = Counter()
        self.faults: list[str] = []
        self._counted = threading.Condition()

    def answered(self, response: Response) -> None:
        with self._counted:
            self.answers[response.status, response.body] += 1
            self._counted.notify_all()

    def failed(self, fault: Exception) -> None:
        with self._counted:
            self.faults.append(repr(fault))
            self._counted.notify_all()

    def waits_for(self, more: int, of: tuple[int, bytes] | None = None) -> None:
        """Until so many more answers came, of this kind if one is given."""

        def count() -> int:
            return self.answers.total() if of is None else self.answers[of]

        with self._counted:
            goal = count() + more
            assert self._counted.wait_for(lambda: count() >= goal or self.faults, PATIENCE), self.answers
            assert not self.faults, self.faults


@contextmanager
def load(
    server: Server, *, clients: int = 4, target: str = "/", until: Callable[[Response], bool] = lambda _: False
) -> Iterator[Ledger]:
    """Each client sends one request after another, each over its own connection, until the block ends or an answer is
    one that it stops at."""
    ledger = Ledger()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                response = ask(server, "GET", target)
            except Exception as fault:
                ledger.failed(fault)
                return
            ledger.answered(response)
            if until(response):
                return

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
