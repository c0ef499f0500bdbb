"""The stages of a batch, done by hand: again, by somebody else, or by nobody."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.engine.model import Caller, Message
from batchproxy.engine.target import Entry
from batchproxy.jobs.openai import OpenAIKind, OpenAISettings
from batchproxy.jobs.openai.showing import BatchOptions, file_name, packed_options
from batchproxy.jobs.resources import JobsSettings, Vault
from batchproxy.jobs.store import (
    WORKER_LOST,
    Claim,
    ItemResult,
    Job,
    JobStore,
    Kind,
    LeaseLost,
    NewJob,
    Outcome,
    WrongState,
)
from batchproxy.jobs.working.kinds import Unready
from tests.jobs.place import Place, claim, settle
from tests.proxy.on_a_loop import run

from .api import Api
from .site import CHAT, chat, lines

KIND = OpenAIKind(OpenAISettings(), Vault(None), entry=lambda root_path: Entry(Api(), root_path, None))
N = 8
DEADLINE = 3600.0


async def submitted(store: JobStore, content: bytes) -> Job:
    async with store.files.upload(owner="ann", purpose="batch", filename="in") as upload:
        await upload.write(content)
        file = await upload.commit()
    options = BatchOptions(Caller("r"), "24h", 3600.0, False)
    new = NewJob(
        owner="ann",
        kind=KIND.name,
        endpoint=CHAT,
        options=packed_options(options),
        deadline=DEADLINE,
        validate=True,
        input_file=file.id,
    )
    async with store.submission(new) as submission:
        return (await submission.commit(b"fingerprint")).job


async def validated(store: JobStore) -> Job:
    """A job of `N` lines whose items can be claimed."""
    job = await submitted(store, lines(*(chat(f"c{n}") for n in range(N))))
    claimed = await claim(store)
    assert claimed.lease.kind is Kind.VALIDATE
    await KIND.validate(store, claimed, job)
    return await store.jobs.get(job.id, "ann")


def answered(seq: int, **other: Any) -> ItemResult:
    headers = ((b"content-type", b"application/json"),)
    values = {"outcome": Outcome.OK, "status": 200, "headers": headers, "body": b'{"n":%d}' % seq, **other}
    return ItemResult(seq=seq, custom_id=f"c{seq}", **values)


async def done(store: JobStore) -> tuple[Claim, Job]:
    """A job of which every line has another fate, and the claim on its end."""
    job = await validated(store)
    fates: list[dict[str, Any]] = [
        {},
        {"outcome": Outcome.ERROR, "status": 500},
        {"outcome": Outcome.ERROR, "status": 504, "failure": "timeout", "detail": "15 s"},
        {"outcome": Outcome.ERROR, "status": 502, "failure": "unreachable", "detail": "refused"},
        {"outcome": Outcome.UNKNOWN, "status": 0},
        {"outcome": Outcome.ERROR, "status": 500, "failure": WORKER_LOST},
    ]
    for claimed in await store.claims.claim("w", 10):
        seqs = claimed.open_seqs
        await settle(store, claimed, [answered(seq, **(fates[seq] if seq < len(fates) else {})) for seq in seqs])
    ending = await claim(store)
    assert ending.lease.kind is Kind.FINALIZE
    return ending, await store.jobs.get(job.id, None)


async def read(store: JobStore, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    whole = b"".join([piece async for piece in store.files.content(file_id, "ann")])
    return {line["custom_id"]: line for line in map(json.loads, whole.splitlines())}


def test_validation_may_be_done_again(place: Place) -> None:
    """By whoever has the lease then; the items are there once."""

    async def main() -> None:
        async with place.opened() as store:
            job = await submitted(store, lines(*(chat(f"c{n}") for n in range(N))))
            lost = await claim(store)
            place.clock.now += 60
            held = await claim(store, "w2")
            with pytest.raises(LeaseLost):
                await KIND.validate(store, lost, job)
            await KIND.validate(store, held, job)
            assert (await store.jobs.get(job.id, None)).total == N

    run(main())


def test_the_lines_of_every_fate(place: Place) -> None:
    """What the API has answered is an answer; of the others there is a code."""

    async def main() -> None:
        async with place.opened() as store:
            ending, job = await done(store)
            finish = await KIND.finish(store, ending, job)
            good, bad = await read(store, finish.output_file), await read(store, finish.error_file)
            assert good.keys() == {"c0", "c6", "c7"}
            assert good["c7"]["response"]["body"] == {"n": 7}
            assert bad["c1"]["response"]["status_code"] == 500
            codes = {name: line["error"]["code"] for name, line in bad.items() if line["error"] is not None}
            assert codes == {"c2": "request_timeout", "c3": "unreachable", "c4": "unknown", "c5": "worker_lost"}
            ids = [line["id"] for line in (*good.values(), *bad.values())]
            assert len(set(ids)) == N

    run(main())


def test_the_files_may_be_made_again(place: Place) -> None:
    """By whoever comes after a worker that was lost: they are the same, and there once."""

    async def main() -> None:
        async with place.opened() as store:
            ending, job = await done(store)
            first = await KIND.finish(store, ending, job)
            contents = [await read(store, name) for name in (first.output_file, first.error_file)]
            place.clock.now += 60
            later = await claim(store, "w2")
            again = await KIND.finish(store, later, job)
            assert again == first
            assert [await read(store, name) for name in (again.output_file, again.error_file)] == contents
            files = (await store.files.list("ann")).files
            assert [file.purpose for file in files] == ["batch_output", "batch_output", "batch"]

    run(main())


def test_who_has_lost_the_end_makes_no_files(place: Place) -> None:
    """Those of the one who has it now are left as they are."""

    async def main() -> None:
        async with place.opened() as store:
            ending, job = await done(store)
            place.clock.now += 60
            await claim(store, "w2")
            with pytest.raises(LeaseLost):
                await KIND.finish(store, ending, job)
            assert [file.purpose for file in (await store.files.list("ann")).files] == ["batch"]

    run(main())


@pytest.mark.parametrize("ending", ["cancelled", "expired"])
def test_what_is_done_before_the_end_is_kept(place: Place, ending: str) -> None:
    """The others are told under their own names, which their results do not have."""

    async def main() -> None:
        async with place.opened() as store:
            job = await validated(store)
            [first] = await store.claims.claim("w", 1)
            await settle(store, first, [answered(seq) for seq in first.open_seqs])
            if ending == "cancelled":
                await store.ending.cancel(job.id, "ann")
            else:
                place.clock.now += DEADLINE
                assert await store.ending.expire() == [job.id]
            claimed = await claim(store)
            await store.ending.settle_rest(claimed.lease)
            finish = await KIND.finish(store, claimed, await store.jobs.get(job.id, None))
            good, bad = await read(store, finish.output_file), await read(store, finish.error_file)
            assert good.keys() == {f"c{seq}" for seq in first.open_seqs}
            assert bad.keys() == {f"c{n}" for n in range(N)} - good.keys()
            assert all(line["response"] is None for line in bad.values())
            assert {line["error"]["code"] for line in bad.values()} == {f"batch_{ending}"}

    run(main())


def test_an_end_without_room_waits_for_it(sqlite: Place) -> None:
    """The results are kept, and the files made when something was deleted."""

    async def main() -> None:
        async with sqlite.opened() as store:
            ending, job = await done(store)
        async with sqlite.opened(stored_bytes=1 << 20) as store:
            async with store.files.upload(owner="ann", purpose="batch", filename="large") as upload:
                await upload.write(b"x" * ((1 << 20) - job.stored_bytes - 2000))
                large = await upload.commit()
            with pytest.raises(Unready):
                await KIND.finish(store, ending, job)
            await store.files.delete(large.id, "ann")
            finish = await KIND.finish(store, ending, job)
            assert len(await read(store, finish.output_file)) == 3

    run(main())


def test_lines_of_a_batch_without_its_secret_wait(sqlite: Place) -> None:
    """Another process may have the key."""

    async def main() -> None:
        async with sqlite.opened() as store:
            job = await validated(store)
            claimed = (await store.claims.claim("w", 1))[0]
            with pytest.raises(Unready):
                KIND.batch(job, await store.inputs.items(claimed))

    run(main())


def test_a_file_that_is_deleted_while_it_is_read(place: Place) -> None:
    """It is read to its end, or ends too early to be taken for the whole."""

    async def main() -> None:
        async with place.opened() as store:
            jobs = JobsSettings(store=place.settings(), principal=lambda scope: "ann")
            app = OpenAISettings().resources(store, jobs, Vault(None), endpoints=())
            async with store.files.upload(owner="own:ann", purpose="batch", filename="in") as upload:
                await upload.write(b"x" * (2 << 20))
                file = await upload.commit()
            sent: list[Message] = []

            async def receive() -> Message:
                raise AssertionError("there is no body")

            async def send(message: Message) -> None:
                sent.append(message)
                if len(sent) == 2:
                    await store.files.delete(file.id, "own:ann")

            path = f"/v1/files/{file_name(file.id)}/content"
            scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
            await app(scope, receive, send)
            assert [message["type"] for message in sent][:2] == ["http.response.start", "http.response.body"]
            assert (b"content-length", b"%d" % file.bytes) in sent[0]["headers"]
            size = sum(len(message["body"]) for message in sent[1:])
            assert (size == file.bytes) is place.is_sqlite
            assert sent[-1]["more_body"] is not place.is_sqlite

    run(main())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("path", "v1"),
        ("path", "/v1/"),
        ("methods", {"GET", "POST"}),
        ("allow", None),
        ("allow", ["no path"]),
        ("one_model", 1),
        ("delivery", "twice"),
        ("max_items", 0),
        ("keep", 0),
    ],
)
def test_wrong_settings(setting: str, value: Any) -> None:
    with pytest.raises(SettingError) as wrong:
        OpenAISettings(**{setting: value})
    assert wrong.value.setting == setting


def test_what_is_in_the_files_is_kept_once(place: Place) -> None:
    """Items and results go when the files are there; counts stay, and the owner's quota has the files alone."""

    async def main() -> None:
        async with place.opened(inline_bytes=20) as store:
            ending, job = await done(store)
            with pytest.raises(WrongState):
                await store.retention.shed(job.id)
            finish = await KIND.finish(store, ending, job)
            assert finish.sheds
            ended = await store.ending.finish(
                ending.lease, output_file=finish.output_file, error_file=finish.error_file
            )
            assert ended.stored_bytes > 0
            for _ in range(2):
                await store.retention.shed(job.id)
            shown = await store.jobs.get(job.id, "ann")
            assert shown == msgspec.structs.replace(ended, stored_bytes=0)
            assert shown.counts.total == shown.counts.done == N
            assert await store.inputs.chunk_numbers(job.id) == []
            assert await store.results.of(job.id, range(N)) == []
            assert not list(place.folder.rglob(f"*/{job.id}/*"))
            both = await read(store, finish.output_file) | await read(store, finish.error_file)
            assert both.keys() == {f"c{n}" for n in range(N)}

    run(main())
