"""The section `jobs` of a config file: its defaults, and what is refused, and where."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings, places
from batchproxy.jobs.store.settings import Bucket
from batchproxy.jobs.webhooks import WebhookSettings
from batchproxy.jobs.working import WorkSettings
from batchproxy.server.cli import app
from batchproxy.server.config import shown
from batchproxy.server.job_settings import Jobs, Store, Webhooks, Work, default_file
from batchproxy.server.reload import jobs_need_restart
from tests.jobs.buckets import KEY, VARIABLES, buckets

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
    (tmp_path / "billing").write_text("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n", "utf-8")
    text = f"""\
      store: {{url: 'sqlite:///{tmp_path}/jobs.db', keep: 1h, lease: 3s, stored_bytes: 1GiB}}
      principal: header:X-User
      key_file: key
      delivery: at_least_once
      endpoint_delivery: {{/batch: at_most_once}}
      webhooks: {{callbacks: {{billing: ['file:{tmp_path}/billing']}}, ports: [8443]}}
      max_bytes: 1MB
      worker: {{concurrency: 9, item_timeout: 2m}}
    """
    jobs = loaded(tmp_path, f"{UPSTREAM}jobs:\n{text}".replace("      ", "  ")).config.jobs
    assert jobs is not None
    made, work = jobs.made(), jobs.worker.made()
    assert (made.store.keep, made.store.lease, made.store.stored_bytes) == (3600, 3, 2**30)
    assert (made.principal, made.delivery.value, made.max_bytes) == ("header:X-User", "at_least_once", 10**6)
    assert made.delivery_at("/batch").value == "at_most_once"
    assert made.webhooks is not None
    assert made.webhooks.secrets == {"billing": (f"file:{tmp_path}/billing",)}
    assert list(made.webhooks.ports) == [8443]
    assert made.secret_key_file == str(tmp_path / "key")
    assert (work.concurrency, work.item_timeout) == (9, 120)


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("  sotre: {}", "sotre", "unknown key `sotre`, expected a key of Jobs, did you mean `store`?"),
        ("  store: {url: 'mysql://host/x'}", "'mysql", "expected sqlite:///path/to/file or postgresql://"),
        ("  store: {url: 'postgresql://u:p@host:port/x'}", "'postgresql", "with what is special percent-encoded"),
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
        (
            "  worker: {limits: {aa: {rate: 1}}}",
            "aa",
            "unknown upstream `aa`, expected one of `upstreams`, did you mean `a`",
        ),
        ("  worker: {limits: {b: {rate: 1}}}", "b:", "unknown upstream `b`, expected one of `upstreams`: a"),
        ("  worker: {limits: {a: {burst: 1}}}", "1}", "expected a `rate` along with it"),
        (
            "  worker: {limits: {a: {rat: 1}}}",
            "rat",
            "unknown key `rat`, expected a key of Shared, did you mean `rate`?",
        ),
        ("  worker: {limits: {a: {rate: 0}}}", "0}", "expected an integer of at least 1"),
        ("  store: {blobs: 's3://Bucket:x/'}", "'s3", "expected s3://bucket or s3://bucket/prefix"),
        ("  store: {blobs: 'gs://bucket'}", "'gs", "expected a folder, or s3://bucket/prefix"),
        ("  store: {blobs_region: eu-central-1}", "eu", "expected `blobs` to be s3://bucket/prefix"),
        ("  store: {blobs: 's3://bucket', blobs_endpoint: 'minio:9000'}", "'minio", "expected a URL such as https://"),
        ("  webhooks: {url: 'https://a.example'}", "webhooks", "at least one env:NAME"),
        ("  webhooks: {http: true}", "webhooks", "expected a URL that is told of every job, or `callbacks`"),
        ("  webhooks: {signing: ['env:A']}", "webhooks", "expected a URL that is told of every job, or `callbacks`"),
        ("  webhooks: {signing: ['env:A'], callbacks: {a: ['env:A']}}", "signing", "expected a `url` that is told"),
        ("  webhooks: {callbacks: {a: []}}", "callbacks", "at least one env:NAME"),
        ("  webhooks: {callbacks: {a: ['whsec_x']}}", "callbacks", "not the secret itself"),
        ("  webhooks: {callbacks: {a: ['env:NO_SUCH_ONE']}}", "callbacks", "variable that is set"),
        ("  webhooks: {callbacks: {'a b': ['env:A']}}", "'a b'", "expected a name of letters"),
        ("  webhooks: {callbacks: {default: ['env:A']}}", "default", "expected another name"),
        ("  endpoint_delivery: {/bach: at_least_once}", "at_least", "there is no endpoint `/bach`"),
        ("  endpoint_delivery: {/batch: twice}", "twice", "expected one of at_most_once, at_least_once"),
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


@pytest.mark.parametrize("key", ["signing: ['{}']", "callbacks: {{a: ['{}']}}", "url: '{}'"])
def test_a_secret_in_the_wrong_place_is_not_shown(key: str, tmp_path: Path) -> None:
    """Where its name should be, or anywhere else: neither message nor line tells it."""
    secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    found = errors(tmp_path, with_jobs(f"  webhooks: {{{key.format(secret)}}}"))
    assert found
    assert not any("MDEyMzQ1" in str(each) + each.message for each in found)


@pytest.mark.parametrize("key", ["url: 'https://a.example', signing: ['file:whsec']", "callbacks: {a: ['file:whsec']}"])
def test_files_with_secrets_are_relative_to_the_config_file(key: str, tmp_path: Path) -> None:
    """As all others are; the path that was tried is told."""
    text = with_jobs(f"  webhooks: {{{key}}}")
    [error] = errors(tmp_path, text)
    assert f"No such file or directory; it is {tmp_path}/whsec" in error.message
    (tmp_path / "whsec").write_text("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    jobs = loaded(tmp_path, text).config.jobs
    assert jobs is not None
    assert jobs.webhooks is not None
    assert [*jobs.webhooks.made().secrets.values()] == [(f"file:{tmp_path}/whsec",)]


def test_callers_do_not_sign_with_the_secret_of_the_operator() -> None:
    """A sender has all secrets, callers only theirs; without any they cannot ask at all."""
    own: dict[str, Any] = {"url": "https://a.example", "signing": ["env:A"]}
    both = Jobs(webhooks=Webhooks(**own, callbacks={"billing": ["env:B"]}))
    assert both.webhooks is not None
    assert both.webhooks.made().secrets == {"default": ["env:A"], "billing": ["env:B"]}
    made = both.made().webhooks
    assert made is not None
    assert made.secrets == {"billing": ["env:B"]}
    assert Jobs(webhooks=Webhooks(**own)).made().webhooks is None


def test_limits_and_buckets_reach_what_they_set(tmp_path: Path) -> None:
    """Those of upstreams by name, and a bucket with where it is."""
    text = """\
      store:
        blobs: s3://bucket/some/jobs
        blobs_endpoint: http://minio.internal:9000
        blobs_region: eu-central-1
      worker:
        limits:
          a: {rate: 100, per: 1m, burst: 5, max_in_flight: 8}
        stages: 3
        watchdog: 5
    """
    jobs = loaded(tmp_path, f"{UPSTREAM}jobs:\n{text}".replace("      ", "  ")).config.jobs
    assert jobs is not None
    assert jobs.store.made().bucket == Bucket("bucket", "some/jobs", "http://minio.internal:9000", "eu-central-1")
    work = jobs.worker.made()
    assert {name: vars(each) for name, each in work.limits.items()} == {
        "a": {"rate": 100, "per": 60, "burst": 5, "max_in_flight": 8}
    }
    assert (work.stages, work.watchdog) == (3, 5)


def test_credentials_of_a_bucket_are_shown_to_nobody(tmp_path: Path) -> None:
    """Neither the value that is refused, nor its line."""
    text = "  store: {blobs: 's3://key:hidden@bucket'}"
    [error] = errors(tmp_path, with_jobs(text))
    assert "`blobs`" in error.message
    assert "hidden" not in str(error)


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
    assert jobs_need_restart(Jobs(), after) == ["jobs.store", "jobs.worker"]
    assert jobs_need_restart(Jobs(), Jobs(max_items=3)) == []
    assert jobs_need_restart(None, None) == []
    assert jobs_need_restart(None, Jobs()) == ["jobs"]


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


@pytest.mark.parametrize(
    ("said", "header"),
    [
        ("", "`authorization` or `x-api-key` or `api-key`"),
        ("principal: header:X-User", "`x-user`"),
        ("principal: cookie:sid", "`cookie`"),
        ("plain_headers: [x-user]", "`authorization`"),
        ("principal: header:X-User, plain_headers: [x-user]", None),
        ("principal: header:From", None),
        ("plain_headers: [x-api-key]", None),
        ("anonymous: true", None),
        ("key_file: key", None),
    ],
)
def test_jobs_that_nobody_can_send(said: str, header: str | None, tmp_path: Path) -> None:
    """Who has to say whose a job is, with a header that jobs may not keep without a key, is told so."""
    (tmp_path / "key").write_text("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n", "utf-8")
    warnings = loaded(tmp_path, f"{UPSTREAM}jobs: {{{said}}}\n").warnings
    assert [each for each in warnings if "no job can be taken" in each] == warnings
    assert len(warnings) == (header is not None)
    assert header is None or header in warnings[0]


def test_the_bucket_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check --connect` writes, reads, lists and removes there, and says what is not possible."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with buckets() as server, socket.create_server(("127.0.0.1", 0)) as upstream:
        bucket = server.new()
        listening = f"upstreams: {{a: {{url: 'http://127.0.0.1:{upstream.getsockname()[1]}'}}}}\n"
        for name, code, said in (
            (bucket.name, 0, "jobs.store.blobs: s3://{}/of: connected"),
            ("no-such-bucket", 1, "jobs.store.blobs: s3://{}/of: failed: There is no bucket"),
        ):
            store = f"{{blobs: 's3://{name}/of', blobs_endpoint: '{server.url}'}}"
            loaded(tmp_path, f"{listening}jobs: {{store: {store}}}\n")
            done = CliRunner().invoke(app, ["check", "--connect", "-c", str(tmp_path / "batchproxy.yaml")])
            assert (done.exit_code, said.format(name) in done.stderr) == (code, True), done.output
            assert KEY not in done.output
        assert server.keys(bucket) == []


def test_the_store_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check --connect` says what the start would do with it, or what keeps it from that, and makes nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path}/state")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    file, foreign, config = tmp_path / "jobs.db", tmp_path / "foreign.db", tmp_path / "batchproxy.yaml"
    foreign.write_bytes(b"no database")
    with socket.create_server(("127.0.0.1", 0)) as upstream, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refusing = f"127.0.0.1:{nobody.getsockname()[1]}/jobs"
        listening = f"upstreams: {{a: {{url: 'http://127.0.0.1:{upstream.getsockname()[1]}'}}}}\n"
        for url, code, said in (
            ("null", 0, f"{tmp_path}/state/batchproxy/jobs.db: fine; its folder will be made at the start"),
            (f"sqlite:///{file}", 0, f"{file}: fine; its file will be made at the start"),
            (f"sqlite:///{foreign}", 1, f"{foreign}: failed: The store is not a database"),
            (
                f"postgresql://ann:secret@{refusing}",
                1,
                f"postgresql://…@{refusing}: failed: The store cannot be reached",
            ),
            (
                f"postgresql://ann:secret@{refusing}?sslmode=secret",
                1,
                f"postgresql://…@{refusing}: failed: The store cannot be reached",
            ),
        ):
            loaded(tmp_path, f"{listening}jobs: {{store: {{url: {url}}}}}\n")
            done = CliRunner().invoke(app, ["check", "--connect", "-c", str(config)])
            assert (done.exit_code, f"jobs.store: {said}" in done.stderr) == (code, True), done.output
            assert ":secret@" not in done.output
        assert {each.name for each in tmp_path.iterdir()} == {config.name, foreign.name}
