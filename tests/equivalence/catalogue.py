"""The requests that every framework's app is asked, alone and in a batch.

Knows: the routes that the apps have in common, and what they say. Must not know: any framework.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus

from tests.equivalence.comparing import Case, binary, json, text

# What the apps say

PRIVATE_TOKEN = "let-me-in"
EVERY_BYTE = bytes(range(256))
LONG = "long-" * 700
FILE_CHANGED = 1_700_000_000  # 14 November 2023

ODD_JSON = (
    '{ "blanks" : [ 1 , 2.50 , 1e400 , -0 , 12345678901234567890123 ],\n\t"text": "é \\u00e9 \\ud83d\\ude00 \\/",\r\n'
    '"twice": 1, "twice": 2, "deep": [[[[[{}]]]]], "nothing": null }'
).encode()
BROKEN_JSON = b'{"a": 1}], "status": 200, "x": ['
NOT_UTF8_JSON = b'{"a": "\xff"}'
LATIN_TEXT = "Grüße".encode("latin-1")
LINES = [b'{"line": 1}\n', b'{"line": 2}\n', b'{"line": 3}\n']
PIECES = [b'{"pieces": [1,', b" 2,", b"", b" 3]}"]
EVENTS = [b"event: tick\ndata: 1\n\n", b": comment\n\n", b"data: a\ndata: b\n\n"]

# Answers told apart by their content type; the route is /kinds/{name}.
KINDS: dict[str, tuple[str, bytes]] = {
    "json": ("application/json", ODD_JSON),
    "vendor": ("application/vnd.api+json; charset=utf-8", b'{"data": []}'),
    "scalar": ("application/json", b' "just text" \n'),
    "null": ("application/json", b"null"),
    "bom": ("application/json", b'\xef\xbb\xbf{"a": 1}'),
    "broken": ("application/json", BROKEN_JSON),
    "twice": ("application/json", b'{"a": 1}{"b": 2}'),
    "nan": ("application/json", b'{"a": NaN}'),
    "not-utf8": ("application/json", NOT_UTF8_JSON),
    "utf16": ("application/json; charset=utf-16", '{"a": 1}'.encode("utf-16")),
    "surrogate": ("application/json", b'{"a": "\\ud800"}'),
    "deep": ("application/json", b"[" * 200 + b"]" * 200),
    "nothing": ("application/json", b""),
    "html": ("text/html; charset=utf-8", "<p>Grüße, 世界\u2028\x00</p>\r\n".encode()),
    "latin": ("text/plain; charset=iso-8859-1", LATIN_TEXT),
    "mislabelled": ("text/plain; charset=utf-8", LATIN_TEXT),
    "xml": ("application/xml", b'<?xml version="1.0"?><a/>'),
    "svg": ("image/svg+xml", b"<svg/>"),
    "script": ("text/javascript", b"let a = 1;\n"),
    "form": ("application/x-www-form-urlencoded", b"a=1&b=2"),
    "ndjson": ("application/x-ndjson", b"".join(LINES)),
    "binary": ("application/octet-stream", EVERY_BYTE),
    "image": ("image/png", b"\x89PNG\r\n\x1a\n" + EVERY_BYTE),
    "long": ("text/plain; charset=utf-8", b"0123456789abcdef" * 20_000),
}

# Headers of every kind, sent by /headers/kinds beside the framework's own.
HEADERS: list[tuple[str, str]] = [
    ("X-Latin", "caf\xe9 \xa3\xff"),
    ("X-Long", LONG),
    ("X-Marks", 'a, "b", \'c\'; d="{e}\\f"'),
    ("X-Blanks", "one  two\tthree"),
    ("X-Mixed-CASE", "Value"),
    ("Link", '</items/2>; rel="next"'),
    ("Cache-Control", "public, max-age=60"),
    ("ETag", '"v1"'),
    ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ("Content-Language", "en, de"),
    ("Content-Disposition", "attachment; filename=\"a.txt\"; filename*=utf-8''%e2%82%ac.txt"),
    ("Age", "5"),
    ("Retry-After", "120"),
    ("Vary", "Accept-Language, Accept-Encoding"),
    ("X-Powered-By", "a test"),
]

COOKIES = [
    "theme=dark; Path=/",
    "visits=1; Expires=Wed, 01 Jan 2098 00:00:00 GMT; Path=/; HttpOnly",
    'quoted="a b"; Max-Age=3600; Secure; SameSite=Lax',
]


def write_files(folder: Path) -> None:
    """The files that the apps serve, of a known age, so that their validators are the same with every server."""
    contents = {"hello.txt": b"hello from a file\n", "data.bin": EVERY_BYTE * 300, "page.html": b"<p>a page</p>"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (FILE_CHANGED, FILE_CHANGED))


def shown_headers(headers: Mapping[str, str] | list[tuple[str, str]]) -> list[list[str]]:
    """The headers of a request as the apps echo them: in an order of their own, without what frames the message."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    unsaid = {"connection", "host"}
    return sorted([name.lower(), value] for name, value in pairs if name.lower() not in unsaid)


def shown_path(scope: Mapping[str, Any], **parts: str) -> dict[str, str]:
    """What the app sees of the path and query, in the scope and as parameters."""
    return {
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query": scope["query_string"].decode("latin-1"),
        "root_path": scope.get("root_path", ""),
        "scheme": scope["scheme"],
        "http_version": scope["http_version"],
        **parts,
    }


# What they are asked

MULTIPART_TYPE = "multipart/form-data; boundary=frontier"
MULTIPART = b"".join(
    [
        b'--frontier\r\nContent-Disposition: form-data; name="title"\r\n\r\n',
        "Grüße".encode(),
        b'\r\n--frontier\r\nContent-Disposition: form-data; name="file"; filename="every byte.bin"\r\n',
        b"Content-Type: application/octet-stream\r\n\r\n",
        EVERY_BYTE,
        b"\r\n--frontier--\r\n",
    ]
)
FORM_TYPE = "application/x-www-form-urlencoded"
FORM = f"a=1&b={quote_plus('Grüße & mehr')}&b=2&empty="
BEARER = f"Bearer {PRIVATE_TOKEN}"

CATALOGUE: tuple[Case, ...] = (
    # Reading
    Case("an item", "GET", "/items/1"),
    Case("an item with a query", "GET", "/items/1?q=a&tag=x&tag=y&empty=&bare"),
    Case("a query of odd encodings", "GET", "/items/1?q=%20+%2B%26%3D&tag=%C3%A9&tag=%FF&tag=%25&a=b=c&?&;"),
    Case("a query of plain Unicode", "GET", "/items/1?q=é 世界&tag={x}|y"),
    Case("a query made from members", "GET", "/items/1", query={"q": "a b&c=d/é+~", "tag": ["x", "y"], "n": 3}),
    Case("a query in the path and as members", "GET", "/items/1?tag=x", query={"tag": ["y", True], "n": 0.5}),
    Case("a missing item", "GET", "/items/0", 404),
    Case("an item of the wrong type", "GET", "/items/abc", 422),
    Case("an unknown path", "GET", "/nowhere", 404),
    Case("own headers", "GET", "/headers", headers={"X-One": "1", "x-two": ["a", "b"], "User-Agent": "a test/1.0"}),
    Case("own headers of latin-1", "GET", "/headers", headers={"X-Latin": "caf\xe9 \xff", "X-Empty": ""}),
    Case("own Accept", "GET", "/headers", headers={"Accept": "text/html;q=0.5, application/json"}),
    Case("own Accept-Encoding", "GET", "/headers", headers={"Accept-Encoding": "gzip, deflate"}),
    Case(
        "inherited headers",
        "GET",
        "/headers",
        inherited={
            "Authorization": BEARER,
            "Cookie": "a=1; b=2",
            "Accept-Language": "de, en;q=0.5",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "X-Request-ID": "of-the-caller",
            "User-Agent": "a caller/1.0",
            "X-Several": ["one", "two"],
        },
    ),
    Case(
        "inherited headers replaced by own",
        "GET",
        "/headers",
        headers={"authorization": "Bearer own", "X-SEVERAL": "own", "Accept-Language": ["fr", "it"]},
        inherited={"Authorization": BEARER, "X-Several": ["one", "two"], "Accept-Language": "de"},
    ),
    # Paths
    Case("a path", "GET", "/path/a/b.c/d"),
    Case("a path of blanks and Unicode", "GET", "/path/a b/é/世界"),
    Case("a path percent-encoded", "GET", "/path/a%20b/%C3%A9/%e4%b8%96"),
    Case("an encoded slash", "GET", "/path/a%2Fb%2fc"),
    Case("an encoded backslash", "GET", "/path/a%5Cb"),
    Case("an encoded percent sign", "GET", "/path/100%25/%2541"),
    Case("an encoded question mark and hash", "GET", "/path/a%3Fb%23c"),
    Case("marks in a path", "GET", "/path/a;b=c/d,e/f:g/@h/$i/(j)/*k/!l/'m/+n/~o/-p/_q/[r]"),
    Case("characters that a browser encodes", "GET", '/path/"a"<b>{c}|d^e`f'),
    Case("bytes that are not UTF-8", "GET", "/path/%FF%FE/%C3"),
    Case("encoded control characters", "GET", "/path/%01%09%7F%1b"),
    Case("an encoded line break", "GET", "/path/a%0D%0Ab"),
    Case("dots that are no dot segments", "GET", "/path/.../a./.b/..c"),
    Case("a question mark in the query", "GET", "/path/a?b?c=/../d"),
    Case("a trailing slash", "GET", "/path/a/"),
    Case("an encoded letter of the route", "GET", "/%70ath/a"),
    # Bodies
    Case("a JSON body", "POST", "/json", body=json('{"name": "Ada", "tags": ["a", "b"], "text": "Grüße"}')),
    Case("a JSON body of odd form", "POST", "/json",
         body=json('[ 1 ,\r\n 2.50,\t12345678901234567890123, "\\u00e9\\/", {"a": 1, "a": 2} ]')),
    Case("a JSON body beyond floats", "POST", "/bytes", body=json('[1e999, -0.0, 0.1e-99, "\\u0000"]')),
    Case("null as a JSON body", "POST", "/json", body=json("null")),
    Case("text as a JSON body", "POST", "/json", body=json('"a {b} c"')),
    Case("a JSON body of a type of its own", "POST", "/json", headers={"Content-Type": "application/merge-patch+json"},
         body=json('{"a": null}')),
    Case("JSON sent as text", "POST", "/json", headers={"content-type": "application/json"}, body=text('{"a": 1}')),
    Case("broken JSON", "POST", "/json", 400, headers={"Content-Type": "application/json"}, body=text('{"a": ')),
    Case("a body of text", "POST", "/bytes", body=text("Grüße\r\n\u2028\x00世界")),
    Case("a binary body", "POST", "/bytes", body=binary(EVERY_BYTE)),
    Case("a large binary body", "POST", "/bytes", body=binary(EVERY_BYTE * 1000)),
    Case("a binary body of a type of its own", "PUT", "/bytes", headers={"Content-Type": "image/png"},
         body=binary(b"\x89PNG\r\n\x1a\n")),
    Case("an empty binary body", "POST", "/bytes", body=binary(b"")),
    Case("an empty text", "POST", "/bytes", body=text("")),
    Case("no body", "POST", "/bytes"),
    Case("a GET with a body", "GET", "/bytes", body=json('{"a": 1}')),
    Case("a DELETE with a body", "DELETE", "/bytes", body=json("[1]")),
    Case("a form", "POST", "/form", headers={"Content-Type": FORM_TYPE}, body=text(FORM)),
    Case("a form in base64", "POST", "/form", headers={"Content-Type": FORM_TYPE}, body=binary(FORM.encode())),
    Case("a multipart form", "POST", "/upload", headers={"Content-Type": MULTIPART_TYPE}, body=binary(MULTIPART)),
    # Methods
    Case("PUT", "PUT", "/methods", body=json("1")),
    Case("PATCH", "PATCH", "/methods", body=json("1")),
    Case("DELETE", "DELETE", "/methods", 204),
    Case("a method that the route does not have", "DELETE", "/items/1", 405),
    Case("a method that no route has", "POST", "/text", 405, body=json("{}")),
    Case("HEAD", "HEAD", "/items/1"),
    Case("HEAD of a text", "HEAD", "/text"),
    Case("HEAD of an unknown path", "HEAD", "/nowhere", 404),
    Case("HEAD of a file", "HEAD", "/file"),
    Case("OPTIONS", "OPTIONS", "/items/1", 405),
    # Statuses
    *(Case(f"status {status}", "GET", f"/status/{status}", status) for status in (200, 201, 202, 204, 205, 207, 299)),
    *(Case(f"status {status}", "GET", f"/status/{status}", status) for status in (301, 303, 304, 307, 308)),
    *(Case(f"status {status}", "GET", f"/status/{status}", status) for status in (400, 403, 404, 409, 418, 422, 451)),
    *(Case(f"status {status}", "GET", f"/status/{status}", status) for status in (500, 502, 503, 504, 599)),
    Case("a handled exception", "GET", "/raises/known", 409),
    Case("an unhandled exception", "GET", "/raises/unknown", 500),
    # Answers
    Case("a text", "GET", "/text"),
    Case("an empty answer", "GET", "/empty"),
    *(Case(f"an answer of the kind {kind}", "GET", f"/kinds/{kind}") for kind in KINDS),
    Case("HEAD of a long answer", "HEAD", "/kinds/long"),
    Case("an answer that was compressed unasked", "GET", "/compressed"),
    Case("response headers of every kind", "GET", "/headers/kinds"),
    Case("a stream of lines", "GET", "/stream/lines"),
    Case("a stream of JSON in pieces", "GET", "/stream/pieces"),
    Case("a stream of events that ends", "GET", "/stream/events"),
    Case("a stream of nothing", "GET", "/stream/nothing"),
    Case("HEAD of a stream", "HEAD", "/stream/lines"),
    # Redirects
    Case("a redirect", "GET", "/redirect", 302),
    Case("a redirect to the path with a slash", "GET", "/slash?a=1", 307),
    Case("the path with a slash", "GET", "/slash/"),
    # Cookies and sessions
    Case("cookies read", "GET", "/cookies", headers={"Cookie": 'a=1; b="x y"; c=%20; a=2; bare'}),
    Case("cookies inherited", "GET", "/cookies", inherited={"Cookie": "a=1; b=2"}),
    Case("cookies set", "GET", "/cookies/set", masks=(("expires=[^;]*", "expires"),)),
    Case("no session", "GET", "/session"),
    Case("a session of another's making", "GET", "/session", headers={"Cookie": "session=bm90aGluZw.Zm9v.YmFy"}),
    # Access
    Case("no credentials", "GET", "/private", 401),
    Case("wrong credentials", "GET", "/private", 401, headers={"Authorization": "Bearer wrong"}),
    Case("own credentials", "GET", "/private", headers={"Authorization": BEARER}),
    Case("inherited credentials", "GET", "/private", inherited={"Authorization": BEARER}),
    Case("inherited credentials replaced by wrong ones", "GET", "/private", 401, headers={"authorization": "Bearer no"},
         inherited={"Authorization": BEARER}),
    # Surroundings
    Case("the client and the URL", "GET", "/client?a=1"),
    Case("state of the request", "GET", "/state?mark=seen"),
    Case("state of the request again", "GET", "/state?mark=again"),
    Case("a context variable", "GET", "/context?who=ada"),
    Case("a context variable again", "GET", "/context?who=bob"),
    # Files
    Case("a file", "GET", "/file"),
    Case("a range of a file", "GET", "/file", 206, headers={"Range": "bytes=6-9"}),
    Case("the end of a file", "GET", "/file", 206, headers={"Range": "bytes=-5"}),
    Case("a range beyond a file", "GET", "/file", 416, headers={"Range": "bytes=1000-"}),
    Case("a static file", "GET", "/static/hello.txt"),
    Case("a static file of bytes", "GET", "/static/data.bin"),
    Case("a static page", "GET", "/static/page.html"),
    Case("HEAD of a static file", "HEAD", "/static/data.bin"),
    Case("a missing static file", "GET", "/static/missing.txt", 404),
    Case("a static file not changed since", "GET", "/static/hello.txt", 304,
         headers={"If-Modified-Since": "Fri, 01 Jan 2038 00:00:00 GMT"}),
    Case("a static file changed since", "GET", "/static/hello.txt",
         headers={"If-Modified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}),
    Case("a static file of another tag", "GET", "/static/hello.txt", headers={"If-None-Match": '"other"'}),
)  # fmt: skip

# Requests that build on each other, and are sent in order.
SEQUENCES: dict[str, tuple[Case, ...]] = {
    "a value made, changed and removed": (
        Case("read before", "GET", "/store/{key}", 404),
        Case("make", "PUT", "/store/{key}", 201, body=json('{"n": 1}')),
        Case("read", "GET", "/store/{key}"),
        Case("change", "PUT", "/store/{key}", 200, body=json('{"n": 2}')),
        Case("read the change", "GET", "/store/{key}"),
        Case("remove", "DELETE", "/store/{key}", 204),
        Case("remove again", "DELETE", "/store/{key}", 404),
        Case("read after", "GET", "/store/{key}", 404),
    ),
    "a background task": (
        Case("start", "POST", "/background/{key}", 202),
        Case("await", "GET", "/background/{key}"),
    ),
}  # fmt: skip


def catalogue(*, without: str = "", statuses: Mapping[str, int] = MappingProxyType({})) -> tuple[Case, ...]:
    """The requests for one framework: without those whose name the pattern matches whole, with the statuses it has."""
    known = {case.name for case in CATALOGUE}
    assert len(known) == len(CATALOGUE)
    assert statuses.keys() <= known, statuses.keys() - known
    return tuple(
        replace(case, status=statuses.get(case.name, case.status))
        for case in CATALOGUE
        if not re.fullmatch(without, case.name)
    )
