"""The Batch API out of a config file, in the whole process, with the official SDK for Python."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from tests.serving import PATIENCE

from .process import EXAMPLE, client, running
from .site import CHAT, EMBEDDINGS, chat, create, ended, lines, read, upload

ROUTES = """
routes:
  - upstream: models
  - upstream: models
    path: /v1/embeddings
    add_headers: {X-Route: embeddings}
    timeout: 1m
"""


def test_everything_with_python(tmp_path: Path) -> None:
    """Upload, create, poll, read both files, list, be refused, cancel, delete. Lines take the routes of the proxy, and
    keep the limits of upstreams; all else goes to the upstream as it always does."""
    config = EXAMPLE.replace("max_in_flight: 48", "max_in_flight: 2") + ROUTES
    with running(tmp_path, config) as (process, api), client(process) as ann:
        assert ann.chat.completions.create(model="m1", messages=[{"role": "user", "content": "x"}]).choices
        done = ended(ann, create(ann, lines(chat("a"), chat("b", "fail"), chat("ü")), metadata={"k": "v"}))
        assert (done.status, done.metadata) == ("completed", {"k": "v"})
        assert done.request_counts is not None
        assert done.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        good, bad = read(ann, done.output_file_id), read(ann, done.error_file_id)
        assert {name: line["response"]["status_code"] for name, line in (good | bad).items()} == {
            "a": 200,
            "ü": 200,
            "b": 400,
        }
        line = {"custom_id": "e", "method": "POST", "url": EMBEDDINGS, "body": {"model": "m", "input": "abc"}}
        assert ended(ann, create(ann, lines(line), EMBEDDINGS)).status == "completed"
        paths = [(path, headers.get("x-route")) for path, headers, _ in api.seen_by("sk-ann")]
        assert paths.count((CHAT, None)) == 4
        assert paths.count((EMBEDDINGS, "embeddings")) == 1
        assert ended(ann, create(ann, b"oops\n")).status == "failed"
        with pytest.raises(openai.BadRequestError, match="Supported are"):
            create(ann, lines(chat("a")), "/v1/responses")
        with client(process, "sk-bob") as bob, pytest.raises(openai.NotFoundError):
            bob.batches.retrieve(done.id)
        held = create(ann, lines(*(chat(f"h{number}", "hold") for number in range(3))))
        assert all(api.held.acquire(timeout=PATIENCE) for _ in range(2))
        api.release.set()
        assert ended(ann, held).status == "completed"
        assert api.most_held == 2
        cancelled = ann.batches.cancel(create(ann, lines(chat("a"))).id)
        assert ended(ann, cancelled).status in ("cancelled", "completed")
        assert len(ann.batches.list().data) == 5
        file = ann.files.retrieve(done.input_file_id)
        assert (file.expires_at or 0) - file.created_at == 7 * 86400
        assert ann.files.delete(file.id).deleted
        # There are no other batches: the example has none.
        assert process.ask("POST", "/batch", [("Content-Type", "application/json")], b"{}").status == 401
        shown = process.asks_admin("GET", "/-/config").body.decode()
        assert "dialect: openai" in shown
        assert "max_in_flight: 2  #" in shown


def test_a_reload_that_removes_and_adds_it(tmp_path: Path) -> None:
    """Without it the paths are the upstream's again, and its batches wait; with it they go on."""
    with_more = EXAMPLE.replace("endpoints:\n", "endpoints:\n  - path: /batch\n")
    without = with_more[: with_more.index("  - path: /v1")] + with_more[with_more.index("\njobs:") :]
    assert "openai" not in without.partition("endpoints:")[2]
    with running(tmp_path, with_more) as (process, api), client(process) as ann:
        held = create(ann, lines(chat("h", "hold"), chat("a")))
        assert api.held.acquire(timeout=PATIENCE)
        for text, number in ((without, 2), (with_more, 3)):
            process.file.write_text(text, "utf-8")
            verdict = process.asks_admin("POST", "/-/reload").json()
            assert (verdict["accepted"], verdict["generation"], verdict["warnings"]) == (True, number, [])
            if text is without:
                with pytest.raises(openai.NotFoundError, match="no such path"):
                    ann.batches.retrieve(held.id)
        api.release.set()
        assert ended(ann, ann.batches.retrieve(held.id)).status == "completed"
        # A configuration that cannot be put to work changes nothing.
        process.file.write_text(with_more.partition("\njobs:")[0], "utf-8")
        refused = process.asks_admin("POST", "/-/reload").json()
        assert "`dialect` is `openai`, expected a section `jobs`" in refused["errors"][0]
        assert upload(ann, lines(chat("a"))).id
