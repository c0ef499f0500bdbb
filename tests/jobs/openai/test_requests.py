"""Requests as no SDK writes them: forms in another order, clients that leave, pages in browsers, wrong paths."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from openai import OpenAI

from tests.jobs.place import Place
from tests.serving import PATIENCE, Response, ask

from .site import Site, chat, create, lines, site, upload

Field = tuple[str, bytes]
FILE: Field = ('name="file"; filename="a.jsonl"', b"x\n")
PURPOSE: Field = ('name="purpose"', b"batch")
ANCHOR: Field = ('name="expires_after[anchor]"', b"created_at")


def seconds(text: bytes) -> Field:
    return ('name="expires_after[seconds]"', text)


def form(*fields: Field) -> bytes:
    parts = [b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (a.encode(), b) for a, b in fields]
    return b"".join(parts) + b"--b--\r\n"


class Asker:
    """Somebody who has nothing yet."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.key = f"sk-{uuid4()}"

    def ask(self, method: str, path: str, *more: tuple[str, str], body: bytes | None = None) -> Response:
        headers = [("Authorization", f"Bearer {self.key}"), *more]
        return ask(self.site.server, method, path, headers, body)

    def upload(self, *fields: Field, content_type: str = "multipart/form-data; boundary=b") -> Response:
        return self.ask("POST", "/v1/files", ("Content-Type", content_type), body=form(*fields))

    def files(self) -> list[Any]:
        found = self.ask("GET", "/v1/files").json()["data"]
        assert isinstance(found, list)
        return found


@pytest.fixture
def asker(shared: Site) -> Asker:
    return Asker(shared)


def error(reply: Response) -> tuple[int, str | None, str]:
    assert reply.header("content-type") == "application/json"
    [found] = json.loads(reply.body).values()
    assert set(found) == {"message", "type", "param", "code"}
    return reply.status, found["param"], found["code"]


@pytest.mark.parametrize(
    "fields",
    [
        (PURPOSE, ANCHOR, seconds(b"3600"), FILE),
        (FILE, PURPOSE, ANCHOR, seconds(b"3600")),
        (ANCHOR, FILE, seconds(b"3600"), PURPOSE, ('name="other"', b"1")),
    ],
)
def test_fields_in_any_order(asker: Asker, fields: tuple[Field, ...]) -> None:
    """There is one file, and it lasts as long as was said."""
    file = asker.upload(*fields).json()
    assert (file["filename"], file["bytes"]) == ("a.jsonl", 2)
    assert file["expires_at"] - file["created_at"] == 3600
    assert asker.files() == [file]
    assert asker.ask("GET", f"/v1/files/{file['id']}/content").body == b"x\n"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ((PURPOSE,), "file", "missing_required_parameter"),
        ((FILE,), "purpose", "missing_required_parameter"),
        ((FILE, ('name="purpose"', b"fine-tune")), "purpose", "invalid_value"),
        ((PURPOSE, FILE, FILE), "file", "invalid_value"),
        ((PURPOSE, FILE, ANCHOR), "expires_after", "invalid_value"),
        ((PURPOSE, FILE, ANCHOR, seconds(b"1e4")), "expires_after", "invalid_value"),
        ((PURPOSE, FILE, seconds(b"3600")), "expires_after", "invalid_value"),
        ((PURPOSE, ('name="long"', b"x" * 2000), FILE), None, "invalid_form"),
        ((PURPOSE, *((f'name="f{n}"', b"") for n in range(20)), FILE), None, "invalid_form"),
    ],
)
def test_forms_that_are_not_valid(asker: Asker, fields: tuple[Field, ...], param: str | None, code: str) -> None:
    """They are refused, and nothing of them is kept."""
    assert error(asker.upload(*fields)) == (400, param, code)
    assert asker.files() == []


def test_what_is_no_form(asker: Asker) -> None:
    assert error(asker.upload(PURPOSE, FILE, content_type="application/json")) == (415, None, "unsupported_media_type")


def test_a_client_that_leaves_amid_its_upload_leaves_nothing(asker: Asker) -> None:
    """The next one has the same quota as before."""
    server = asker.site.server
    with closing(socket.create_connection((server.host, server.port), timeout=PATIENCE)) as connection:
        head = [
            "POST /v1/files HTTP/1.1",
            "Host: a",
            f"Authorization: Bearer {asker.key}",
            "Content-Type: multipart/form-data; boundary=b",
            "Content-Length: 100000000",
        ]
        connection.sendall("\r\n".join([*head, "", ""]).encode() + form(PURPOSE, FILE)[:-10] + b"x" * 500_000)
    assert asker.upload(PURPOSE, FILE).status == 200
    assert len(asker.files()) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/files/", 404, "not_found"),
        ("GET", "/v1/files/a/b", 404, "not_found"),
        ("GET", "/v1/batches/batch_x/content", 404, "not_found"),
        ("GET", f"/v1/files/batch_{'0' * 32}", 404, "not_found"),
        ("GET", f"/v1/batches/file-{'0' * 32}", 404, "not_found"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("GET", "/v1/batches/batch_x/cancel", 405, "method_not_allowed"),
        ("GET", "/v1/files?limit=0", 400, "invalid_query"),
        ("GET", "/v1/files?order=up", 400, "invalid_query"),
        ("GET", "/v1/files?purpose=%00", 400, "invalid_query"),
        ("GET", "/v1/batches?limit=101", 400, "invalid_query"),
        ("GET", "/v1/batches?after=batch_1", 400, "invalid_value"),
        ("GET", "/v1/batches?what=1", 400, "invalid_query"),
    ],
)
def test_requests_that_mean_nothing(asker: Asker, method: str, path: str, status: int, code: str) -> None:
    """Each is answered with an error as the clients know it."""
    reply = asker.ask(method, path)
    assert (error(reply)[0], error(reply)[2]) == (status, code)


def test_the_parameter_at_fault_is_named(asker: Asker) -> None:
    """As in a body."""
    assert asker.ask("GET", "/v1/files?limit=0").json()["error"]["param"] == "limit"
    assert asker.ask("GET", "/v1/batches?what=1").json()["error"]["param"] is None


def test_the_methods_that_there_are(asker: Asker) -> None:
    """Are told whoever uses another one."""
    assert asker.ask("DELETE", "/v1/files").header("allow") == "GET, POST, HEAD"
    assert asker.ask("GET", f"/v1/batches/batch_{'0' * 32}/cancel").header("allow") == "POST"


def test_other_paths_are_those_of_the_api(asker: Asker) -> None:
    """Also if they begin in the same way."""
    assert asker.ask("GET", "/v1/filesystem").json() == {"error": {"message": "no such path"}}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 10_000, b"x" * 300_000])
def test_bodies_that_are_no_batch(asker: Asker, body: bytes) -> None:
    reply = asker.ask("POST", "/v1/batches", ("Content-Type", "application/json"), body=body)
    assert error(reply)[0] in (400, 413)


def test_the_head_of_a_content(shared: Site, client: OpenAI) -> None:
    """Says how long it is, and nothing else."""
    file = upload(client, lines(chat("a")))
    authorization = ("Authorization", f"Bearer {client.api_key}")
    reply = ask(shared.server, "HEAD", f"/v1/files/{file.id}/content", [authorization])
    assert (reply.status, reply.header("content-length")) == (200, str(file.bytes))


def test_pages_of_other_sites_are_refused(asker: Asker) -> None:
    """A browser lets any page send a form, with whatever the user's browser has for this site."""
    reply = asker.ask(
        "POST",
        "/v1/files",
        ("Content-Type", "multipart/form-data; boundary=b"),
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        body=form(PURPOSE, FILE),
    )
    assert error(reply) == (403, None, "cross_site")
    assert asker.files() == []


def test_batches_of_another_path_are_not_there(sqlite: Place) -> None:
    """Over the same store there may be several such APIs, with other settings."""
    with site(sqlite) as running:
        batch = create(running.client(), lines(chat("a")))
    with site(sqlite, openai={"path": "/v2"}) as running:
        key = ("Authorization", "Bearer sk-ann")
        assert error(ask(running.server, "GET", f"/v2/batches/{batch.id}", [key])) == (404, "id", "not_found")
        assert ask(running.server, "GET", "/v2/batches", [key]).json()["data"] == []
