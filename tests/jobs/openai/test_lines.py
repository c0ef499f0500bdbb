"""What a batch says of an input file that is not valid, and which ones are."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from sqlite3 import connect
from typing import Any

import pytest
from openai import OpenAI

from batchproxy.jobs.store import Limits
from tests.jobs.place import Place

from .site import CHAT, QUICK, Site, chat, create, ended, lines, read, site


def faults(client: OpenAI, content: bytes) -> list[tuple[str | None, int | None, str | None]]:
    """Code, line and parameter of each; the batch has failed with nothing else to tell."""
    done = ended(client, create(client, content))
    assert done.status == "failed"
    assert done.failed_at is not None
    assert (done.output_file_id, done.error_file_id, done.completed_at) == (None, None, None)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"total": 0, "completed": 0, "failed": 0}
    assert done.errors is not None
    assert done.errors.object == "list"
    assert done.errors.data
    assert all(each.message for each in done.errors.data)
    return [(each.code, each.line, each.param) for each in done.errors.data]


GOOD = chat("good")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [("empty_file", None, None)]),
        (b"\n \r\n\t\n", [("empty_file", None, None)]),
        (b"\xef\xbb\xbf", [("empty_file", None, None)]),
        (lines(GOOD, b"{not json", b"[1]", b"1"), [("invalid_json_line", n, None) for n in (2, 3, 4)]),
        (lines(GOOD, b'{"custom_id": "\xff"}'), [("invalid_json_line", 2, None)]),
        (lines(GOOD).replace(b"hello", b"\xff"), [("invalid_json_line", 1, None)]),
        (lines(b"[" * 5000 + b"]" * 5000), [("invalid_json_line", 1, None)]),
        (b"\n\r\n" + lines(GOOD) + b"\n" + lines(GOOD), [("duplicate_custom_id", 5, "custom_id")]),
        (lines(chat("a", url="/v1/embeddings")), [("url_mismatch", 1, "url")]),
        (lines(chat("a", url=f"https://api.openai.com{CHAT}")), [("url_mismatch", 1, "url")]),
        (lines(chat("a", method="GET")), [("invalid_method", 1, "method")]),
        (lines(chat("a"), chat("b"), chat("c", model="m2")), [("model_mismatch", 3, "body.model")]),
        (lines(chat("")), [("invalid_custom_id", 1, "custom_id")]),
        (lines(chat("a\0b")), [("invalid_custom_id", 1, "custom_id")]),
        (lines(chat("x" * 513)), [("invalid_custom_id", 1, "custom_id")]),
        (lines({**GOOD, "custom_id": 7}), [("invalid_type", 1, "custom_id")]),
        (lines({**GOOD, "body": "text"}), [("invalid_type", 1, "body")]),
        (lines({**GOOD, "body": None}), [("invalid_type", 1, "body")]),
        *(
            (lines({k: v for k, v in GOOD.items() if k != name}), [("missing_required_parameter", 1, name)])
            for name in GOOD
        ),
    ],
)
def test_files_that_are_not_valid(client: OpenAI, content: bytes, expected: list[Any]) -> None:
    """Nothing of them is run; each fault is told with its line."""
    assert faults(client, content) == expected


def test_nothing_of_an_invalid_file_is_run(shared: Site, client: OpenAI) -> None:
    """Not even the lines before the fault."""
    faults(client, lines(*(chat(f"{n}") for n in range(300)), b"oops"))
    assert shared.api.seen_by(client.api_key) == []


def test_many_faults_are_told_up_to_a_number(client: OpenAI) -> None:
    """Then it is clear enough."""
    assert len(faults(client, lines(*[b"x"] * 200))) == 50


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + lines(chat("a"), chat("b")),
        lines(chat("a"), chat("b")).replace(b"\n", b"\r\n"),
        lines(chat("a"), chat("b")).rstrip(b"\n"),
        b"\n\n" + lines(chat("a"), b"", b"  ", chat("b")) + b"\r\n\n",
        lines(chat("a", extra={"x": 1}), chat("b")),
        lines(chat("a"), json.dumps(chat("b"), indent=None, separators=(" ,", " : ")).encode()),
    ],
    ids=["bom", "crlf", "no last line end", "blank lines", "more members", "blanks"],
)
def test_files_that_are_valid(client: OpenAI, content: bytes) -> None:
    """However they are written."""
    done = ended(client, create(client, content))
    assert done.status == "completed"
    assert read(client, done.output_file_id).keys() == {"a", "b"}


def test_limits(sqlite: Place) -> None:
    """Of lines, of one of them; and one model may be made no condition."""
    limits = {"max_items": 3, "max_item_bytes": 1000, "one_model": False}
    with site(sqlite, openai=limits) as running:
        client = running.client()
        enough = [chat(f"{n}", model=f"m{n}") for n in range(3)]
        assert ended(client, create(client, lines(*enough))).status == "completed"
        assert faults(client, lines(*enough, chat("4"), chat("5"))) == [("too_many_lines", 4, None)]
        assert faults(client, lines(chat("a", "x" * 1000))) == [("body_too_large", 1, "body")]
        assert faults(client, lines(chat("a"), chat("b", "x" * 20_000))) == [("line_too_long", 2, None)]


def test_an_endpoint_is_limited_however_it_is_spelled(sqlite: Place) -> None:
    """Else whoever writes a query behind it would have limits of his own, and leave a trace of each in the store."""
    with site(sqlite, work=replace(QUICK, limits={CHAT: Limits(max_in_flight=2)})) as running:
        client = running.client()
        for endpoint in (CHAT, f"{CHAT}?version=2", CHAT.replace("s", "%73")):
            batch = create(client, lines(chat("a", url=endpoint)), endpoint=endpoint)
            assert ended(client, batch).status == "completed"
        with closing(connect(sqlite.url.removeprefix("sqlite:///"))) as database:
            assert database.execute("SELECT upstream FROM batchproxy_limiter").fetchall() == [(CHAT,)]


def test_a_file_that_is_larger_than_the_limits_of_today(sqlite: Place) -> None:
    """It was uploaded when they were others."""
    content = lines(*(chat(f"{n}") for n in range(100)))
    with site(sqlite) as running:
        file = running.client().files.create(file=("in", content), purpose="batch")
    with site(sqlite, openai={"max_batch_bytes": 1000}) as running:
        client = running.client()
        batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        done = ended(client, batch)
        assert done.errors is not None
        assert done.errors.data is not None
        assert [each.code for each in done.errors.data] == ["file_too_large"]


def test_an_input_file_that_is_gone(sqlite: Place) -> None:
    """The batch fails with that, instead of being looked for again and again."""
    with site(sqlite, works=False) as running:
        client = running.client()
        batch = create(client, lines(GOOD))
        client.files.delete(batch.input_file_id)
    with site(sqlite) as running:
        client = running.client()
        done = ended(client, client.batches.retrieve(batch.id))
        assert done.errors is not None
        assert done.errors.data is not None
        assert [(each.code, each.param) for each in done.errors.data] == [("input_file_gone", "input_file_id")]


def test_a_batch_that_is_cancelled_before_it_was_read(sqlite: Place) -> None:
    """It has no files, for it has no lines."""
    with site(sqlite, works=False) as running:
        client = running.client()
        batch = create(client, lines(GOOD))
        assert batch.status == "validating"
        assert client.batches.cancel(batch.id).status == "cancelling"
    with site(sqlite) as running:
        client = running.client()
        done = ended(client, client.batches.retrieve(batch.id))
        assert (done.status, done.output_file_id, done.error_file_id) == ("cancelled", None, None)
