"""What a batch may ask of its job, in whole processes: that its caller is told, and how items are delivered."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from batchproxy.engine.model import Receive, Scope, Send
from batchproxy.jobs.store import Claim, Job, JobStore, Message, NewJob
from batchproxy.jobs.working import Failed, JobBatch, JobKind
from batchproxy.server.job_settings import Jobs, Store, Webhooks, Work
from batchproxy.server.jobs import ProcessJobs
from tests.faults.whole import Whole, whole
from tests.jobs.webhooks.sending import SECRET, VARIABLE, receiving
from tests.proxy.on_a_loop import on_a_loop
from tests.serving import ask, serve

from .job_process import LINES, Behind, ended, eventually, job, results, working
from .test_jobs_process import config, listening

OWN = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
CALLERS = "whsec_YmFzZTY0IG9mIHNvbWUgdGhpcnR5IGJ5dGVzIG9yIHNv"
VARIABLES = {"OWN": OWN, "CALLERS": CALLERS}
Got = Sequence[tuple[dict[str, str], bytes]]


def webhooks(port: int, *said: str) -> str:
    return f"webhooks: {{http: true, ports: [{port}], allow: [127.0.0.0/8], {', '.join(said)}}}"


def asked(port: int, **more: Any) -> Mapping[str, Any]:
    return {"callback": {"url": f"http://127.0.0.1:{port}/callers", **more}}


def body(options: Mapping[str, Any], *items: Mapping[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in ({"options": options}, *items))


def submitted(process: Whole, options: Mapping[str, Any], *items: Mapping[str, Any]) -> str:
    answer = process.ask("POST", "/batch", LINES, body(options, *items))
    assert answer.status == 202, answer
    return answer.header("location") or ""


def told(got: Got, secret: str) -> list[tuple[str, Any]]:
    """The id and the content of each message that is signed by this secret."""
    found = []
    for headers, content in got:
        try:
            found.append((headers["webhook-id"], Webhook(secret).verify(content, headers)))
        except Exception:  # not this secret
            continue
    return found


# Callbacks


def test_the_operator_and_the_caller_are_told(tmp_path: Path) -> None:
    """Both of one job, each signed by the secret that is his; the caller may not name the operator's."""
    behind = Behind()
    with behind.served() as server, listening() as (port, got):
        own = (f"url: 'http://127.0.0.1:{port}/own'", "signing: ['env:OWN']")
        jobs = webhooks(port, *own, "callbacks: {billing: ['env:CALLERS']}")
        with whole(tmp_path, config(server, tmp_path, jobs=jobs), variables=VARIABLES) as process:
            refused = process.ask("POST", "/batch", LINES, body(asked(port, secret_ref="default"), {"path": "/x"}))
            assert (refused.status, refused.json()["pointer"]) == (422, "/options/callback/secret_ref")
            path = submitted(process, asked(port), {"path": "/x"})
            ended(process, path)
            eventually(lambda: len(got), (2).__eq__)
    job_id = path.rpartition("/")[2]
    for secret, name in ((OWN, "0"), (CALLERS, "callback")):
        [(message_id, said)] = told(got, secret)
        assert message_id == f"{job_id}_batch_job_completed_{name}"
        assert said["data"]["id"] == job_id


def test_a_worker_tells(tmp_path: Path) -> None:
    """Where the server only takes jobs, it is `batchproxy worker` that sends, by the same config file."""
    behind = Behind()
    with behind.served() as server, listening() as (port, got):
        jobs = "worker: {embedded: false, poll: 200ms}\n  " + webhooks(port, "callbacks: {billing: ['env:CALLERS']}")
        with whole(tmp_path, config(server, tmp_path, jobs=jobs), variables=VARIABLES) as process:
            path = submitted(process, asked(port, secret_ref="billing", events=["completed"]), {"path": "/x"})
            with working("--config", process.file, variables=VARIABLES):
                ended(process, path)
                eventually(lambda: len(got), (1).__eq__)
    [(_, said)] = told(got, CALLERS)
    assert said["data"]["id"] == path.rpartition("/")[2]


APP = """
from batchproxy import BatchMiddleware
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.webhooks import WebhookSettings

async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("there is none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

store = StoreSettings(url="sqlite:///FOLDER/jobs.db")
webhooks = WebhookSettings(secrets={"one": ["env:CALLERS"]}, http=True, ports=[PORT], allow=["127.0.0.0/8"])
app = BatchMiddleware(plain, jobs=JobsSettings(store=store, anonymous=True, worker=False, webhooks=webhooks))
"""


def test_a_worker_for_an_app_tells(tmp_path: Path) -> None:
    """With `--app` the settings of the app count; its server, which does not work, sends nothing."""
    with listening() as (port, got):
        text = APP.replace("FOLDER", str(tmp_path)).replace("PORT", str(port))
        (tmp_path / "shop.py").write_text(text, "utf-8")
        names: dict[str, Any] = {}
        exec(text, names)
        variables = {**VARIABLES, "BATCHPROXY_JOBS__STORE__URL": f"sqlite:///{tmp_path}/jobs.db"}
        with serve(names["app"]) as server:
            answer = ask(server, "POST", "/batch", LINES, body(asked(port), {"path": "/x"}))
            assert answer.status == 202, answer
            with working("--app", "shop:app", variables=variables, folder=tmp_path) as worker:
                eventually(lambda: len(got), (1).__eq__)
                worker.signal(signal.SIGTERM)
                assert worker.ended() == 0
    assert [said["data"]["id"] for _, said in told(got, CALLERS)] == [answer.json()["id"]]


class _Never(JobKind):
    """Jobs that are not valid, whatever they say."""

    name = "never"

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed:
        return Failed(error=b"no", messages=[Message(event="x", target=b"", payload=b"")])

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        raise AssertionError

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message]:
        raise AssertionError

    def unfinished(self, job: Job) -> Failed:
        return Failed(error=b"gone", messages=[Message(event="x", target=b"", payload=b"")])


class _Serving:
    """A generation that has such jobs."""

    def __init__(self) -> None:
        self.served: Any = self
        self.kinds = {_Never.name: _Never()}

    async def serve_item(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError


@on_a_loop
async def test_a_validation_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the operator, whatever kind of job it is; beside what the kind itself has to tell."""
    monkeypatch.setenv(VARIABLE, SECRET)
    async with receiving() as receiver:
        own = Webhooks(
            url=receiver.url, signing=[f"env:{VARIABLE}"], http=True, ports=[receiver.port], allow=["127.0.0.0/8"]
        )
        store = Store(url=f"sqlite:///{tmp_path}/jobs.db")
        serving = _Serving()
        jobs = ProcessJobs(Jobs(store=store, webhooks=own, worker=Work(poll=0.1)), lambda: serving)
        await jobs.start()
        try:
            assert jobs.store is not None
            async with jobs.store.submission(NewJob(owner="ann", kind="never", validate=True)) as submission:
                new = (await submission.commit()).job
            [received] = await receiver.got(1)
        finally:
            await jobs.stop(5)
            await jobs.aclose()
    said = received.verified()
    assert (said["type"], said["data"]["id"]) == ("batch.job.failed", new.id)


# Delivery


def posts(number: int) -> list[Mapping[str, Any]]:
    return [{"path": f"/pay/{n}", "method": "POST", "body": {"n": n}} for n in range(number)]


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"delivery": "at_least_once"}, "endpoint_delivery: {/batch: at_most_once}"),
        ({"delivery": "at_most_once"}, "delivery: at_least_once"),
    ],
    ids=["least", "most"],
)
def test_items_that_were_on_their_way(options: Mapping[str, Any], setting: str, tmp_path: Path) -> None:
    """A process is killed while its upstream has them: they are sent again, or end `unknown`, as it was asked for."""
    behind = Behind()
    is_least = options.get("delivery") != "at_most_once"
    with behind.served() as server:
        text = config(server, tmp_path, jobs=f"worker: {{concurrency: 4, poll: 200ms}}\n  {setting}")
        behind.hold_after(9)
        with whole(tmp_path, text) as process:
            path = submitted(process, options, *posts(20))
            # The four that are held; all that was done before is committed.
            eventually(lambda: (job(process, path)["counts"]["completed"], len(behind.seen)), (8, 12).__eq__)
            process.signal(signal.SIGKILL)
            process.ended()
        behind.open_up()
        with whole(tmp_path, text) as process:
            done = ended(process, path)
            found = results(process, path)
    assert done["delivery"] == ("at_least_once" if is_least else "at_most_once")
    twice = [each for each, times in behind.seen.items() if times > 1]
    unknown = [f"/pay/{each['index']}" for each in found if each["outcome"] == "unknown"]
    assert len(behind.seen) == 20
    assert (len(twice), unknown) == (4, []) if is_least else (twice, len(unknown)) == ([], 4)
