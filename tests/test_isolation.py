"""No item can see or change another one, or the request that brought them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import answer
from tests.protocol.exchange import JSON, Receive, Scope, Send, exchange_of

MODES = ["parallel", "ordered_writes", "sequential"]


def spoil(value: Any) -> None:
    """Changes everything in a scope that can be changed, at any depth, and puts another value for every key."""
    if isinstance(value, dict):
        for each in value.values():
            spoil(each)
        for key in list(value):
            if key not in ("report", "type"):
                value[key] = "spoiled"
        value["spoiled"] = True
    elif isinstance(value, list):
        for each in value:
            spoil(each)
        value.append((b"spoiled", b"1"))


@pytest.mark.parametrize("mode", MODES)
@on_virtual_time
async def test_what_an_item_does_to_its_scope_stays_there(mode: str) -> None:
    """Each key of a scope that one item sets or changes, at any depth, is not seen by the next, nor outside."""
    seen: list[JSON] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        respond = answer()
        seen.append(repr({key: value for key, value in scope.items() if key not in ("path", "raw_path", "extensions")}))
        seen[-1] += repr({key: value for key, value in scope["extensions"].items() if key != "batchproxy"})
        spoil(scope)
        await respond(scope, receive, send)

    more: dict[str, Any] = {
        "root_path": "/m",
        "path_params": {"tenant": "a"},
        "state": {"pool": "p"},
        "extensions": {"tls": {"server_cert": None, "client_cert_chain": ["c"]}, "http.response.pathsend": {}},
        # Some servers give the addresses as lists.
        "client": ["203.0.113.9", 4711],
        "server": ["api.example", 80],
    }
    before = copy.deepcopy(more)
    exchange = exchange_of(
        BatchMiddleware(app),
        [{"path": "/m/a"}, {"path": "/m/b"}, {"path": "/m/c"}],
        options={"execution": mode},
        path="/m/batch",
        more_scope=more,
    )
    outer = copy.deepcopy(exchange.scope)
    assert [entry["status"] for entry in (await exchange.finished()).responses] == [200] * 3
    assert "spoiled" not in "".join(seen)
    assert len(set(seen)) == 1
    assert "pathsend" not in seen[0]
    assert exchange.scope == outer
    assert more == before
