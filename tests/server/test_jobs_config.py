"""The section `jobs` of a config file: its defaults, and what is refused, and where."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings, places
from batchproxy.jobs.webhooks import WebhookSettings
from batchproxy.jobs.working import WorkSettings
from batchproxy.server.config import shown
from batchproxy.server.job_settings import Jobs, Store, Webhooks, Work, default_file
from batchproxy.server.reload import jobs_need_restart

from .configured import UPSTREAM, errors, loaded


def with_jobs(text: str) -> str:
    return f"{UPSTREAM}jobs:\n{text}\n"


def test_without_the_section_there_are_no_jobs(tmp_path: Path) -> None:
    """Left out, or without a value, it is off; any value switches it on, also one out of the environment."""
    assert loaded(tmp_path, UPSTREAM).config.jobs is None
    assert loaded(tmp_path, f"{UPSTREAM}jobs:\n").config.jobs is None
    assert loaded(tmp_path, f"{UPSTREAM}jobs: {{}}\n").config.jobs == Jobs()
    url = f"sqlite:///{tmp_path}/j.db"
    found = loaded(tmp_path, UPSTREAM, environment={"BATCHPROXY_JOBS__STORE__URL": url}).config.jobs
    assert found == Jobs(store=Store(url=url))


def test_the_variable_of_the_key_is_no_key_of_the_file(tmp_path: Path) -> None:
    """`BATCHPROXY_JOBS_KEY` is read by what needs it, and is no unknown key."""
    assert loaded(tmp_path, UPSTREAM, environment={"BATCHPROXY_JOBS_KEY": "x"}).config.jobs is None


@pytest.mark.parametrize(
    ("ours", "made", "but"),
    [
        (Store(), StoreSettings(url="sqlite:///x"), {"url"}),
        (Webhooks(url="https://a.example", signing=["env:A"]), WebhookSettings(), set()),
        (Work(), WorkSettings(), {"concurrency", "chunks"}),
        (Jobs(), JobsSettings(store=StoreSettings(url="sqlite:///x")), {"store", "worker"}),
    ],
)
def test_the_defaults_are_those_of_what_is_set(ours: Any, made: Any, but: set[str]) -> None:
    """A key that a settings class of the jobs has too, has its default."""
    names = {each.name for each in fields(ours)} & {each.name for each in fields(made)} - but
    assert names
    assert {name: getattr(ours, name) for name in names} == {name: getattr(made, name) for name in names}


def test_everything_reaches_what_it_sets(tmp_path: Path) -> None:
    """Each key has its effect on the settings that are made of it."""
    (tmp_path / "key").write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n", "utf-8")
    text = f"""\
      store: {{url: 'sqlite:///{tmp_path}/jobs.db', keep: 1h, lease: 3s, stored_bytes: 1GiB}}
      principal: header:X-User
      key_file: key
      delivery: at_least_once
      max_bytes: 1MB
      worker: {{concurrency: 9, item_timeout: 2m}}
    """
    jobs = loaded(tmp_path, f"{UPSTREAM}jobs:\n{text}".replace("      ", "  ")).config.jobs
    assert jobs is not None
    made, work = jobs.made(), jobs.worker.made()
    assert (made.store.keep, made.store.lease, made.store.stored_bytes) == (3600, 3, 2**30)
    assert (made.principal, made.delivery.value, made.max_bytes) == ("header:X-User", "at_least_once", 10**6)
    assert made.secret_key_file == str(tmp_path / "key")
    assert (work.concurrency, work.item_timeout) == (9, 120)


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("  sotre: {}", "sotre", "unknown key `sotre`, expected a key of Jobs, did you mean `store`?"),
        ("  store: {url: 'mysql://host/x'}", "'mysql", "expected sqlite:///path/to/file or postgresql://"),
        ("  store: {url: 'sqlite:///'}", "'sqlite", "expected the path of a file"),
        ("  store: {url: 'sqlite:///x.db', hosts: 2}", "2}", "SQLite serves one machine only"),
        ("  store: {url: 'sqlite:////no/such/folder/x.db'}", "'sqlite", "no folder /no/such/folder"),
        ("  store: {lease: 0}", "0}", "expected a number of seconds of at least 0.001"),
        ("  principal: someone", "someone", "expected `credential`, `header:NAME`"),
        ("  anonymous: perhaps", "perhaps", "expected true or false"),
        ("  delivery: twice", "twice", "expected one of at_most_once, at_least_once"),
        ("  plain_headers: ['a b']", "plain", "expected names of headers"),
        ("  endpoints: [/bach]", "/bach", "there is no endpoint `/bach`, expected paths of `endpoints`"),
        ("  key_file: missing", "missing", "cannot be read"),
        ("  key_file: batchproxy.yaml", "batchproxy", "expected 32 bytes in base64"),
        ("  worker: {embedded: 3}", "3}", "expected true or false"),
        ("  worker: {concurrency: 0}", "0}", "expected an integer of at least 1"),
        ("  webhooks: {url: 'https://a.example'}", "webhooks", "key `signing` is missing"),
        ("  webhooks: {url: 'http://a.example', signing: ['env:A']}", "'http", "expected a URL that may be told"),
        ("  webhooks: {url: 'https://a.example', signing: ['whsec_x']}", "signing", "not the secret itself"),
        ("  webhooks: {url: 'https://a.example', signing: ['env:NO_SUCH_ONE']}", "signing", "variable that is set"),
        ("  webhooks: {url: 'https://a.example', signing: []}", "signing", "at least one env:NAME"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(text: str, at: str, told: str, tmp_path: Path) -> None:
    """Each mistake in the section is one error, with line and column."""
    [error] = errors(tmp_path, with_jobs(text))
    assert told in error.message
    assert (error.line, error.column) == (3, text.index(at) + 1), error.message


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` already refuses a store of SQLite there, the usual one as well."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text("25 0 0:23 / / rw - nfs4 server:/x rw\n", "utf-8")
    monkeypatch.setattr(places.check_place, "__defaults__", (mounts,))
    monkeypatch.setattr(places.file_system, "__defaults__", (mounts,))
    [error] = errors(tmp_path, with_jobs(f"  store: {{url: 'sqlite:///{tmp_path}/x.db'}}"))
    assert "nfs4, where SQLite loses data" in error.message
    [error] = errors(tmp_path, with_jobs("  anonymous: true"))
    assert "nfs4, where SQLite loses data" in error.message


def test_a_password_is_shown_to_nobody(tmp_path: Path) -> None:
    """Neither by `check --print`, nor in an error."""
    text = "  store: {url: 'postgresql://user:hidden@db/jobs'}\n  webhooks: {url: 'https://user:hidden@a.example'}"
    found = errors(tmp_path, with_jobs(text))
    assert "hidden" not in "".join(each.message for each in found)
    printed = shown(loaded(tmp_path, with_jobs(text.partition("\n")[0])))
    assert "hidden" not in printed
    assert 'url: "***"' in printed


def test_the_usual_file_is_in_a_folder_for_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of systemd's service, or else that of the user."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")
    assert default_file() == Path("/var/lib/a/jobs.db")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    assert default_file() == Path("/srv/state/batchproxy/jobs.db")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_file() == Path("/home/ann/.local/state/batchproxy/jobs.db")


def test_what_needs_a_restart_is_named() -> None:
    """The store, the worker and webhooks are those of the start; all else counts at once."""
    after = Jobs(store=Store(lease=5), worker=Work(concurrency=7), max_items=3)
    told = [f"jobs.{name} has changed, and needs a restart" for name in ("store", "worker")]
    assert jobs_need_restart(Jobs(), after) == told
    assert jobs_need_restart(Jobs(), Jobs(max_items=3)) == []
    assert jobs_need_restart(None, None) == []
    assert jobs_need_restart(None, Jobs()) == ["jobs has changed, and needs a restart"]


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Jobs(store="sqlite:///x"), "store"),  # type: ignore[arg-type]
        (lambda: Jobs(endpoints=["batch"]), "endpoints"),
        (lambda: Work(embedded=1), "embedded"),  # type: ignore[arg-type]
    ],
)
def test_wrong_objects_are_refused(make: Any, setting: str) -> None:
    """The classes check themselves, without a file."""
    with pytest.raises(SettingError) as caught:
        make()
    assert caught.value.setting == setting
