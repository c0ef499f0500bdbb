"""nginx of Debian as the upstream: files, ranges, compression, proxied chunks, limits and its own error pages."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator

import pytest

from tests.equivalence.comparing import Case, binary, text
from tests.serving import Server, ask
from tests.upstreams.nginx import nginx
from tests.upstreams.thrice import FRONTS, differences

SERVER = """
    keepalive_requests 3;
    server {
        listen LISTEN;
        root FOLDER/files;
        client_max_body_size 1k;
        error_page 404 /missing.html;

        location = /old { return 301 /plain.txt; }
        location = /elsewhere { return 302 https://elsewhere.example/; }
        location = /empty { return 204; }
        location = /dropped { return 444; }
        location = /secret { return 403; }
        location = /teapot { default_type text/plain; return 418 "short and stout"; }
        location = /cookies { add_header Set-Cookie "a=1" always; add_header Set-Cookie "b=2" always; return 204; }
        location = /echo { default_type text/plain; return 200 "$request_uri $http_x_own $http_cookie"; }
        location = /host { default_type text/plain; return 200 "$http_host|$http_connection|$server_protocol"; }
        location /zipped/ { alias FOLDER/files/; gzip on; gzip_proxied any; gzip_min_length 0; gzip_types *; }
        location /ready/ { alias FOLDER/files/; gzip_static off; types { application/gzip gz; } }
        location /slow/ { alias FOLDER/files/; limit_rate 64k; }
        location /relayed/ { proxy_pass http://LISTEN/; proxy_http_version 1.1; proxy_buffering off; }
        location /old-style/ { proxy_pass http://LISTEN/; proxy_http_version 1.0; }
        location /uploads/ { dav_methods PUT DELETE MKCOL; create_full_put_path on; client_max_body_size 4m; }
        location /nowhere/ { proxy_pass http://127.0.0.1:1/; }
        location = /push.txt { internal; }
    }
"""

PAGE = "<!doctype html>\n<title>Ä page</title>\n" + "<p>Some words.</p>\n" * 200
RANDOM = os.urandom(200_000)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("nginx")
    files = folder / "files"
    (files / "uploads").mkdir(parents=True)
    (files / "page.html").write_text(PAGE)
    (files / "plain.txt").write_text("0123456789" * 10)
    (files / "empty.txt").write_text("")
    (files / "data.json").write_text('{ "numbers": [1.0, 1e3, 12345678901234567890],\n  "text": "\\u00e4" }\n')
    (files / "broken.json").write_text('{"never": ')
    (files / "random.bin").write_bytes(RANDOM)
    (files / "ready.gz").write_bytes(gzip.compress(PAGE.encode(), mtime=0))
    (files / "missing.html").write_text("<p>Nothing here</p>")
    (files / "with space ä.txt").write_text("found")
    with nginx(SERVER.replace("FOLDER", str(folder)), folder) as server:
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def proxy(request: pytest.FixtureRequest, upstream: Server) -> Iterator[Server]:
    with FRONTS[request.param](upstream) as server:
        yield server


CASES = [
    Case("a page", "GET", "/page.html"),
    Case("text", "GET", "/plain.txt"),
    Case("nothing in it", "GET", "/empty.txt"),
    Case("JSON as it is written", "GET", "/data.json"),
    Case("what only calls itself JSON", "GET", "/broken.json"),
    Case("random bytes", "GET", "/random.bin"),
    Case("only the head", "HEAD", "/random.bin"),
    Case("a name to be encoded", "GET", "/with space ä.txt"),
    Case("a range", "GET", "/plain.txt", 206, headers={"range": "bytes=10-19"}),
    Case("the last bytes", "GET", "/plain.txt", 206, headers={"range": "bytes=-5"}),
    Case("several ranges", "GET", "/plain.txt", 206, headers={"range": "bytes=0-1,5-6"}, masks=(("[0-9]{20}", "B"),)),
    Case("no such range", "GET", "/plain.txt", 416, headers={"range": "bytes=1000-"}),
    Case("not modified", "GET", "/plain.txt", 304, headers={"if-none-match": "*"}),
    Case("a directory without its slash", "GET", "/uploads", 301),
    Case("no index", "GET", "/uploads/", 403),
    Case("moved", "GET", "/old", 301),
    Case("moved elsewhere", "GET", "/elsewhere", 302),
    Case("no content", "GET", "/empty", 204),
    Case("forbidden", "GET", "/secret", 403),
    Case("another status", "GET", "/teapot", 418),
    Case("an error page of its own", "GET", "/not-there", 404),
    Case("two cookies", "GET", "/cookies", 204),
    Case("path, query and own headers", "GET", "/echo?a=%2F&b=%20&&c", headers={"x-own": "1  2", "cookie": "k=v; l=w"}),
    Case("a method that files do not know", "DELETE", "/plain.txt", 405),
    Case("a body that files do not take", "POST", "/plain.txt", 405, body=text("x")),
    Case("a body too large for it", "POST", "/echo", 413, body=binary(b"x" * 2000)),
    Case("compressed if asked, and nobody asks", "GET", "/zipped/page.html"),
    Case("compressed before it was asked", "GET", "/ready/ready.gz"),
    Case("at a slow rate", "GET", "/slow/page.html"),
    Case("chunked by a proxy", "GET", "/relayed/page.html"),
    Case("through a proxy of HTTP/1.0", "GET", "/old-style/page.html"),
    Case("a proxy that reaches nobody", "GET", "/nowhere/", 502),
    Case("options", "OPTIONS", "/plain.txt", 405),
    Case("what is for inside only", "GET", "/push.txt", 404),
]


def test_three_ways_give_one_answer(upstream: Server, proxy: Server) -> None:
    """Directly, alone through the proxy and in a batch, nginx's answers are the same, though it closes after three."""
    assert differences(upstream, proxy, CASES) == []


def test_a_connection_that_ends_against_its_word_costs_no_read(upstream: Server, proxy: Server) -> None:
    """After a 412 nginx promises to keep the connection, and closes it: what may be sent twice is answered anyway.

    What may not, a POST on that connection, could be lost; so this case is apart from the others.
    """
    failed = Case("precondition", "GET", "/plain.txt", 412, headers={"if-match": '"another"'})
    cases = [each for _ in range(20) for each in (failed, Case("text", "GET", "/plain.txt"))]
    assert differences(upstream, proxy, cases) == []


def test_a_compressed_answer_arrives_as_it_was_sent(upstream: Server, proxy: Server) -> None:
    """A lone client that takes gzip gets the very bytes that nginx compressed."""
    headers = [("Accept-Encoding", "gzip")]
    direct = ask(upstream, "GET", "/zipped/page.html", headers)
    proxied = ask(proxy, "GET", "/zipped/page.html", headers)
    assert direct.header("content-encoding") == proxied.header("content-encoding") == "gzip"
    assert proxied.body == direct.body
    assert gzip.decompress(proxied.body).decode() == PAGE


def test_an_upload_arrives_whole(upstream: Server, proxy: Server) -> None:
    """What is put through the proxy, alone and in a batch, is what nginx stores and gives back."""
    path = f"/uploads/{proxy.port}.bin"
    assert ask(proxy, "PUT", path, body=RANDOM).status == 201
    assert ask(upstream, "GET", path).body == RANDOM
    changed = RANDOM[::-1]
    assert differences(upstream, proxy, [Case("replaced", "PUT", path, 204, body=binary(changed))]) == []
    assert ask(upstream, "GET", path).body == changed


def test_a_server_that_hangs_up_is_no_answer(proxy: Server) -> None:
    """nginx can close without a word; the proxy says that the upstream gave no answer."""
    answer = ask(proxy, "GET", "/dropped")
    assert answer.status == 502
    assert answer.json()["code"] in ("unreachable", "bad_response")


def test_the_connection_to_the_upstream_is_our_own(upstream: Server, proxy: Server) -> None:
    """nginx gets the client's host, and HTTP/1.1 whatever the client's `Connection` says."""
    host, connection, protocol = ask(proxy, "GET", "/host", [("Host", "shop.example")]).body.decode().split("|")
    assert (host, protocol) == ("shop.example", "HTTP/1.1")
    assert connection.lower() in ("", "keep-alive")


def test_connections_that_the_server_ends_cost_no_answer(upstream: Server, proxy: Server) -> None:
    """Many requests over connections that nginx closes after three each get their answers."""
    cases = [Case(str(number), "GET", f"/plain.txt?{number}") for number in range(100)]
    assert differences(upstream, proxy, cases) == []
