"""nginx as a peer: items from its own `return`, or passed on to an upstream, batched with Lua or with njs.

Knows: nginx's configuration. Must not know: what is measured.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.server import Server
from benchmarks.upstreams import MODULES, nginx_running

HERE = Path(__file__).parent
LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
NJS_MODULE = "ngx_http_js_module.so"

RETURNED = """
    location ~ ^/item/(?<number>\\d+)$ {{
      return 200 '{{"id": $number, "name": "item $number", "price": 19.99, "tags": ["new", "sale"], "in_stock": true}}';
    }}
"""
PASSED_ON = """
    location /item/ {{
      proxy_pass http://items;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
"""
UPSTREAM = """
  upstream items {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
"""
BY_LUA = f"""
    location = /batch {{{{ content_by_lua_file "{HERE}/batch.lua"; }}}}
"""
BY_NJS = f"""
    js_import batch from "{HERE}/batch.njs";
    location = /batch {{{{ js_content batch.answer; }}}}
"""


@contextmanager
def with_lua(core: int, upstream: int | None = None) -> Iterator[Server]:
    """Batches by `ngx.location.capture_multi`."""
    with _batching(BY_LUA, LUA_MODULES, core, upstream) as server:
        yield server


@contextmanager
def with_njs(core: int, upstream: int | None = None) -> Iterator[Server]:
    """Batches by `r.subrequest`."""
    if not (MODULES / NJS_MODULE).exists():
        raise FileNotFoundError("nginx and libnginx-mod-http-js are needed")
    # The common configuration has lines for Lua, which cost nothing at run time.
    with _batching(BY_NJS, (*LUA_MODULES, NJS_MODULE), core, upstream) as server:
        yield server


@contextmanager
def _batching(batch: str, modules: tuple[str, ...], core: int, upstream: int | None) -> Iterator[Server]:
    """Answers items itself, or has an upstream for them."""
    before, items = ("", RETURNED) if upstream is None else (UPSTREAM, PASSED_ON)
    site = f"{before} server {{{{ listen 127.0.0.1:{{port}}; default_type application/json; {batch} {items} }}}}"
    with nginx_running(site, core, modules, upstream=upstream or 0) as server:
        yield server
