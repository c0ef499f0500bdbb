"""Serve httpbin with a WSGI server, at an open socket: python -m tests.upstreams.wsgi waitress|wsgiref DESCRIPTOR"""

from __future__ import annotations

import socket
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import httpbin  # type: ignore[import-untyped]
import waitress  # type: ignore[import-untyped]


class Threads(ThreadingMixIn, WSGIServer):
    """The standard library's server. It answers in HTTP/1.0, and closes after each answer."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        pass


def main(server: str, descriptor: str) -> None:
    listener = socket.socket(fileno=int(descriptor))
    if server == "waitress":
        waitress.serve(httpbin.app, sockets=[listener], threads=16, _quiet=True)
    else:
        plain = Threads(listener.getsockname(), Quiet, bind_and_activate=False)
        plain.socket.close()
        plain.socket = listener
        plain.server_name, plain.server_port = listener.getsockname()
        plain.setup_environ()
        plain.set_app(httpbin.app)
        plain.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
