"""The promise, for the proxy: an item's request and answer are those of the same request that comes alone.

Both are sent through the same proxy to the same upstream, which keeps every byte and answers by what it got.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, example, given, settings, strategies as st

from batchproxy.engine.routing import Route
from batchproxy.proxy.forwarding import Forwarding

from .fronting import Answered, Front, Headers, fronted
from .on_a_loop import on_a_loop
from .scripted import Peer

ROUTES = [
    Route(upstream="api", path="/open"),
    Route(upstream="api", path="/cut", strip_prefix=True, add_prefix="/v2", remove_headers=["x-gone"]),
    Route(
        upstream="api", path="/judged", methods=["GET", "POST", "DELETE"], deny=["DELETE /judged/*", "/judged/no/**"]
    ),
    Route(upstream="api", path="/keyed", require_headers=["x-key"], add_headers={"X-Who": "proxy"}),
    Route(upstream="api", path="/small", max_request_bytes=8),
]
# What the protocol allows to differ, and what tells apart the answers that the proxy and the batch layer make.
ALLOWED = {"date", "server", "connection", "transfer-encoding", "content-length"}
OF_THE_MESSAGE = re.compile(rb"(?i)^(connection|content-length):")


async def deterministic(peer: Peer) -> None:
    """Answers by a digest of what it got: another status, headers and body for each request."""
    while received := await peer.request():
        digest = hashlib.sha256(b"\n".join(essence(received))).digest()
        status = (200, 201, 204, 304, 400, 404, 409, 500, 503)[digest[0] % 9]
        body = (b'{"got": %d}' % digest[1], digest * 10, b"", b"text")[digest[2] % 4]
        media_type = (b"application/json", b"text/plain", b"image/png")[digest[3] % 3]
        head = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + media_type, b"X-Digest: " + digest.hex().encode()]
        head += [b"Set-Cookie: a=1", b"Set-Cookie: b=2"] * (digest[4] % 2)
        if received.startswith(b"HEAD "):
            head += [b"Content-Length: %d" % len(body)]
            body = b""
        elif status in (204, 304):
            body = b""
        elif digest[5] % 2:
            head += [b"Transfer-Encoding: chunked"]
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            head += [b"Content-Length: %d" % len(body)]
        await peer.write(b"\r\n".join((*head, b"", body)))


def essence(received: bytes) -> list[bytes]:
    """A captured request without what may differ: its first line, its fields in any order, its body."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    # The framing is that of the body, which is compared itself; an item cannot have a body of no bytes and no length.
    return [first, *sorted(field for field in fields if not OF_THE_MESSAGE.match(field)), body]


def comparable(answered: Answered) -> tuple[Any, ...]:
    if ("content-type", "application/problem+json") in answered.headers and not answered.body:
        return answered.status, "…"
    if answered.code is not None:
        return answered.status, answered.code
    pairs = sorted(pair for pair in answered.headers if pair[0] not in ALLOWED)
    return answered.status, pairs, answered.body


async def both(front: Front, method: str, target: str, own: Headers, caller: Headers, body: bytes | None) -> None:
    """Sends the same request in both ways, and compares what arrived and what came back."""
    front.upstream.peers.clear()
    names = {name.lower() for name, _ in own}
    effective = [*(pair for pair in caller if pair[0].lower() not in names), *own]
    alone = await front.alone(method, target, effective, body)
    [sent_alone] = [front.received()] if front.upstream.peers else [b""]
    for peer in front.upstream.peers:
        peer.received.clear()
    item = await front.item(method, target, own, body, outer=caller)
    sent_as_item = front.received()
    assert bool(sent_alone) == bool(sent_as_item)
    assert essence(sent_as_item) == essence(sent_alone)
    if method == "HEAD":
        # A failure of an item is always told with a body, which a lone HEAD cannot have.
        item, alone = (replace(each, body=b"") for each in (item, alone))
    assert comparable(item) == comparable(alone)
    front.upstream.peers.clear()


NAMES = ["X-A", "X-B", "X-Gone", "X-Key", "X-Who", "Authorization", "Cookie", "Accept-Language", "User-Agent"]
HEADERS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)),
    max_size=4,
    unique_by=lambda pair: pair[0],
)
SEGMENT = st.text(st.sampled_from("abz019-._~!$&'()*+,;=:@"), min_size=1, max_size=6) | st.sampled_from(
    ["%2F", "%20", "a%2fb", "%C3%A9", "no", "..", "%2e%2e", "a;b=c"]
)
TARGET = st.builds(
    lambda first, rest, query: "/" + "/".join([first, *rest]) + query,
    st.sampled_from(["open", "cut", "judged", "keyed", "small", "nowhere"]),
    st.lists(SEGMENT, max_size=3),
    st.sampled_from(["", "?a=b", "?a=%20&b", "?x=y?z/"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
            TARGET,
            HEADERS,
            HEADERS,
            st.none() | st.binary(min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=6,
    )
)
@example(requests=[("POST", "/small", [], [], b"123456789"), ("GET", "/keyed", [("X-Key", "")], [], None)])
@example(requests=[("GET", "/cut/..;x/y", [], [], None), ("DELETE", "/judged/1", [], [("Cookie", "a=b")], None)])
def test_an_item_is_sent_and_answered_as_alone(
    requests: list[tuple[str, str, list[tuple[str, str]], list[tuple[str, str]], bytes | None]],
) -> None:
    """Whatever is asked: the upstream gets the same bytes, the client the same status, headers and body."""

    @on_a_loop
    async def check() -> None:
        trusting = Forwarding(trusted_proxies=["127.0.0.1"])
        async with fronted(deterministic, routes=ROUTES, forwarding=trusting) as front:
            for method, target, own, caller, body in requests:
                content = [("Content-Type", "application/octet-stream")] if body is not None else []
                trusted = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https")]
                await both(front, method, target, [*own, *content], [*caller, *trusted], body)

    check()


def test_the_comparison_sees_a_difference() -> None:
    """What compares would notice: one header, one byte of a body, one status."""
    one = Answered(status=200, headers=(("x-a", "1"),), body=b"a")
    others = [replace(one, status=201), replace(one, headers=(("x-a", "2"),)), replace(one, body=b"b")]
    assert all(comparable(each) != comparable(one) for each in others)
    assert essence(b"GET / HTTP/1.1\r\na: 1\r\n\r\n") != essence(b"GET / HTTP/1.1\r\na: 2\r\n\r\n")
