"""`batchproxy reload` and `batchproxy healthcheck`: what is asked of a running process.

Knows: the HTTP API of the admin listener, over TCP or a unix socket. Imports nothing heavy: a health
check runs often.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

import typer

from .addressed import AdminFile, admin_of
from .speaking import Code, data, escaped, fail, note

_DEFAULT = "127.0.0.1:9090"
Admin: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        envvar=["BATCHPROXY_ADMIN", "BATCHPROXY_SERVER__ADMIN"],
        help="The admin listener: host:port, http://host:port or unix:/path.sock; that of --config, if it is"
        f" given, or else {_DEFAULT}.",
    ),
]
_MOST = 1024 * 1024
# Where a listener takes all addresses, this machine is one of them.
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def healthcheck(
    admin: Admin = None,
    config: AdminFile = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it takes requests, not only whether it lives.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 2.0,
) -> None:
    """Ask a running process how it is: 0 well, 1 not.

    \b
    Examples:
      batchproxy healthcheck
      batchproxy healthcheck --ready --admin unix:/run/batchproxy/admin.sock
      batchproxy healthcheck -c batchproxy.yaml
    """
    admin, _ = _where(admin, config)
    status, body = _asked(admin, "GET", "/readyz" if ready else "/livez", timeout)
    if status != 200:
        fail(Code.FAILED, f"{status}: {escaped(body.decode('utf-8', 'replace').strip())}")
    note("ok")


def reload(
    admin: Admin = None,
    config: AdminFile = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=["BATCHPROXY_TOKEN", "BATCHPROXY_SERVER__ADMIN_TOKEN"], help="The admin_token, if there is one."
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 30.0,
) -> None:
    """Let a running process read its configuration again, and wait for the verdict.

    \b
    Examples:
      batchproxy reload
      batchproxy reload --admin 127.0.0.1:9091
      batchproxy reload -c batchproxy.yaml

    Exit codes: 0 in effect; 78 the configuration is wrong, the last one stays; 1 no verdict.
    """
    if token is not None and not (token.isascii() and token.isprintable()):
        fail(Code.USAGE, "--token: expected visible ASCII characters")
    admin, of_file = _where(admin, config)
    status, body = _asked(admin, "POST", "/-/reload", timeout, of_file if token is None else token)
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = None
    if status == 200:
        verdict = answer if isinstance(answer, dict) else {}
        data(escaped(verdict.get("digest", "")))
        note("reloaded" if verdict.get("changed", True) else "already in effect")
        warnings = verdict.get("warnings")
        for warning in warnings if isinstance(warnings, list) else []:
            note(_lines(warning))
        return
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if status == 422:
        for error in errors if isinstance(errors, list) else [body.decode("utf-8", "replace")]:
            typer.echo(_lines(error), err=True)
        fail(Code.BAD_CONFIGURATION, "the configuration is wrong; the last one stays in effect")
    fail(Code.FAILED, f"no verdict, but {status}: {escaped(body.decode('utf-8', 'replace').strip())}")


def _lines(told: object) -> str:
    """An error or a warning of the server, with the line of the file and the caret below."""
    return "\n".join(map(escaped, str(told).split("\n")))


def _where(admin: str | None, config: Path | None) -> tuple[str, str | None]:
    """The address, and the token that a file has for it."""
    return (admin or _DEFAULT, None) if config is None else admin_of(config, admin)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(admin: str, timeout: float) -> http.client.HTTPConnection:
    if admin.startswith("unix:"):
        return _Unix(admin.removeprefix("unix:").removeprefix("//"), timeout)
    try:
        parts = urlsplit(admin if "://" in admin else f"http://{admin}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme != "http" or host is None or port is None:
        fail(Code.USAGE, f"--admin {escaped(admin)}: expected host:port, http://host:port or unix:/path.sock")
    return http.client.HTTPConnection(_HERE.get(host, host), port, timeout=timeout)


def _asked(admin: str, method: str, path: str, timeout: float, token: str | None = None) -> tuple[int, bytes]:
    connection = _connection(admin, timeout)
    try:
        connection.request(method, path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    except (OSError, http.client.HTTPException) as fault:
        fail(Code.FAILED, f"{escaped(admin)}: {escaped(fault) or type(fault).__name__}")
    finally:
        connection.close()
