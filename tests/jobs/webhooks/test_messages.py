"""What a webhook says, and what of it lies in the outbox."""

from __future__ import annotations

import json
from datetime import datetime

import msgspec
import pytest

from batchproxy.jobs.resources import kind_name
from batchproxy.jobs.store import Counts, Job, JobState
from batchproxy.jobs.webhooks import WebhookRefused, WebhookSettings, checked, message_for
from tests.documents import DOCS, blocks, section

URL = "https://hooks.example.com/jobs"
SETTINGS = WebhookSettings(secrets={"default": ["env:NOT_READ_FOR_THIS"]})
JOB = Job(
    id="0192f0c1-7c3b-7000-8000-000000000001",
    kind="batch",
    owner="ann",
    state=JobState.FINALIZING,
    ending=JobState.COMPLETED,
    endpoint="/batch",
    total=1,
    options=b"o" * 50_000,
    metadata={"k": "v" * 50_000},
    secret=b"of the caller",
    priority=0,
    created_at=0.0,
    started_at=None,
    finalizing_at=None,
    cancel_requested_at=None,
    finished_at=None,
    expires_at=None,
    purge_at=None,
    input_file=None,
    output_file=None,
    error_file=None,
    error=b"e" * 50_000,
    retry_of=None,
    stored_bytes=0,
    version=1,
    counts=Counts(),
)


def test_the_payload_is_thin() -> None:
    """Type, time, and which job; nothing that its owner alone may know, and no secret anywhere."""
    message = message_for(JOB, URL, "default", at=1_674_087_231.5)
    assert json.loads(message.payload) == {
        "type": "batch.job.completed",
        "timestamp": "2023-01-19T00:13:51.500Z",
        "data": {"id": JOB.id, "kind": "batch", "state": "completed"},
    }
    assert json.loads(message.target) == {"url": URL, "secret": "default"}
    assert len(message.payload) < 20_000
    assert message.event == "batch.job.completed"


def test_the_page_shows_a_message_as_it_is() -> None:
    """Of a job that came to the endpoint `/batch`."""
    section_of_page = section((DOCS / "jobs.md").read_text("utf-8"), "Webhooks")
    drawn = next(each.text for each in blocks(section_of_page) if "webhook-id" in each.text)
    shown = json.loads(drawn.partition("\n\n")[2])
    job = msgspec.structs.replace(JOB, id=shown["data"]["id"], kind=kind_name("/batch"))
    assert json.loads(message_for(job, URL, "default", at=1_674_087_231.5).payload) == shown


@pytest.mark.parametrize("end", ["completed", "cancelled", "expired", "failed"])
def test_each_end_has_its_type(end: str) -> None:
    """That which is told, that which a job is on its way to, or that which it has."""
    state = JobState(end)
    on_its_way = msgspec.structs.replace(JOB, ending=state)
    ended = msgspec.structs.replace(JOB, state=state, ending=None)
    open_still = msgspec.structs.replace(JOB, state=JobState.VALIDATING, ending=None)
    for job, said in ((on_its_way, None), (ended, None), (open_still, state)):
        payload = json.loads(message_for(job, URL, "default", state=said).payload)
        assert (payload["type"], payload["data"]["state"]) == (f"batch.job.{end}", end)


def test_the_time_is_that_of_now() -> None:
    said = json.loads(message_for(JOB, URL, "default").payload)["timestamp"]
    assert datetime.fromisoformat(said).tzinfo is not None


def test_a_job_that_does_not_end_has_nothing_to_tell() -> None:
    with pytest.raises(ValueError, match="no end that could be told"):
        message_for(msgspec.structs.replace(JOB, ending=None, state=JobState.RUNNING), URL, "default")


def test_what_a_caller_asks_for_is_checked() -> None:
    """Where it leads, and that there is a secret of the name; the secret itself is not looked at."""
    checked(URL, "default", SETTINGS)
    for url, secret in (("https://10.0.0.1/", "default"), ("http://hooks.example.com/", "default"), (URL, "other")):
        with pytest.raises(WebhookRefused):
            checked(url, secret, SETTINGS)
