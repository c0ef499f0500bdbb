"""httpbin as the upstream, under three WSGI servers: pools of threads in HTTP/1.1, and plain HTTP/1.0."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from json import loads

import brotlicffi  # type: ignore[import-untyped]
import pytest

from tests.equivalence.comparing import IN_ORDER, PARALLEL, Case, binary, in_batch, json, text
from tests.programs import serving
from tests.serving import Server, ask
from tests.upstreams.thrice import FRONTS, differences

HERE = [sys.executable, "-m"]
FORM = "application/x-www-form-urlencoded"
SERVERS: dict[str, Callable[[socket.socket], list[str]]] = {
    "waitress": lambda listener: [*HERE, "tests.upstreams.wsgi", "waitress", str(listener.fileno())],
    "wsgiref": lambda listener: [*HERE, "tests.upstreams.wsgi", "wsgiref", str(listener.fileno())],
    "gunicorn": lambda listener: [
        *[*HERE, "gunicorn", "--bind", f"fd://{listener.fileno()}"],
        *[
            "--worker-class",
            "gthread",
            "--threads",
            "16",
            "--no-control-socket",
            "--log-level",
            "warning",
            "httpbin:app",
        ],
    ],
}

# What a proxy adds to a request, and what concerns the connection; httpbin shows the headers that it gets.
ADDED = "Cdn-Loop|Connection|Content-Length|Forwarded|Via|X-Forwarded-[A-Za-z]+"
TEXT = r'"(?:[^"\\]|\\.)*"'
SHOWN = ((rf'"(?:{ADDED})": {TEXT},\s*', ""), (rf',\s*"(?:{ADDED})": {TEXT}', ""))
DRAWN = (('nonce="[^"]*"', "nonce"), ('opaque="[^"]*"', "opaque"), ("fake=[^;]*", "fake"))

# 407 is between neighbours: WSGI servers refuse its headers.
STATUSES = [each.value for each in HTTPStatus if each.value >= 200 and each != HTTPStatus.PROXY_AUTHENTICATION_REQUIRED]

CASES = [
    *(Case(f"status {status}", "GET", f"/status/{status}", status) for status in STATUSES),
    *(Case(f"{method} to anything", method, "/anything/a/%2F/b?c=1&c=2&d") for method in ("GET", "DELETE")),
    *(Case(f"{method} of text", method, "/anything", body=text("ä")) for method in ("POST", "PUT", "PATCH")),
    Case("HEAD", "HEAD", "/json"),
    Case("OPTIONS", "OPTIONS", "/get"),
    Case("a method that is not for this", "DELETE", "/get", 405),
    Case("JSON as it is written", "POST", "/post", body=json('{"b": 1.0,  "a": [1e2]}')),
    Case("a form", "POST", "/post", body=text("a=1&a=2&b=%20"), headers={"content-type": FORM}),
    Case("bytes", "POST", "/post", body=binary(bytes(range(256)))),
    Case("an empty body", "POST", "/post", body=binary(b"")),
    Case("own headers", "GET", "/headers", headers={"x-one": "1", "x-two": ["2", "3"], "user-agent": "me"}),
    Case("the client's address", "GET", "/ip"),
    Case("cookies sent", "GET", "/cookies", headers={"cookie": "a=1; b=2"}),
    Case("cookies set", "GET", "/cookies/set?a=1&b=2", 302),
    Case("cookies deleted", "GET", "/cookies/delete?a&b", 302),
    Case("a redirect", "GET", "/redirect/3", 302),
    Case("an absolute redirect", "GET", "/absolute-redirect/2", 302),
    Case("a redirect elsewhere", "POST", "/redirect-to?url=https://elsewhere.example/&status_code=307", 307),
    Case("to be logged in", "GET", "/basic-auth/ada/lovelace", 401),
    Case("logged in", "GET", "/basic-auth/ada/lovelace", headers={"authorization": "Basic YWRhOmxvdmVsYWNl"}),
    Case("a token", "GET", "/bearer", headers={"authorization": "Bearer t"}),
    Case("a digest asked for", "GET", "/digest-auth/auth/ada/lovelace", 401),
    Case("not modified", "GET", "/cache", 304, headers={"if-none-match": "x"}),
    Case("an entity tag that matches", "GET", "/etag/x", 304, headers={"if-none-match": '"x"'}),
    Case("an entity tag that does not", "GET", "/etag/x", 412, headers={"if-match": '"y"'}),
    Case("headers of the answer", "GET", "/response-headers?X-A=1&X-A=2&X-B=%C3%A4"),
    Case("a range", "GET", "/range/1000?chunk_size=10", 206, headers={"range": "bytes=100-199"}),
    Case("letters in pieces", "GET", "/range/50000?chunk_size=1000"),
    Case("lines", "GET", "/stream/5"),
    Case("drops", "GET", "/drip?numbytes=100&duration=0&delay=0"),
    Case("HTML", "GET", "/html"),
    Case("XML", "GET", "/xml"),
    Case("JSON", "GET", "/json"),
    Case("text in UTF-8", "GET", "/encoding/utf8"),
    Case("a picture", "GET", "/image/png"),
    Case("a picture by what is accepted", "GET", "/image", headers={"accept": "image/webp"}),
    Case("nothing acceptable", "GET", "/image", 406, headers={"accept": "image/unknown"}),
    Case("nothing there", "GET", "/nothing/there", 404),
]

# Threads of httpbin share one source of these, so they are the same only one after another.
RANDOM = [
    Case("bytes of a length", "GET", "/bytes/50000?seed=3"),
    Case("bytes in pieces", "GET", "/stream-bytes/50000?seed=3&chunk_size=1000"),
]

UNPACK = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotlicffi.decompress,
}


@pytest.fixture(scope="module", params=[*((name, "app") for name in SERVERS), ("waitress", "process")], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """httpbin under one of the servers, and the proxy in front of it."""
    server, front = request.param
    with serving(SERVERS[server]) as upstream, FRONTS[front](upstream) as proxy:
        yield upstream, proxy


def test_three_ways_give_one_answer(pair: tuple[Server, Server]) -> None:
    """Directly, alone through the proxy and in a batch, httpbin's answers are the same."""
    cases = [replace(case, masks=(*SHOWN, *DRAWN)) for case in CASES]
    assert differences(*pair, cases) == []
    assert differences(*pair, RANDOM, ways=IN_ORDER) == []


@pytest.mark.parametrize(("path", "coding"), [("/gzip", "gzip"), ("/deflate", "deflate"), ("/brotli", "br")])
def test_compressed_bodies_are_not_touched(pair: tuple[Server, Server], path: str, coding: str) -> None:
    """A body that is compressed whether or not anybody asked arrives compressed, alone and in a batch."""
    _, proxy = pair
    answer = ask(proxy, "GET", path)
    assert answer.header("content-encoding") == coding
    assert loads(UNPACK[coding](answer.body))["method"] == "GET"
    (entry,) = in_batch(proxy, PARALLEL, [Case("compressed", "GET", path)])
    assert entry.headers["content-encoding"] == coding
    assert loads(UNPACK[coding](entry.raw_body()))["method"] == "GET"


def test_a_large_upload_arrives_whole(pair: tuple[Server, Server]) -> None:
    """Sixteen megabytes go through the proxy, more than any batch may hold, and come back the same."""
    _, proxy = pair
    sent = os.urandom(16 * 1024 * 1024)
    answer = ask(proxy, "POST", "/post", [("Content-Type", "application/octet-stream")], sent)
    assert answer.status == 200
    assert base64.b64decode(answer.json()["data"].partition(",")[2]) == sent
