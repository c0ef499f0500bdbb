"""Kinto with one view of ours, GET /v1/item/{number}, behind waitress.

Runs in the peers' environment: `python kinto_served.py`. Knows: nothing of ours.
"""

import sys
from typing import Any

from kinto import main  # type: ignore[import-not-found]
from pyramid.security import NO_PERMISSION_REQUIRED  # type: ignore[import-not-found]
from waitress.server import create_server  # type: ignore[import-untyped]

SETTINGS = {
    "kinto.batch_max_requests": "100",
    "kinto.includes": __name__,
    "kinto.userid_hmac_secret": "none is needed",
}


def includeme(config: Any) -> None:
    """Called by Kinto, which puts /v1 before the path."""
    config.add_route("item", r"/item/{number:\d+}")
    # Kinto's own renderer, which is quicker than Pyramid's.
    config.add_view(read_item, route_name="item", renderer="ultrajson", permission=NO_PERMISSION_REQUIRED)


def read_item(request: Any) -> dict[str, Any]:
    """GET /v1/item/{number}."""
    number = int(request.matchdict["number"])
    return {"id": number, "name": f"item {number}", "price": 19.99, "tags": ["new", "sale"], "in_stock": True}


if __name__ == "__main__":
    server = create_server(main({}, **SETTINGS), host="127.0.0.1", port=0)
    print(f"running on http://127.0.0.1:{server.effective_port}", file=sys.stderr, flush=True)
    server.run()
