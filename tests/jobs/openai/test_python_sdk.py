"""The official Python SDK, unmodified, against the Batch API behind a real server."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import OpenAI

from batchproxy.jobs.store import StoreSettings, opened
from tests.jobs.place import Place
from tests.serving import PATIENCE, ask

from .site import CHAT, EMBEDDINGS, QUICK, Site, chat, create, ended, lines, read, site, upload

# Batches


def test_a_batch_of_completions(place: Place) -> None:
    """Uploaded, created, looked at until it ends: what succeeded is in one file, what failed in the other."""
    with site(place) as running:
        client = running.client()
        batch = create(client, lines(chat("a"), chat("b", "fail"), chat("ü", "x")), metadata={"run": "7"})
        assert batch.id.startswith("batch_")
        assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", CHAT, "24h")
        assert batch.metadata == {"run": "7"}
        done = ended(client, batch)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        assert done.created_at <= (done.in_progress_at or 0) <= (done.finalizing_at or 0) <= (done.completed_at or 0)
        assert (done.failed_at, done.expired_at, done.cancelled_at, done.errors) == (None, None, None, None)
        assert done.expires_at == done.created_at + 86400
        good, bad = read(client, done.output_file_id), read(client, done.error_file_id)
        assert good.keys() == {"a", "ü"}
        assert set(good["a"]) == {"id", "custom_id", "response", "error"}
        assert good["a"]["error"] is None
        assert good["a"]["id"].startswith("batch_req_")
        assert good["a"]["response"]["status_code"] == 200
        assert good["a"]["response"]["request_id"] == "req_of_api"
        assert good["a"]["response"]["body"]["choices"][0]["message"]["content"] == "echo hello"
        assert bad["b"]["response"]["status_code"] == 400
        assert bad["b"]["response"]["body"]["error"]["code"] == "bad"
        assert bad["b"]["error"] is None
        assert {headers["authorization"] for _, headers, _ in running.api.seen} == {"Bearer sk-ann"}


def test_a_batch_of_embeddings(client: OpenAI) -> None:
    """For whatever endpoint is allowed, and without an error file if there is no error."""
    line = {"custom_id": "e", "method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": "four"}}
    done = ended(client, create(client, lines(line), EMBEDDINGS))
    assert (done.status, done.error_file_id) == ("completed", None)
    found = read(client, done.output_file_id)
    assert found["e"]["response"]["body"]["data"][0]["embedding"] == [4.0, 0.5]


def test_a_body_goes_to_the_api_as_it_was_written(shared: Site, client: OpenAI) -> None:
    """Nothing in it is changed, also not what JSON libraries like to change."""
    body = b'{"model":"m", "input" : "abcd", "n": 1.10, "big": 123456789012345678901234567890, "u":"\\u00e9\xc3\xa9"}'
    line = b'{"custom_id":"e","method":"POST","url":"/v1/embeddings","body":' + body + b"}\n"
    assert ended(client, create(client, line, EMBEDDINGS)).status == "completed"
    [(path, headers, said)] = shared.api.seen_by(client.api_key)
    assert (path, headers["content-type"], headers["content-length"]) == (
        EMBEDDINGS,
        "application/json",
        str(len(body)),
    )
    assert said["big"] == 123456789012345678901234567890
    assert said["u"] == "éé"


def test_a_batch_of_which_everything_fails_is_completed(client: OpenAI) -> None:
    """Without an output file, so that there is nothing empty to read."""
    done = ended(client, create(client, lines(chat("a", "fail"), chat("b", "broken"))))
    assert (done.status, done.output_file_id) == ("completed", None)
    bad = read(client, done.error_file_id)
    assert bad["a"]["response"]["status_code"] == 400
    assert bad["b"]["response"] is None
    assert bad["b"]["error"]["code"] == "app_error"


def test_answers_that_are_not_one_line_of_json(client: OpenAI) -> None:
    """Text becomes a string; line breaks inside of JSON become blanks, for a line is a line."""
    done = ended(client, create(client, lines(chat("t", "text"), chat("l", "lines"))))
    good = read(client, done.output_file_id)
    assert good["t"]["response"]["body"] == "grüße\r\n"
    assert good["l"]["response"]["body"] == {"a": [1]}


def test_cancelling_keeps_what_is_done(place: Place) -> None:
    """Requests that were not sent are in the error file, under their own names; to cancel again changes nothing."""
    requests = [chat("done"), *(chat(f"h{n}", "hold") for n in range(8)), *(chat(f"r{n}") for n in range(20))]
    # What comes after the first nine is in other chunks, and nobody gets those of a batch that is cancelled.
    with site(place, store={"chunk_items": 9}, work=replace(QUICK, chunks=1)) as running:
        client = running.client()
        batch = create(client, lines(*requests))
        for _ in range(8):
            assert running.api.held.acquire(timeout=PATIENCE)
        cancelling = client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        assert cancelling.cancelling_at is not None
        running.api.release.set()
        done = ended(client, cancelling)
        assert done.status == "cancelled"
        assert done.cancelled_at is not None
        good, bad = read(client, done.output_file_id), read(client, done.error_file_id)
        assert good.keys() == {"done", *(f"h{n}" for n in range(8))}
        assert bad.keys() == {f"r{n}" for n in range(20)}
        assert {line["error"]["code"] for line in bad.values()} == {"batch_cancelled"}
        assert all(line["response"] is None for line in bad.values())
        assert done.request_counts is not None
        assert done.request_counts.model_dump() == {"total": 29, "completed": 9, "failed": 20}
        assert client.batches.cancel(batch.id) == done


def test_an_expired_batch(sqlite: Place) -> None:
    """Each request is in one of the files; those that were not sent have a code that says so."""
    requests = [chat(f"c{n}", "hold") for n in range(30)]
    # Time enough for its validation, and not for its requests.
    with site(sqlite, deadline=3.0) as running:
        client = running.client()
        batch = create(client, lines(*requests))
        while batch.status in ("validating", "in_progress"):
            time.sleep(0.02)
            batch = client.batches.retrieve(batch.id)
        running.api.release.set()
        done = ended(client, batch)
        assert done.status == "expired"
        assert batch.created_at < (done.expires_at or 0) <= (done.expired_at or 0)
        found = {
            name: line
            for file_id in (done.output_file_id, done.error_file_id)
            if file_id is not None
            for name, line in read(client, file_id).items()
        }
        assert found.keys() == {line["custom_id"] for line in requests}
        assert {line["error"]["code"] for line in found.values() if line["error"]} == {"batch_expired"}


def test_output_files_last_as_long_as_was_asked(client: OpenAI) -> None:
    """From the time at which they are made; else for thirty days."""
    asked = ended(
        client, create(client, lines(chat("a")), output_expires_after={"anchor": "created_at", "seconds": 7200})
    )
    for batch, seconds in ((asked, 7200), (ended(client, create(client, lines(chat("a")))), 2_592_000)):
        file = client.files.retrieve(batch.output_file_id or "")
        assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
        assert file.expires_at is not None
        assert abs(file.expires_at - file.created_at - seconds) <= 1


def test_batches_page_by_page(client: OpenAI) -> None:
    """The newest first, each once, whatever the size of a page."""
    file = upload(client, lines(chat("a")))
    made = [client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    first = client.batches.list(limit=2)
    assert (first.has_more, [batch.id for batch in first.data]) == (True, made[:2:-1])
    last = client.batches.list(limit=4, after=made[2])
    assert (last.has_more, [batch.id for batch in last.data]) == (False, [made[1], made[0]])
    assert client.batches.list(after=made[0]).data == []


def test_an_input_file_may_be_deleted_once_it_was_read(sqlite: Place) -> None:
    """The batch has its lines by then."""
    with site(sqlite) as running:
        client = running.client()
        batch = create(client, lines(chat("a"), chat("h", "hold")))
        assert running.api.held.acquire(timeout=PATIENCE)
        assert client.files.delete(batch.input_file_id).deleted
        running.api.release.set()
        done = ended(client, batch)
        assert done.status == "completed"
        assert read(client, done.output_file_id).keys() == {"a", "h"}


def test_an_idempotency_key_makes_one_batch(client: OpenAI) -> None:
    """The same request again is answered with the batch that is there; another one is refused."""
    file = upload(client, lines(chat("a")))
    key = {"idempotency-key": "k1"}

    def created(window: Any) -> str:
        return client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window=window, extra_headers=key
        ).id

    assert created("24h") == created("24h")
    with pytest.raises(openai.UnprocessableEntityError, match="another content"):
        created("1h")


# Files


def test_files(client: OpenAI) -> None:
    """Uploaded, shown, listed, read, deleted."""
    content = lines(chat("a"))
    file = upload(client, content)
    assert file.id.startswith("file-")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(content), "in.jsonl", "batch", "processed")
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 2_592_000) <= 1
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    others = [upload(client, b"").id for _ in range(3)]
    assert [each.id for each in client.files.list(limit=2)] == [*others[::-1], file.id]
    assert [each.id for each in client.files.list(limit=2, order="asc")] == [file.id, *others]
    assert [each.id for each in client.files.list(after=file.id, order="asc")] == others
    assert client.files.list(purpose="batch_output").data == []
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    for look in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as refused:
            look(file.id)
        assert refused.value.param == "id"


@pytest.mark.parametrize("name", ['a "b".jsonl', "grüße.jsonl", "../../etc/passwd", "x" * 300])
def test_names_of_files(client: OpenAI, name: str) -> None:
    """They are names and nothing else, and not endless."""
    assert client.files.create(file=(name, b"x"), purpose="batch").filename == name[:255]


def test_an_expiry_of_a_file(client: OpenAI) -> None:
    """In seconds from its making."""
    file = upload(client, b"x\n", expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at is not None
    assert abs(file.expires_at - file.created_at - 3600) <= 1
    with pytest.raises(openai.BadRequestError, match="3600 to 2592000"):
        upload(client, b"x\n", expires_after={"anchor": "created_at", "seconds": 10})


# What goes wrong


def test_files_and_batches_of_others_do_not_exist(shared: Site, client: OpenAI) -> None:
    """On no route; whose they are is told by the credential."""
    batch = ended(client, create(client, lines(chat("a"))))
    names = [batch.input_file_id, batch.output_file_id or ""]
    bob = shared.client("sk-bob")
    assert bob.files.list().data == []
    assert bob.batches.list().data == []
    for name in names:
        for look in (bob.files.retrieve, bob.files.content, bob.files.delete):
            with pytest.raises(openai.NotFoundError):
                look(name)
    for ask_for in (bob.batches.retrieve, bob.batches.cancel):
        with pytest.raises(openai.NotFoundError) as refused:
            ask_for(batch.id)
        assert refused.value.code == "not_found"
    with pytest.raises(openai.BadRequestError) as refused_file:
        bob.batches.create(input_file_id=names[0], endpoint=CHAT, completion_window="24h")
    assert (refused_file.value.code, refused_file.value.param) == ("file_not_found", "input_file_id")
    assert client.files.list().data != []


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"input_file_id": "file-nothing"}, "input_file_id", "file_not_found"),
        ({"endpoint": "/v1/files"}, "endpoint", "invalid_endpoint"),
        ({"endpoint": "/v1/chat/../files"}, "endpoint", "invalid_value"),
        ({"endpoint": "/admin"}, "endpoint", "invalid_endpoint"),
        ({"endpoint": "https://elsewhere/v1/embeddings"}, "endpoint", "invalid_value"),
        ({"endpoint": None}, "endpoint", "invalid_type"),
        ({"completion_window": "soon"}, "completion_window", "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata", "invalid_type"),
        ({"metadata": {f"k{n}": "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k": "x" * 513}}, "metadata", "invalid_value"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after", "invalid_value"),
        ({"output_expires_after": {"anchor": "created_at"}}, "seconds", "missing_required_parameter"),
    ],
)
def test_requests_that_are_not_valid(client: OpenAI, changed: dict[str, Any], param: str, code: str) -> None:
    """They are refused at once, with the parameter at fault."""
    given = {"input_file_id": upload(client, lines(chat("a"))).id, "endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(**{**given, **changed})
    error = refused.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")


@pytest.mark.parametrize("endpoint", ["/v1/files", "/v1/batches", "/v1/batches/batch_1/cancel", "/v1/%62atches"])
def test_there_are_no_batches_of_batches(sqlite: Place, endpoint: Any) -> None:
    """Whatever else is allowed."""
    with site(sqlite, openai={"allow": ["/**"]}, works=False) as running:
        client = running.client()
        assert create(client, lines(chat("a")), "/v2/anything?x=1").endpoint == "/v2/anything?x=1"
        with pytest.raises(openai.BadRequestError) as refused:
            create(client, lines(chat("a")), endpoint)
        assert refused.value.code == "invalid_endpoint"


def test_other_purposes_are_refused(client: OpenAI) -> None:
    """Before the content or behind it, and nothing is kept."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a", b"x"), purpose="vision")
    assert refused.value.param == "purpose"
    assert client.files.list().data == []


def test_an_output_file_is_no_input(client: OpenAI) -> None:
    """It has another purpose."""
    done = ended(client, create(client, lines(chat("a"))))
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id=done.output_file_id or "", endpoint=CHAT, completion_window="24h")
    assert refused.value.code == "invalid_file_purpose"


def test_a_file_that_is_too_large(sqlite: Place) -> None:
    """It is refused amid the upload, and leaves nothing."""
    with site(sqlite, openai={"max_batch_bytes": 100_000}) as running:
        client = running.client()
        for size in (100_001, 1_000_000):
            with pytest.raises(openai.APIStatusError) as refused:
                upload(client, b"x" * size)
            assert refused.value.status_code == 413
        assert upload(client, b"x" * 100_000).bytes == 100_000
        assert len(client.files.list().data) == 1


def test_a_server_without_a_key_keeps_no_credentials(sqlite: Place) -> None:
    """It says so, instead of writing them down."""
    with site(sqlite, has_key=False) as running:
        client = running.client()
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            create(client, lines(chat("a")))
        assert refused.value.code == "secrets_unavailable"
        assert client.batches.list().data == []


def test_quotas(sqlite: Place) -> None:
    """What is too much is refused with what the limit is."""
    with site(sqlite, store={"open_jobs": 1, "stored_bytes": 1 << 20}, works=False) as running:
        client = running.client()
        create(client, lines(chat("a")))
        with pytest.raises(openai.RateLimitError) as refused:
            create(client, lines(chat("a")))
        assert (refused.value.code, refused.value.type) == ("quota_exceeded", "rate_limit_error")
        with pytest.raises(openai.APIStatusError) as full:
            upload(client, b"x" * (2 << 20))
        assert full.value.status_code == 507


def test_nobody_in_particular_has_no_files(shared: Site) -> None:
    """A request without a credential is refused as one."""
    reply = ask(shared.server, "GET", "/v1/files")
    assert reply.status == 401
    assert json.loads(reply.body)["error"]["code"] == "invalid_api_key"
    assert reply.header("www-authenticate") == "Bearer"


def test_credentials_are_kept_for_nobody_to_read(sqlite: Place) -> None:
    """As long as the batch has not ended they are encrypted, and then they are gone."""
    with site(sqlite) as running:
        client = running.client("sk-very-secret")
        batch = create(client, lines(chat("h", "hold")))
        assert running.api.held.acquire(timeout=PATIENCE)
        assert not any(b"sk-very-secret" in path.read_bytes() for path in sqlite.folder.rglob("*") if path.is_file())
        running.api.release.set()
        ended(client, batch)
    assert asyncio.run(_secrets(sqlite)) == [None]


async def _secrets(place: Place) -> list[bytes | None]:
    async with opened(StoreSettings(url=place.url)) as store:
        return [job.secret for job in (await store.jobs.list(None)).jobs]
