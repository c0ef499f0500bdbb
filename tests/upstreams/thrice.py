"""The proxy in front of a server that nobody here wrote, and each request sent three times: directly to the server,
alone through the proxy, and in a batch through the proxy. Tells how the answers differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from batchproxy.engine.routing import Route, RouteTable
from batchproxy.middleware import BatchMiddleware
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.settings import Upstream
from tests.equivalence.comparing import MAY_DIFFER, WAYS, Case, Way, alone, compared, in_batch
from tests.programs import batchproxy
from tests.serving import Headers, Response, Server, serve

# Headers between two neighbours, which a proxy does not pass on.
BETWEEN_NEIGHBOURS = {"keep-alive", "trailer", "upgrade"}

# The port is another one behind the proxy.
ORIGIN = (r"127\.0\.0\.1:[0-9]+", "origin")


@contextmanager
def in_front_of(upstream: Server, **settings: Any) -> Iterator[Server]:
    """The reverse proxy as an app of uvicorn."""
    proxy = ReverseProxy(RouteTable([Route(path="/", upstream="it")]), {"it": Upstream(url=upstream.url, **settings)})
    app = BatchMiddleware(proxy, path="/batch", max_items=1000)
    with serve(app, loop="uvloop", proxy_headers=False, server_header=False, date_header=False) as server:
        yield server


CONFIG = """
upstreams:
  it:
    url: {url}
endpoints:
  - path: /batch
    max_items: 1000
"""


@contextmanager
def process_in_front_of(upstream: Server) -> Iterator[Server]:
    """The whole process, from a config file."""
    with TemporaryDirectory() as folder, batchproxy(CONFIG.format(url=upstream.url), Path(folder)) as server:
        yield server


FRONTS = {"app": in_front_of, "process": process_in_front_of}


def differences(upstream: Server, proxy: Server, cases: Sequence[Case], *, ways: Iterable[Way] = WAYS) -> list[str]:
    cases = [replace(case, masks=(*case.masks, ORIGIN)) for case in cases]
    direct = [alone(upstream, case) for case in cases]
    found = [
        f"{case.name}: status: {answer.status} directly, the table says {case.status}: {answer.body[:300]!r}"
        for case, answer in zip(cases, direct, strict=True)
        if case.status not in (None, answer.status)
    ]
    for case, answer in zip(cases, direct, strict=True):
        found += [f"{case.name}: {line}" for line in _differences(case, answer, alone(proxy, case))]
    for way in ways:
        entries = in_batch(proxy, way, cases)
        for case, answer, entry in zip(cases, direct, entries, strict=True):
            answer = replace(answer, headers=_end_to_end(answer))
            found += [f"{case.name}: {way.name}: {line}" for line in compared(case, way, answer, entry)]
    return found


def _differences(case: Case, direct: Response, proxied: Response) -> Iterator[str]:
    if direct.status != proxied.status:
        yield f"status: {direct.status} directly, {proxied.status} through the proxy: {proxied.body[:300]!r}"
    one, other = _comparable(case, direct), _comparable(case, proxied)
    if one != other:
        yield f"headers: {one} directly, {other} through the proxy"
    if _masked(case, direct.body) != _masked(case, proxied.body):
        yield f"body: {direct.body[:300]!r} directly, {proxied.body[:300]!r} through the proxy"


def _comparable(case: Case, answer: Response) -> list[tuple[str, bytes]]:
    """The end-to-end headers in their order, for a proxy has no reason to change it."""
    kept = [(name.lower(), value) for name, value in _end_to_end(answer) if name.lower() not in MAY_DIFFER]
    return [(name, _masked(case, value.encode("latin-1"))) for name, value in kept]


def _end_to_end(answer: Response) -> Headers:
    return [(name, value) for name, value in answer.headers if name.lower() not in BETWEEN_NEIGHBOURS]


def _masked(case: Case, value: bytes) -> bytes:
    for pattern, replacement in case.masks:
        value = re.sub(pattern.encode(), replacement.encode(), value)
    return value
