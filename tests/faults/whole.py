"""The whole process, started from a config file, and what it says.

Knows: where it says what it listens on. Must not know: what any test is about.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.serving import PATIENCE, Headers, Response, Server, ask

STARTED_BY = """
import resource, sys
from pathlib import Path
from batchproxy.server.collector import leave_alone_what_is_imported
leave_alone_what_is_imported()
from batchproxy.server.config import load
from batchproxy.server.life import serve
descriptors = int(sys.argv[2])
if descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
sys.exit(serve(lambda: load(Path(sys.argv[1]))))
"""


class Whole:
    """A running process. Its log is read as it comes, so that nothing it says can be missed or fill a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path) -> None:
        self.process = process
        self.file = file
        self.log: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self._said = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stderr, self.log), daemon=True),
            threading.Thread(target=self._read, args=(process.stdout, self.lines), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, into: list[dict[str, Any]]) -> None:
        for line in stream:
            try:
                record = json.loads(line)
            except ValueError:
                record = {"msg": line.decode("utf-8", "replace").rstrip("\n")}
            with self._said:
                into.append(record)
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def has_said(self, message: str) -> bool:
        """Whether the log has such a record."""
        return any(each["msg"] == message for each in [*self.log])

    def says(self, message: str, times: int = 1) -> dict[str, Any]:
        """Waits until the log has such a record so often; the last of them."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self.log if each["msg"] == message]

        with self._said:
            known = self._said.wait_for(lambda: len(found()) >= times or not self._readers[0].is_alive(), PATIENCE)
            assert known, f"no {message!r} in {self.log}"
            assert len(found()) >= times, f"no {message!r} in {self.log}"
            return found()[times - 1]

    def _where(self, message: str) -> Server:
        address = self.says(message)["detail"].split("://")[1].split(" ")[0]
        host, _, port = address.rpartition(":")
        return Server(host=host, port=int(port))

    @property
    def server(self) -> Server:
        return self._where("serving")

    @property
    def admin(self) -> Server:
        return self._where("admin")

    def ask(self, method: str, target: str, headers: Headers | None = None, body: bytes | None = None) -> Response:
        return ask(self.server, method, target, headers or (), body)

    def batch(self, *items: dict[str, Any], **options: Any) -> Any:
        """What came of each item."""
        document = {"requests": list(items), **({"options": options} if options else {})}
        response = self.ask("POST", "/batch", [("Content-Type", "application/json")], json.dumps(document).encode())
        assert response.status == 200, response
        return response.json()["responses"]

    def asks_admin(self, method: str, target: str) -> Response:
        return ask(self.admin, method, target, [("Host", "localhost")])

    @property
    def is_ready(self) -> bool:
        return self.asks_admin("GET", "/readyz").status == 200

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended_by(self, number: int) -> int:
        """The exit code after so many signals as it takes: those of one moment count as one."""
        while self.process.poll() is None:
            self.signal(number)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        return self.ended()

    def ended(self) -> int:
        """The exit code; all that it said has been read by then."""
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextmanager
def whole(
    folder: Path, config: str, *, descriptors: int = 0, variables: Mapping[str, str] | None = None
) -> Iterator[Whole]:
    """The process with this configuration, at free ports; ended with the block."""
    file = folder / "batchproxy.yaml"
    file.write_text(config, "utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BATCHPROXY_")},
        "BATCHPROXY_SERVER__LISTEN": "127.0.0.1:0",
        "BATCHPROXY_SERVER__ADMIN": "127.0.0.1:0",
        "BATCHPROXY_SERVER__LOG__FORMAT": "json",
        **(variables or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", STARTED_BY, str(file), str(descriptors)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )
    with process:
        running = Whole(process, file)
        try:
            running.says("serving")
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                running.ended()
            finally:
                process.kill()
