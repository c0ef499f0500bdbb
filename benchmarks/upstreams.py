"""nginx processes for the measurements of the proxy: the upstream, and the peer that batches with Lua.

Knows: nginx's configuration, and where Debian keeps its modules. Must not know: what is measured.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory

from benchmarks.server import Server, on_core

MODULES = Path("/usr/lib/nginx/modules")
COMMON = """
{modules}
daemon off;
worker_processes 1;
error_log {folder}/error.log;
pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_body_buffer_size 1m;
  lua_package_path "/usr/share/lua/5.1/?.lua;;";
  lua_package_cpath "/usr/lib/x86_64-linux-gnu/lua/5.1/?.so;;";
  {content}
}}
"""
ITEMS = """
  server {{
    listen 127.0.0.1:{port};
    default_type application/json;
    location ~ ^/item/(?<number>\\d+)$ {{
      return 200 '{{"id": $number, "name": "item $number", "price": 12.5, "tags": ["new", "sale"], "stock": 7}}';
    }}
    {files}
  }}
"""
FILES = "location ~ ^/bytes/(?<size>\\d+)/ {{ alias {folder}/$size.json; }}"
LUA = """
  upstream items {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location /up/ {{
      internal;
      proxy_pass http://items/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
    location = /batch {{
      content_by_lua_block {{
        local cjson = require "cjson"
        ngx.req.read_body()
        local batch = cjson.decode(ngx.req.get_body_data())
        local wanted = {{}}
        for i, item in ipairs(batch.requests) do
          wanted[i] = {{"/up" .. item.path, {{method = ngx.HTTP_GET}}}}
        end
        local answers = {{ngx.location.capture_multi(wanted)}}
        local responses = {{}}
        for i, answer in ipairs(answers) do
          responses[i] = {{status = answer.status, headers = {{["content-type"] = answer.header["Content-Type"]}},
                          body = cjson.decode(answer.body)}}
        end
        local written = cjson.encode({{responses = responses}})
        ngx.header["Content-Type"] = "application/json"
        ngx.header["Content-Length"] = #written
        ngx.print(written)
      }}
    }}
  }}
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def items_served(core: int) -> Iterator[Server]:
    """nginx that answers `GET /item/{number}`."""
    with nginx_running(ITEMS, core, files="") as server:
        yield server


@contextmanager
def files_served(folder: Path, core: int) -> Iterator[Server]:
    """The same, which also answers `GET /bytes/{size}/{number}` with the file `{size}.json` of the folder."""
    with nginx_running(ITEMS, core, files=FILES.format(folder=folder)) as server:
        yield server


@contextmanager
def lua_batching(upstream: int, core: int) -> Iterator[Server]:
    """nginx that answers `POST /batch` by `capture_multi`, each item passed on to the upstream."""
    with nginx_running(
        LUA, core, modules=("ndk_http_module.so", "ngx_http_lua_module.so"), upstream=upstream
    ) as server:
        yield server


@contextmanager
def nginx_running(content: str, core: int, modules: Sequence[str] = (), **values: int | str) -> Iterator[Server]:
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    missing = [name for name in modules if not (MODULES / name).exists()]
    if program is None or missing:
        raise FileNotFoundError("nginx and libnginx-mod-http-lua are needed")
    port = free_port()
    with TemporaryDirectory() as folder:
        loaded = "".join(f"load_module {MODULES / name};\n" for name in modules)
        text = COMMON.format(modules=loaded, folder=folder, content=content.format(port=port, **values))
        if "ngx_http_lua_module.so" not in modules:
            text = "".join(line for line in text.splitlines(keepends=True) if "lua_package" not in line)
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(text)
        with on_core(core):
            process = Popen(
                [program, "-c", str(configuration), "-e", f"{folder}/error.log"], stdin=DEVNULL, stderr=PIPE
            )
        try:
            _wait_for(port, process)
            yield Server(_worker_of(process.pid), port)
        finally:
            process.terminate()
            process.communicate(timeout=20)


def _wait_for(port: int, process: "Popen[bytes]") -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if process.poll() is not None:
                raise RuntimeError((process.stderr.read() if process.stderr else b"").decode()) from None
            time.sleep(0.01)
    raise RuntimeError("nginx did not start")


def _worker_of(master: int) -> int:
    for _ in range(500):
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise RuntimeError("nginx has no worker")
