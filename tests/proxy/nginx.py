"""A real nginx with TLS and HTTP/2, on a free port, that says what it got.

Knows: nginx. Must not know: the package under test.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.serving import PATIENCE

PROGRAM = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    merge_slashes off;
    client_max_body_size 64m;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        listen unix:{folder}/plain.sock http2;
        server_name localhost;
        ssl_certificate {folder}/server.pem;
        ssl_certificate_key {folder}/server.pem;
        root {folder}/files;
        location / {{
            default_type text/plain;
            add_header x-protocol $server_protocol always;
            return 200 "$request_method $request_uri host=$http_host length=$http_content_length x=$http_x";
        }}
        location /files/ {{ }}
        location /none {{ return 204; }}
        location /moved {{ return 302 /elsewhere; }}
        location /cut {{ return 444; }}
    }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Nginx:
    folder: Path
    port: int
    ca: str

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


def free_port() -> int:
    with unused_port() as port:
        return port


@contextmanager
def unused_port() -> Iterator[int]:
    """A port at which nobody listens as long as the block lasts."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        yield port


@contextmanager
def nginx(files: dict[str, bytes]) -> Iterator[Nginx]:
    """Runs until the end of the block; `files` are below `/files/`."""
    assert PROGRAM is not None
    authority = trustme.CA()
    with tempfile.TemporaryDirectory(prefix="nginx") as name:
        folder = Path(name)
        authority.cert_pem.write_to_path(folder / "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        for path, content in files.items():
            target = folder / "files" / "files" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        folder.chmod(0o755)
        for _ in range(5):
            # A port that was free may be taken by the time that it is asked for.
            port = free_port()
            (folder / "nginx.conf").write_text(_CONFIG.format(folder=folder, port=port))
            process = subprocess.Popen(
                [PROGRAM, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if _came_up(process, port):
                break
        else:
            raise AssertionError((folder / "error.log").read_text())
        try:
            yield Nginx(folder=folder, port=port, ca=str(folder / "ca.pem"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)


def _came_up(process: subprocess.Popen[bytes], port: int) -> bool:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except OSError:
            continue
        return True
    return False
