"""nginx as a process, with the content of an `http` block.

Knows: how nginx is started so that it needs no port, user or folder of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import program, serving
from tests.serving import Server

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    include /etc/nginx/mime.types;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {content}
}}
"""


@contextmanager
def nginx(content: str, folder: Path) -> Iterator[Server]:
    """Serve with an `http` block of this content, in which `listen LISTEN;` stands for the address it gets."""
    path = program("nginx")

    def command(listener: socket.socket) -> list[str]:
        host, port = listener.getsockname()
        file = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not read the test's files
        config = CONFIG.format(user=user, folder=folder, content=content.replace("LISTEN", f"{host}:{port}"))
        file.write_text(config)
        return [path, "-c", str(file), "-e", "stderr"]

    # What nginx says to itself when it replaces its own binary: these sockets are open.
    with serving(command, environment=lambda listener: {"NGINX": f"{listener.fileno()};"}) as server:
        yield server
