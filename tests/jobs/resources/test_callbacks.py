"""Callbacks: who asks for it with a batch is told of the end of its job, by whoever works on it, and by nobody else."""

from __future__ import annotations

import asyncio
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from batchproxy.engine.errors import SettingError
from batchproxy.engine.model import Callback, Caller, Options, Receive, Scope, Send
from batchproxy.jobs.resources import Box, JobsSettings, Vault
from batchproxy.jobs.resources.callbacks import opener
from batchproxy.jobs.resources.service import JobService
from batchproxy.jobs.resources.stored import packed_options
from batchproxy.jobs.store import TERMINAL, NewJob, StoreSettings, opened
from batchproxy.jobs.webhooks import Undelivered, WebhookSettings
from batchproxy.jobs.working import JobWorker
from tests.jobs.place import Place
from tests.jobs.processes import ended, killing, started
from tests.jobs.webhooks.sending import OTHER, SECRET, VARIABLE, receiving, settings as hooks
from tests.protocol.api import Api, answer
from tests.protocol.exchange import JSON
from tests.proxy.on_a_loop import on_a_loop
from tests.serving import StartupFailed, serve

from .site import ANN, ASYNC, BOB, QUICK, job_id, location, rows, settings, site, until

MANY: list[JSON] = [{"path": "/long", "method": "POST", "body": "x" * 100_000}] * 3
"""More than what is held back of lines."""
ENDS = ["completed", "failed", "cancelled", "expired"]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)


def told_to(url: str, **said: Any) -> JSON:
    return {"callback": {"url": url, **said}}


async def never(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


# Told


@on_a_loop
async def test_who_asks_is_told(place: Place) -> None:
    """Signed with the only secret there is, once; the job shows what was asked for, to its owner, and no secret."""
    async with receiving() as receiver, site(place, jobs={"webhooks": hooks(receiver.port)}) as here:
        reply = await here.send([{"path": "/a"}], options=told_to(receiver.url))
        path = location(reply)
        shown: JSON = {"url": receiver.url, "events": ENDS, "secret_ref": "default"}
        assert reply.json()["callback"] == shown
        [received] = await receiver.got(1)
        said = received.verified()
        assert (said["type"], said["data"]["id"]) == ("batch.job.completed", job_id(path))
        assert said["data"] == {"id": job_id(path), "kind": "batch /batch", "state": "completed"}
        assert received.id == f"{job_id(path)}_batch_job_completed_callback"
        assert (await here.get(path)).json()["callback"] == shown
        assert SECRET.encode() not in (await here.get(path)).body + (await here.get("/batch/jobs")).body
        for target in (path, "/batch/jobs", f"{path}/events"):
            assert receiver.url.encode() not in (await here.get(target, headers=BOB)).body
        silent = await here.send([{"path": "/a"}])
        assert silent.json()["callback"] is None
        await here.ended(location(silent))
        assert len(receiver.received) == 1


@pytest.mark.parametrize("many", [[], MANY], ids=["few", "many"])
@on_a_loop
async def test_lines_ask_in_the_first_one(sqlite: Place, many: list[JSON]) -> None:
    """Of lines, it stands among the options of the first."""
    async with receiving() as receiver, site(sqlite, jobs={"webhooks": hooks(receiver.port)}) as here:
        head: JSON = {"options": told_to(receiver.url, events=["completed"])}
        path = location(await here.send_lines([head, {"path": "/a"}, *many]))
        [received] = await receiver.got(1)
        assert received.verified()["data"]["id"] == job_id(path)


@pytest.mark.parametrize("end", ["cancelled", "expired"])
@on_a_loop
async def test_each_end_is_told(place: Place, end: str) -> None:
    """Whatever brought it about."""
    async with (
        receiving() as receiver,
        site(place, Api({"/never": never}), jobs={"webhooks": hooks(receiver.port)}) as here,
    ):
        timeout: JSON = {} if end == "cancelled" else {"timeout": 0.2}
        options = {**told_to(receiver.url, events=[end]), **timeout}
        path = await here.submitted([{"path": "/never"}], options=options)
        if end == "cancelled":
            await here.ask("POST", f"{path}/cancel")
        [received] = await receiver.got(1)
        assert received.verified()["data"] == {"id": job_id(path), "kind": "batch /batch", "state": end}


@on_a_loop
async def test_only_the_ends_that_were_asked_for_are_told(sqlite: Place) -> None:
    """Of others there is no message at all."""
    async with receiving() as receiver, site(sqlite, jobs={"webhooks": hooks(receiver.port)}) as here:
        quiet = told_to(receiver.url, events=["failed", "cancelled", "failed"])
        path = await here.submitted([{"path": "/a"}], options=quiet)
        job = await here.ended(path)
        assert (job["state"], job["callback"]["events"]) == ("completed", ["failed", "cancelled"])
        second = await here.submitted([{"path": "/a"}], options=told_to(receiver.url))
        await receiver.got(1)
        assert [each.verified()["data"]["id"] for each in receiver.received] == [job_id(second)]


def test_the_ends_are_those_of_jobs() -> None:
    """What can be asked for is every end that there is."""
    assert set(ENDS) == {state.value for state in TERMINAL}


@on_a_loop
async def test_a_job_that_is_not_valid_is_told(place: Place) -> None:
    """Along with its failure."""
    async with receiving() as receiver, site(place, jobs={"webhooks": hooks(receiver.port)}) as here:
        options = Options(callback=Callback(receiver.url, tuple(ENDS), "default"))
        new = NewJob(owner="ann", kind="batch /batch", validate=True, options=packed_options(Caller(""), options))
        async with here.store.submission(new) as submission:
            job = (await submission.commit()).job
        [received] = await receiver.got(1)
        assert received.verified()["data"] == {"id": job.id, "kind": "batch /batch", "state": "failed"}


@on_a_loop
async def test_the_secret_is_the_one_that_is_named(sqlite: Place, tmp_path: Path) -> None:
    """Of several, one has to be named."""
    (tmp_path / "other").write_text(OTHER)
    secrets = {"one": [f"env:{VARIABLE}"], "other": [f"file:{tmp_path}/other"]}
    async with receiving() as receiver, site(sqlite, jobs={"webhooks": hooks(receiver.port, secrets=secrets)}) as here:
        await here.submitted([{"path": "/a"}], options=told_to(receiver.url, secret_ref="other"))
        [received] = await receiver.got(1)
        received.verified(OTHER)
        reply = await here.send([{"path": "/a"}], options=told_to(receiver.url))
        assert reply.refusal == (422, "webhook_refused", "/options/callback/secret_ref")
        schema = (await here.get("/batch")).json()["jobs"]["schema"]["options"]
        assert schema["callback"]["required"] == ["url", "secret_ref"]


@on_a_loop
async def test_a_retry_is_told_as_well(sqlite: Place) -> None:
    """What was asked for with the job holds for what is tried again of it."""
    api = Api({"/no": answer(status=500)})
    async with receiving() as receiver, site(sqlite, api, jobs={"webhooks": hooks(receiver.port)}) as here:
        options = {**told_to(receiver.url), "delivery": "at_least_once"}
        first = (await here.ended(await here.submitted([{"path": "/no"}], options=options)))["links"]["self"]
        reply = await here.ask("POST", f"{first}/retry")
        again = reply.json()
        assert (again["retry_of"], again["delivery"]) == (job_id(first), "at_least_once")
        assert again["callback"] == (await here.get(first)).json()["callback"]
        await receiver.got(2)
        assert {each.verified()["data"]["id"] for each in receiver.received} == {job_id(first), again["id"]}


@on_a_loop
async def test_events_show_it_too(sqlite: Place) -> None:
    """Each event is the job as it is shown."""
    async with receiving() as receiver, site(sqlite, jobs={"webhooks": hooks(receiver.port)}) as here:
        path = await here.submitted([{"path": "/a"}], options=told_to(receiver.url))
        await here.ended(path)
        assert receiver.url.encode() in (await here.get(f"{path}/events")).body
        await receiver.got(1)


# By whom


@on_a_loop
async def test_who_does_not_work_does_not_send(place: Place) -> None:
    """A process that only takes jobs leaves it to those who work; they tell what was asked for elsewhere."""
    async with receiving() as receiver:
        said = {"webhooks": hooks(receiver.port)}
        async with site(place, jobs={**said, "worker": False}) as taking:
            assert "batchproxy webhooks" not in {task.get_name() for task in asyncio.all_tasks()}
            path = await taking.submitted([{"path": "/a"}], options=told_to(receiver.url))
            async with site(place, jobs=said):
                await receiver.got(1)
                await taking.ended(path)
        assert len(receiver.received) == 1


def work_until_the_end(url: str, folder: Path, port: int) -> None:
    """Ends as soon as the end of a job is committed: before anything of it can be told."""
    os.environ[VARIABLE] = SECRET

    async def main() -> None:
        place = Place(url, folder)
        app = BatchMiddleware(Api(), jobs=settings(place, webhooks=hooks(port)))
        assert isinstance(app.jobs, JobService)
        passing = killing(("finalize.committed", 1))
        async with opened(StoreSettings(url=url), passing=passing) as store, JobWorker(store, app.jobs.kinds, QUICK):
            await asyncio.Event().wait()

    asyncio.run(main())


@on_a_loop
async def test_a_crash_between_the_end_and_the_sending_loses_nothing(place: Place) -> None:
    """The message is committed with the end; who starts next sends it, once, under the id of that end."""
    async with receiving() as receiver:
        said = {"webhooks": hooks(receiver.port)}
        async with site(place, jobs={**said, "worker": False}) as taking:
            path = await taking.submitted([{"path": "/a"}], options=told_to(receiver.url))
        process = started(work_until_the_end, place.url, place.folder, receiver.port)
        assert await asyncio.to_thread(ended, process) == -9
        assert (receiver.received, (await rows(place))["batchproxy_outbox"]) == ([], 1)
        async with site(place, jobs=said) as here:
            assert (await here.ended(path))["state"] == "completed"
            [received] = await receiver.got(1)

            async def is_told() -> bool:
                return "batchproxy_outbox" not in await rows(place)

            await until(is_told)
        assert [each.id for each in receiver.received] == [f"{job_id(path)}_batch_job_completed_callback"]
        assert received.verified()["data"]["id"] == job_id(path)


@on_a_loop
async def test_without_the_settings_nothing_is_left_to_lie(sqlite: Place) -> None:
    """Where callbacks were turned off since, nobody is told, and no message waits for ever."""
    async with receiving() as receiver:
        async with site(sqlite, jobs={"webhooks": hooks(receiver.port), "worker": False}) as taking:
            path = await taking.submitted([{"path": "/a"}], options=told_to(receiver.url))
        async with site(sqlite) as here:
            assert (await here.ended(path))["callback"]["url"] == receiver.url
        assert "batchproxy_outbox" not in await rows(sqlite)
        assert receiver.received == []


# Refused


PLACE = "/options/callback"
REFUSED: list[Any] = [
    pytest.param({"url": "https://hooks.example:8443/"}, "/url", "port 8443", id="port"),
    pytest.param({"url": "http://hooks.example/"}, "/url", "https", id="http"),
    pytest.param({"url": "https://10.0.0.1/"}, "/url", "this address", id="private"),
    pytest.param({"url": "https://169.254.169.254/latest"}, "/url", "this address", id="metadata"),
    pytest.param({"url": "https://2130706433/"}, "/url", "name of a host", id="number"),
    pytest.param({"url": "https://ann:pw@hooks.example/"}, "/url", "without user", id="password"),
    pytest.param({"url": "ftp://hooks.example/"}, "/url", "absolute URL", id="scheme"),
    pytest.param({"url": "/hook"}, "/url", "absolute URL", id="relative"),
    pytest.param({"url": "https://hooks.example/" + "x" * 3000}, "/url", "2048", id="long"),
    pytest.param({"url": "https://hooks.example/", "secret_ref": "x"}, "/secret_ref", "no secret", id="secret"),
    pytest.param({"url": "https://hooks.example/", "secret_ref": ""}, "/secret_ref", "no secret", id="no name"),
]


@pytest.mark.parametrize(("callback", "pointer", "told"), REFUSED)
@on_a_loop
async def test_where_nothing_is_sent_is_refused_at_once(sqlite: Place, callback: JSON, pointer: str, told: str) -> None:
    """With a code and a pointer, before anything is kept; of lines with the line."""
    plain = WebhookSettings(secrets={"default": [f"env:{VARIABLE}"]})
    async with site(sqlite, jobs={"webhooks": plain, "worker": False}) as here:
        reply = await here.send([{"path": "/a"}], options={"callback": callback})
        assert reply.refusal == (422, "webhook_refused", PLACE + pointer)
        assert told in reply.problem["detail"]
        for many in ([], MANY):
            reply = await here.send_lines([b"", {"options": {"callback": callback}}, {"path": "/a"}, *many])
            assert (*reply.refusal, reply.problem["line"]) == (422, "webhook_refused", PLACE + pointer, 2)
        assert await rows(sqlite) == {}


@on_a_loop
async def test_where_nobody_is_told_it_is_refused(sqlite: Place) -> None:
    """And is no option that is described."""
    async with site(sqlite, jobs={"worker": False}) as here:
        reply = await here.send([{"path": "/a"}], options=told_to("https://hooks.example/"))
        assert reply.refusal == (422, "callbacks_unavailable", PLACE)
        assert list((await here.get("/batch")).json()["jobs"]["schema"]["options"]) == ["delivery"]
        assert await rows(sqlite) == {}


MALFORMED: list[Any] = [
    ({"callback": "https://hooks.example/"}, "", "an object"),
    ({"callback": None}, "", "an object"),
    ({"callback": {}}, "/url", "missing"),
    ({"callback": {"url": 1}}, "/url", "a string"),
    ({"callback": {"url": "x", "events": []}}, "/events", "at least one of `completed`"),
    ({"callback": {"url": "x", "events": ["completed", "done"]}}, "/events/1", "at least one of `completed`"),
    ({"callback": {"url": "x", "secret": "whsec_x"}}, "/secret", "did you mean `secret_ref`?"),
    ({"callback": {"url": "x", "event": ["completed"]}}, "/event", "did you mean `events`?"),
]


@pytest.mark.parametrize(("options", "pointer", "told"), MALFORMED)
@on_a_loop
async def test_what_is_no_callback_is_no_batch(sqlite: Place, options: JSON, pointer: str, told: str) -> None:
    """As with any other option; whether the batch is to be answered at once or not."""
    async with site(sqlite, jobs={"webhooks": hooks(), "worker": False}) as here:
        for headers in (ASYNC, ANN):
            reply = await here.send([{"path": "/a"}], options=options, headers=headers)
            assert reply.refusal == (400, "invalid_batch", PLACE + pointer)
            assert told in reply.problem["detail"]
            assert "whsec" not in reply.problem["detail"]


@pytest.mark.parametrize(
    ("options", "name"),
    [(told_to("https://hooks.example/"), "callback"), ({"delivery": "at_least_once"}, "delivery")],
)
@on_a_loop
async def test_only_jobs_have_these_options(sqlite: Place, options: JSON, name: str) -> None:
    """A batch that is answered at once is refused if it asks for them; with jobs at its endpoint, and without."""
    api = Api()
    async with site(sqlite, api, jobs={"webhooks": hooks(), "worker": False}) as here:
        for app in (here.app, BatchMiddleware(api)):
            here.app = app
            reply = await here.send([{"path": "/a"}], options=options, headers=ANN)
            assert reply.refusal == (400, "invalid_batch", f"/options/{name}")
            assert "Prefer: respond-async" in reply.problem["detail"]
    assert api.targets == []


# Settings


@pytest.mark.parametrize("webhooks", [WebhookSettings(), {"default": ["env:A"]}])
def test_somebody_has_to_sign(webhooks: Any) -> None:
    with pytest.raises(SettingError, match=re.escape("WebhookSettings(secrets={…})")):
        JobsSettings(store=StoreSettings(url="sqlite:///x"), webhooks=webhooks)


def test_a_secret_that_is_not_there_stops_the_start(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the first end; in a process that works."""
    monkeypatch.delenv(VARIABLE)
    said: Mapping[str, Any] = {"webhooks": hooks()}
    with pytest.raises(StartupFailed, match=VARIABLE), serve(BatchMiddleware(Api(), jobs=settings(sqlite, **said))):
        pass


# What lies in the store


async def lying(place: Place, path: str) -> bytes:
    """What is kept of a job's callback, and of the messages about it."""
    async with opened(StoreSettings(url=place.url)) as store:
        job = await store.jobs.get(job_id(path), None)
        return job.options + b"".join(each.target for each in await store.outbox.take(9))


@on_a_loop
async def test_a_url_is_encrypted(place: Place) -> None:
    """With the key of credentials, in the job and in the outbox; who asked sees it."""
    async with receiving() as receiver:
        url = f"{receiver.url}?token=hidden"
        async with site(place, jobs={"webhooks": hooks(receiver.port), "worker": False}) as here:
            path = location(await here.send([{"path": "/a"}], options=told_to(url)))
            assert isinstance(here.app.jobs, JobService)
            async with JobWorker(here.store, here.app.jobs.kinds, QUICK):
                assert (await here.ended(path))["callback"]["url"] == url
        lies = await lying(place, path)
        assert b"sealed:" in lies
        assert b"hidden" not in lies
        assert receiver.url.encode() not in lies


@on_a_loop
async def test_a_url_is_opened_by_who_tells(sqlite: Place, tmp_path: Path) -> None:
    """Also of a retry, which keeps it. Without the key the job shows none, and nobody is told."""
    async with receiving() as receiver:
        url = f"{receiver.url}?token=hidden"
        api = Api({"/fails": answer(status=500)})
        async with site(sqlite, api, jobs={"webhooks": hooks(receiver.port)}) as here:
            path = location(await here.send([{"path": "/fails"}], options=told_to(url)))
            await here.ended(path)
            again = location(await here.ask("POST", f"{path}/retry", headers=ASYNC))
            told = [each.verified()["data"]["id"] for each in await receiver.got(2)]
            assert sorted(told) == sorted([job_id(path), job_id(again)])
            assert (await here.get(again)).json()["callback"]["url"] == url
        (tmp_path / "other").write_text(b64encode(bytes(32)).decode())
        said = {"webhooks": hooks(receiver.port), "secret_key_file": str(tmp_path / "other")}
        async with site(sqlite, api, jobs=said) as here:
            assert (await here.get(path)).json()["callback"]["url"] is None
        with pytest.raises(Undelivered, match="There is no key"):
            opener(Vault(None))(Vault(Box([bytes(32)])).sealed_url(url, "ann"), "ann")


@on_a_loop
async def test_a_url_without_a_key_lies_there_as_it_is(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And as it was before there was a key: it is told all the same."""
    monkeypatch.delenv("BATCHPROXY_JOBS_KEY", raising=False)
    async with receiving() as receiver:
        said = {"webhooks": hooks(receiver.port), "plain_headers": ["authorization"]}
        async with site(sqlite, jobs={**said, "worker": False, "secret_key_file": None}) as here:
            path = location(await here.send([{"path": "/a"}], options=told_to(receiver.url)))
        assert receiver.url.encode() in await lying(sqlite, path)
        async with site(sqlite, jobs=said) as here:
            [received] = await receiver.got(1)
            assert received.verified()["data"]["id"] == job_id(path)
            assert (await here.get(path)).json()["callback"]["url"] == receiver.url
