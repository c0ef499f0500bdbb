"""What goes wrong below the store: each is said clearly, nothing is half done, and it goes on by itself."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.store import (
    JobsError,
    JobState,
    JobStore,
    NewJob,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreSettings,
    StoreUnreachable,
    errors,
    looked_at,
)
from batchproxy.jobs.store.database import Work
from batchproxy.jobs.store.places import NETWORK, check_place, file_system
from tests.documents import DOCS, names, section, tables
from tests.proxy.on_a_loop import PATIENCE, on_a_loop

from .. import processes
from ..disk import fill, small_disk
from ..place import Place, claim, complete, ok, settle, submit
from ..postgresql import cluster

MiB = 1024 * 1024


def test_every_error_is_drawn() -> None:
    """With its code, in the docstring, and no code stands for two."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, JobsError)]
    codes = [each.code for each in found if "code" in vars(each)]
    assert len(codes) == len(set(codes)) == len(found) - 2
    for each in found:
        assert errors.__doc__ is not None
        assert f"── {each.__name__} " in errors.__doc__ or f"── {each.__name__}\n" in errors.__doc__
        if "code" in vars(each):
            assert f" {each.code} " in errors.__doc__


def looked(url: str) -> str | None:
    return asyncio.run(looked_at(StoreSettings(url=url)))


@pytest.mark.parametrize(
    "options",
    [
        "sslmode=prefer",
        "sslmode=disable&target_session_attrs=read-write",
        "application_name=shop",
        "sslrootcert=/etc/ssl/none&sslmode=disable",
    ],
)
def test_options_of_libpq_are_taken(shared_url: str, options: str) -> None:
    """Those with which hosters give out their URLs."""
    assert looked(f"{shared_url}&{options}") == looked(shared_url)


@pytest.mark.parametrize(
    ("old", "new", "error", "told"),
    [
        ("&", "&sslmode=perhaps&", StoreUnreachable, "`sslmode` parameter must be one of"),
        ("&", "&colour=red&", StoreMissing, "an option that neither the driver nor the server knows.*colour"),
        ("postgres@", "stranger@", StoreUnreachable, "does not let this user in"),
        ("?", "_none?", StoreMissing, "There is no such database"),
    ],
)
def test_a_wrong_url_is_told(shared_url: str, old: str, new: str, error: type[JobsError], told: str) -> None:
    with pytest.raises(error, match=told):
        looked((shared_url + "&application_name=x").replace(old, new, 1))


@pytest.mark.parametrize(
    "url",
    ["host:port/x", "host:123456/x", "u:a/b@host/x", "[::1/x", "host/x?a=b#c", "host:1,other:two/x"],
)
def test_what_is_no_url_is_told_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingError, match="percent-encoded") as raised:
        StoreSettings(url=f"postgresql://{url}")
    assert url not in str(raised.value)


def test_every_code_is_in_the_documents() -> None:
    """And no other."""
    [table] = tables(section((DOCS / "jobs.md").read_text("utf-8"), "When something is wrong"))
    listed = [name for row in table[1:] for name in names(row[0])]
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, JobsError)]
    assert sorted(listed) == sorted(each.code for each in found if "code" in vars(each))


@on_a_loop
async def test_commits_reach_the_disk(sqlite: Place) -> None:
    """Every connection that writes is set so, whatever this machine's SQLite was built with."""

    async def settings(connection: AsyncConnection, now: float) -> list[object]:
        names = ("synchronous", "journal_mode", "auto_vacuum")
        return [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in names]

    full, incremental = 2, 2
    async with sqlite.opened() as store:
        assert await store._database.write(settings) == [full, "wal", incremental]


@on_a_loop
async def test_a_new_store_is_private(sqlite: Place) -> None:
    """Whatever the umask: bodies of jobs are nobody else's business."""
    before = os.umask(0)
    try:
        async with sqlite.opened(inline_bytes=0) as store:
            await submit(store, 3)
            made = [path for path in sqlite.folder.iterdir() if path.name.startswith("jobs.db")]
            assert {path.name for path in made} == {"jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db-blobs"}
            assert all(path.stat().st_mode & 0o077 == 0 for path in made)
    finally:
        os.umask(before)


# The lock


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """As another process does that writes for long."""
    connection = sqlite3.connect(place.settings().file, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@on_a_loop
async def test_a_lock_is_waited_for_but_not_for_ever(sqlite: Place) -> None:
    """Then it is an error; reading goes on meanwhile, and so does the loop."""
    async with sqlite.opened(wait=0.2) as store:
        job = await submit(store, 3)
        turns = 0
        with locked(sqlite):
            waiting = asyncio.create_task(submit(store, 3))
            while not waiting.done():
                await asyncio.sleep(0)
                turns += 1
            with pytest.raises(StoreBusy):
                await waiting
            assert (await store.jobs.get(job.id, "ann")).state is JobState.QUEUED
            assert turns > 10
        await submit(store, 3)


@on_a_loop
async def test_writers_may_leave_at_any_moment(sqlite: Place) -> None:
    """While somebody else has the lock: none of them leaves a transaction open, and none is done half."""
    chance = random.Random(7)
    async with sqlite.opened(wait=5) as store:
        jobs = [await submit(store, 3) for _ in range(3)]
        claims = await store.claims.claim("w", 3)
        with locked(sqlite):
            writers: list[asyncio.Task[Any]] = []
            writers += [asyncio.create_task(settle(store, chance.choice(claims))) for _ in range(100)]
            writers += [asyncio.create_task(submit(store, 2, owner=f"o{n}")) for n in range(200)]
            for writer in writers:
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
                writer.cancel()
        await asyncio.wait(writers)
        for each in (await store.jobs.list(None, limit=500)).jobs:
            assert each.total in (2, 3)
        await submit(store, 3)
        await complete(store)
        for job in jobs:
            assert (await store.jobs.get(job.id, "ann")).counts.done in (0, 3)


@on_a_loop
async def test_who_leaves_before_his_turn_leaves_at_once(sqlite: Place) -> None:
    """Without waiting for those before him, and what he wanted is not done; who has begun leaves with its end."""
    done: list[str] = []

    def noting(name: str) -> Work[None]:
        async def work(connection: AsyncConnection, now: float) -> None:
            done.append(name)

        return work

    async with sqlite.opened(wait=PATIENCE) as store:
        with locked(sqlite):
            first, second, third = [
                asyncio.create_task(store._database.write(noting(name))) for name in ("first", "second", "third")
            ]
            await asyncio.sleep(0.01)
            second.cancel()
            await asyncio.wait([second])
            assert second.cancelled()
            first.cancel()
            await asyncio.sleep(0.01)
            assert not first.done(), "its transaction is still open"
        await asyncio.wait([first, third])
        assert (first.cancelled(), done) == (True, ["first", "third"])


@on_a_loop
async def test_checkpoints_wait_for_the_store(sqlite: Place) -> None:
    """A store that is locked for longer than a transaction waits holds them up, and loses none."""
    async with sqlite.opened(wait=0.05) as store, store.checkpointer() as checkpointer:
        job = await submit(store, 3)
        claimed = await claim(store)
        with locked(sqlite):
            waiting = [asyncio.create_task(checkpointer.settle(claimed.lease, ok(seq))) for seq in range(3)]
            with pytest.raises(StoreBusy):
                await submit(store, 1)
            waiting[2].cancel()
        assert [(await each).kept for each in waiting[:2]] == [(0,), (1,)]
        assert (await store.jobs.get(job.id, "ann")).counts.done in (2, 3)


# The disk


def check_whole(file: Path) -> None:
    connection = sqlite3.connect(file)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


@on_a_loop
@pytest.mark.parametrize("inline_bytes", [0, 1024 * MiB], ids=["blobs", "rows"])
async def test_a_full_disk_refuses_and_recovers(inline_bytes: int) -> None:
    """New jobs are refused, checkpoints wait, reading goes on; with space again all goes on, without a restart."""
    with small_disk(4 * MiB) as disk:
        place = Place(f"sqlite:///{disk}/jobs.db", disk)
        async with place.opened(inline_bytes=inline_bytes) as store, store.checkpointer() as checkpointer:
            job = await submit(store, 3)
            claimed = await claim(store)
            filler = disk / "filler"
            fill(filler)
            with pytest.raises(StoreFull):
                await _submit_bytes(store, MiB)
            waiting = asyncio.create_task(checkpointer.settle(claimed.lease, ok(0, bytes(200_000))))
            with pytest.raises(StoreFull):
                await _submit_bytes(store, MiB)
            assert (await store.jobs.get(job.id, "ann")).counts.done == 0
            filler.unlink()
            assert (await waiting).kept == (0,)
            await _submit_bytes(store, MiB)
            await store.retention.sweep()
            place.clock.now += 1000
            await store.retention.sweep()
            await complete(store)
            assert len((await store.jobs.list(None)).jobs) == 2
        check_whole(place.settings().file)


async def _submit_bytes(store: JobStore, n: int) -> None:
    async with store.submission(NewJob(owner="ann")) as submission:
        for _ in range(n // 50_000):
            await submission.add(bytes(50_000))
        await submission.commit()


def test_files_that_may_not_grow_refuse_and_recover(sqlite: Place, tmp_path: Path) -> None:
    """A limit of the process on the size of files is as a full disk, whatever the database makes of it."""
    report = tmp_path / "report"
    process = processes.started(processes.fill, sqlite.url, sqlite.folder, MiB, report)
    assert processes.ended(process) == 0
    assert report.read_text() in ("store_full", "store_unreachable")
    check_whole(sqlite.settings().file)


def test_a_disk_that_may_not_be_written_is_refused() -> None:
    """At the start, in one sentence."""
    with small_disk(4 * MiB) as disk:
        place = Place(f"sqlite:///{disk}/jobs.db", disk)
        _open(place)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StoreReadOnly, match=str(disk)):
            _open(place)


@on_a_loop
async def _open(place: Place) -> None:
    async with place.opened() as store:
        await submit(store, 1)


@on_a_loop
async def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """Where there is none, something is wrong: perhaps a disk that is not mounted."""
    folder = tmp_path / "nowhere"
    with pytest.raises(StoreMissing, match=str(folder)):
        async with Place(f"sqlite:///{folder}/jobs.db", folder).opened():
            pass
    assert not folder.exists()


@on_a_loop
@pytest.mark.parametrize("damage", ["header", "everything", "nonsense"])
async def test_a_damaged_file_is_refused_and_left_alone(sqlite: Place, damage: str) -> None:
    """It is neither repaired nor made anew: that is for people to decide."""
    file = sqlite.settings().file
    async with sqlite.opened() as store:
        await submit(store, 30)
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[:100] = bytes(100)
    elif damage == "everything":
        content[100:] = random.Random(1).randbytes(len(content) - 100)
    else:
        content[:] = b"this is not a database " * 500
    file.write_bytes(content)
    with pytest.raises((StoreCorrupt, errors.SchemaForeign)):
        async with sqlite.opened() as store:
            await submit(store, 3)
    assert file.read_bytes() == content


@on_a_loop
async def test_a_log_that_was_cut_off_is_no_harm(sqlite: Place) -> None:
    """What of the write-ahead log is whole is taken; what was torn was never committed."""
    file = sqlite.settings().file
    log = file.with_name("jobs.db-wal")
    async with sqlite.opened() as store:
        for _ in range(5):
            await submit(store, 3)
        whole, half = log.read_bytes(), len(log.read_bytes()) // 2
        base = file.read_bytes()
    for torn in (whole[:half], whole[:half] + bytes(len(whole) - half), whole[:-1]):
        copy = file.with_name(f"copy-{len(torn)}-{hash(torn) & 0xFFFF}.db")
        copy.write_bytes(base)
        copy.with_name(f"{copy.name}-wal").write_bytes(torn)
        async with Place(f"sqlite:///{copy}", sqlite.folder).opened() as store:
            jobs = (await store.jobs.list(None)).jobs
            assert len(jobs) <= 5
            await submit(store, 3)
        check_whole(copy)


# The place


def test_network_file_systems_are_refused(tmp_path: Path) -> None:
    """The kind is that of the mount that the folder is really on."""
    mounts = tmp_path / "mountinfo"
    line = "22 1 0:21 / {point} rw,relatime shared:1 - {kind} source rw"
    folder = tmp_path / "a folder"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    for kind in ("ext4", *NETWORK):
        mounts.write_text(
            "\n".join([line.format(point="/", kind="nfs4"), line.format(point=escaped, kind=kind)]), "utf-8"
        )
        assert file_system(folder, mounts) == kind
        if kind == "ext4":
            check_place(folder / "jobs.db", mounts)
        else:
            with pytest.raises(SettingError, match=r"postgresql://"):
                check_place(folder / "jobs.db", mounts)
    with pytest.raises(SettingError, match="nfs4"):
        check_place(tmp_path / "jobs.db", mounts)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert file_system(link, mounts) == kind
    assert file_system(folder, tmp_path / "none") is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"url": "sqlite:///a.db", "hosts": 2}, "several"),
        ({"url": "sqlite:///"}, "durable"),
        ({"url": "sqlite:///a.db?mode=memory"}, "options"),
        ({"url": "mysql://a"}, "expected sqlite"),
        ({"url": "sqlite:///a.db", "lease": 0}, "lease"),
        ({"url": "sqlite:///a.db", "chunk_items": 0}, "chunk_items"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], match: str) -> None:
    """Each with its name and what was expected."""
    with pytest.raises(SettingError, match=match):
        StoreSettings(**settings)  # type: ignore[arg-type]


def test_several_hosts_have_postgresql() -> None:
    """And the URL is not shown, for a password may be in it."""
    settings = StoreSettings(url="postgresql://user:secret@db/jobs", hosts=3)
    assert "secret" not in repr(settings)


# The server


@on_a_loop
async def test_a_server_that_is_stopped_is_waited_for(tmp_path: Path) -> None:
    """While it is away, errors say so; what was acknowledged is there after its crash, and all goes on by itself."""
    with cluster(("synchronous_commit=on",)) as server:
        place = Place(server.new_url(), tmp_path)
        async with place.opened() as store, store.checkpointer() as checkpointer:
            job = await submit(store, 6)
            claims = await store.claims.claim("w", 2)
            await checkpointer.settle(claims[0].lease, *(ok(seq) for seq in claims[0].open_seqs))
            server.stop("immediate")
            for question in (store.jobs.get(job.id, "ann"), submit(store, 3)):
                with pytest.raises(StoreUnreachable):
                    await question
            waiting = asyncio.create_task(checkpointer.settle(claims[1].lease, ok(3), ok(4), ok(5)))
            with pytest.raises(StoreUnreachable):
                await store.claims.claim("w", 1)
            server.start()
            assert (await waiting).kept == (3, 4, 5)
            assert (await store.jobs.get(job.id, "ann")).counts.ok == 6
            await complete(store)


@on_a_loop
async def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    """At the start, in one sentence."""
    with pytest.raises(StoreUnreachable):
        async with Place(f"postgresql://postgres@/d?host={tmp_path}", tmp_path).opened(wait=1):
            pass


@on_a_loop
async def test_a_statement_ends_in_time(postgresql_place: Place) -> None:
    """A server that is slow without any lock is as one that is busy: no transaction lasts for ever."""

    async def slow(connection: AsyncConnection, now: float) -> None:
        await connection.exec_driver_sql(f"SELECT pg_sleep({PATIENCE})")

    async with postgresql_place.opened() as store:
        # Each transaction is told its bounds: only these have such short ones.
        store._database.settings = postgresql_place.settings(lease=1, wait=0.5)
        for run in (store._database.read, store._database.write):
            with pytest.raises(StoreBusy, match="timeout"):
                await run(slow)
        store._database.settings = postgresql_place.settings()
        await submit(store, 1)


@on_a_loop
async def test_a_closed_store_stays_closed(place: Place) -> None:
    """Who still has it is told so; no connection is opened again, which nobody would close."""
    async with place.opened() as store:
        job = await submit(store, 1)
    for question in (store.jobs.get(job.id, "ann"), submit(store, 1)):
        with pytest.raises(StoreUnreachable, match="closed"):
            await question


@on_a_loop
async def test_an_error_of_ours_is_not_hidden(place: Place) -> None:
    """What is no fault of the store is raised as it is."""
    async with place.opened() as store:

        async def wrong(connection: object, now: float) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await store._database.write(wrong)
        with pytest.raises(ZeroDivisionError):
            await store._database.read(wrong)
        await submit(store, 1)
