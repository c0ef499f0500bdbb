"""The peers as running servers, each on the first core, and how each is started.

Knows: command lines. Must not know: what is sent to them, or what is measured.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import environments
from benchmarks.server import Server, serving, started

HERE = Path(__file__).parent
NODE_PROXY = HERE.with_name("node_proxy.mjs")


class Family(Server):
    """A server whose work is done by its child processes."""

    def cpu(self) -> float:
        children = Path(f"/proc/{self.process_id}/task/{self.process_id}/children").read_text().split()
        return super().cpu() + sum(Server(int(child), self.port).cpu() for child in children)


@contextmanager
def hapi_bassmaster() -> Iterator[Server]:
    """hapi and its batch plug-in."""
    with _node(HERE / "hapi_bassmaster.cjs") as server:
        yield server


@contextmanager
def express_batch_requests() -> Iterator[Server]:
    """express and its batch middleware."""
    with _node(HERE / "express_batch_requests.cjs") as server:
        yield server


@contextmanager
def _node(script: Path) -> Iterator[Server]:
    node = environments.program("node")
    environment = {"NODE_ENV": "production", "NODE_PATH": str(environments.node_modules())}
    with started([node, str(script)], environment) as server:
        yield server


@contextmanager
def node_proxy(upstream: int) -> Iterator[Server]:
    """The plain way to write it in Node, without any package."""
    with started([environments.program("node"), str(NODE_PROXY), str(upstream)]) as server:
        yield server


@contextmanager
def kinto() -> Iterator[Server]:
    """Kinto on waitress, as its documentation starts it."""
    with started([str(environments.python()), str(HERE / "kinto_served.py")]) as server:
        yield server


@contextmanager
def django_drf() -> Iterator[Server]:
    """Django on gunicorn: one worker, which keeps connections."""
    settings = ["--config", str(HERE / "gunicorn_settings.py"), "--chdir", str(HERE)]
    with started([str(environments.python()), "-m", "gunicorn", *settings, "django_site"]) as server:
        yield Family(server.process_id, server.port)


@contextmanager
def over_pyreqwest(upstream: int) -> Iterator[Server]:
    """The same batch core over pyreqwest."""
    path = os.pathsep.join(filter(None, [str(environments.pyreqwest()), os.environ.get("PYTHONPATH")]))
    environment = {"BENCHMARK_UPSTREAM": str(upstream), "PYTHONPATH": path}
    with serving("benchmarks.peers.apps:over_pyreqwest", environment) as server:
        yield server


@contextmanager
def over_aiohttp(upstream: int) -> Iterator[Server]:
    """The same batch core over aiohttp."""
    with serving("benchmarks.proxies:over_aiohttp", {"BENCHMARK_UPSTREAM": str(upstream)}) as server:
        yield server
