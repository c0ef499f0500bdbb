"""`batchproxy jobs …` against running servers: what it prints, and its exit codes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from batchproxy import BatchMiddleware
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.working import WorkSettings
from batchproxy.server.cli import app as command_line
from batchproxy.server.commands import job_server
from tests.faults.whole import whole
from tests.serving import PATIENCE, Server, ask, serve

from .job_process import LINES, Behind, environment, eventually, lines, submitted, waited_for
from .terminals import session
from .test_cli import run, run_here

PATHS = [f"/x/{number}" for number in range(20)]
NOBODY = "0192f0c1-7c3b-7000-8000-000000000001"


class Site:
    """A server with jobs, and what is behind it."""

    def __init__(self, server: Server, behind: Behind) -> None:
        self.behind = behind
        self.server = server
        self.url = f"{server.url}/batch"

    def job(self, paths: list[str], *headers: tuple[str, str]) -> str:
        """The id of a new one."""
        answer = ask(self.server, "POST", "/batch", [*LINES, *headers], lines(paths))
        return str(answer.json()["id"])

    def done(self, paths: list[str]) -> str:
        job_id = self.job(paths)
        eventually(lambda: self.look(job_id)["finished_at"], bool)
        return job_id

    def look(self, job_id: str) -> Any:
        return ask(self.server, "GET", f"/batch/jobs/{job_id}").json()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        done = run_here("jobs", *arguments, variables={"BATCHPROXY_URL": self.url})
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    store = StoreSettings(url=f"sqlite:///{tmp_path_factory.mktemp('jobs')}/jobs.db")
    work = WorkSettings(concurrency=4, poll=0.2, watch=0.2, attempts=1)
    behind = Behind()
    with serve(BatchMiddleware(behind, jobs=JobsSettings(store=store, anonymous=True, work=work))) as server:
        yield Site(server, behind)
        behind.open_up()


def test_list_and_show(site: Site) -> None:
    """A table of one's jobs, and one of them; the server's JSON on demand."""
    job_id = site.done(PATHS)
    code, out, err = site.run("list")
    assert code == 0
    assert any(line.split()[:4] == [job_id, "completed", "20/20", "0"] for line in out.splitlines())
    assert "job" in err
    assert json.loads(site.run("list", "--json", "--state", "completed")[1])["jobs"][0]["id"] == job_id
    assert site.run("list", "--state", "failed")[2] == "0 jobs\n"
    code, out, _ = site.run("show", job_id)
    assert (code, [line.split()[:2] for line in out.splitlines()[:2]]) == (0, [["id", job_id], ["state", "completed"]])
    assert json.loads(site.run("show", job_id, "--json")[1]) == site.look(job_id)


@pytest.mark.parametrize(("paths", "code"), [(PATHS, 0), ([*PATHS, "/missing"], 4)])
def test_watch_ends_with_the_job(paths: list[str], code: int, site: Site) -> None:
    """It waits, says how far the job is, and tells by its exit code whether every item succeeded."""
    site.behind.hold_after(5)
    job_id = site.job(paths)
    command = [sys.executable, "-m", "batchproxy", "jobs", "watch", job_id, "--json", "--url", site.url]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        first = process.stderr.readline().decode()
        site.behind.open_up()
        out, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert first.endswith(f" of {len(paths)} items\n")
    assert rest.decode().splitlines()[-1] == f"completed: {len(paths)} of {len(paths)} items"
    assert json.loads(out)["state"] == "completed"


@pytest.mark.parametrize("options", [(), ("--stream",), ("--json",), ("--stream", "--json")])
def test_a_batch_that_became_a_job(options: tuple[str, ...], site: Site) -> None:
    """`send` prints the id, or the answer as it came, and how to watch it; 0. No value of a header is repeated."""
    headers = ("-H", "Prefer: respond-async", "-H", "User-Agent: hidden")
    done = run_here("send", "-", "--url", site.url, *headers, *options, stdin=b'[{"path": "/x/1"}]')
    assert done.returncode == 0
    job_id = json.loads(done.stdout)["id"] if "--json" in options else done.stdout.decode().strip()
    told = f"batchproxy jobs watch {job_id} --url {site.url} -H 'User-Agent: …'"
    assert done.stderr.decode() == f"it became a job; to watch it: {told}\n"
    assert site.run("watch", job_id, "-H", "User-Agent: hidden")[0] == 0


def test_who_stops_watching_is_told_that_the_job_goes_on(site: Site) -> None:
    """Ctrl-C ends the watching alone: stderr says so, and what to type, without the header."""
    site.behind.hold_after(5)
    job_id = site.job(PATHS)
    again = ["batchproxy", "jobs", "watch", job_id, "--url", site.url]
    command = [sys.executable, "-m", *again, "-H", "X-Secret: hush"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=PATIENCE)
    site.behind.open_up()
    assert process.returncode in (130, -signal.SIGINT)
    assert rest.decode().splitlines()[0] == f"the job goes on; to watch it again: {' '.join(again)} -H 'X-Secret: …'"
    assert site.run("watch", job_id)[0] == 0


def test_watch_draws_a_bar_on_a_terminal(site: Site) -> None:
    """There the progress is a bar, which is gone in the end; what is left is the job."""
    site.behind.hold_after(5)
    job_id = site.job(["/missing", *PATHS])
    with session(sys.executable, "-m", "batchproxy", "jobs", "watch", job_id, "--url", site.url) as running:
        running.until(rb"running, 1 not ok.*/21")
        site.behind.open_up()
        running.until(b"21 total, 20 completed, 1 failed")
        assert running.end() == 4
    assert "Traceback" not in running.terminal


def test_export_writes_every_result(site: Site, tmp_path: Path) -> None:
    """One line for each item, in their order, to stdout or into a file; or only those of some outcomes."""
    paths = [*PATHS[:5], "/missing/1", *PATHS[5:]]
    job_id = site.done(paths)
    code, out, err = site.run("export", job_id)
    assert (code, err) == (0, "21 results\n")
    found = [json.loads(line) for line in out.splitlines()]
    assert [each["index"] for each in found] == list(range(21))
    assert [each["index"] for each in found if each["status"] == 404] == [5]
    assert site.run("export", job_id, "-o", str(tmp_path / "all"))[0] == 0
    assert (tmp_path / "all").read_text("utf-8") == out
    code, out, _ = site.run("export", job_id, "--outcome", "error")
    assert (code, json.loads(out)["index"]) == (0, 5)
    code, _, err = site.run("export", job_id, "-o", str(tmp_path / "no" / "folder"))
    assert (code, "cannot be written" in err) == (1, True)


def test_cancel_and_export_of_what_is_there(site: Site) -> None:
    """What is done stays, and can be had; whoever watches a cancelled job is told by the exit code."""
    site.behind.hold_after(8)
    job_id = site.job(PATHS)
    eventually(lambda: site.look(job_id)["counts"]["completed"], lambda number: number >= 4)
    code, out, err = site.run("export", job_id)
    assert (code, "still runs" in err) == (4, True)
    assert len(out.splitlines()) < 20
    assert site.run("cancel", job_id)[0] == 0
    site.behind.open_up()
    assert site.run("watch", job_id)[0] == 4
    assert site.look(job_id)["state"] == "cancelled"


def test_retry_makes_a_new_job(site: Site) -> None:
    """Of the items that failed; a job without any is refused, as one that still runs."""
    job_id = site.done([*PATHS, "/missing/2"])
    code, out, _ = site.run("retry", job_id, "--json")
    again = json.loads(out)
    assert (code, again["retry_of"], again["counts"]["total"]) == (0, job_id, 1)
    code, _, err = site.run("retry", site.done(PATHS))
    assert (code, "409 wrong_state" in err) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", NOBODY], 4, f"404 not_found: you have no job {NOBODY}; `batchproxy jobs list` shows those that"),
        (["show", "../../x"], 4, "404 not_found: you have no job ../../x; `batchproxy jobs list` shows those that"),
        (
            ["export", "foo"],
            4,
            "404 not_found: you have no job foo; `batchproxy jobs list` shows those that you have\n",
        ),
        (["list", "--state", "nonsense"], 4, "400 invalid_query"),
        (["list", "--url", "127.0.0.1:1"], 2, "expected http://"),
        (["list", "--header", "nonsense"], 2, "expected NAME:VALUE"),
        (["list", "--url", "http://127.0.0.1:1/batch", "--timeout", "0.05"], 5, "no answer"),
        (["cancel", NOBODY, "--url", "http://127.0.0.1:1/batch"], 5, "no answer"),
    ],
)
def test_what_goes_wrong_has_its_code(arguments: list[str], code: int, told: str, site: Site) -> None:
    """2 for wrong usage, 4 for a refusal, 5 if nobody answers; the text says which."""
    found = site.run(*arguments)
    assert (found[0], found[1]) == (code, "")
    assert told in found[2]
    assert "Traceback" not in found[2]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", b'{"id": 1}'])
def test_somebody_else_s_answer(body: bytes) -> None:
    """A server that knows no jobs is told as such."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    with serve(app, lifespan="off") as server:
        done = run_here("jobs", "list", "--url", f"{server.url}/batch")
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"not with jobs" in done.stderr


def test_what_has_not_ended_well_is_counted() -> None:
    """However it has ended: not only what the API answered with an error."""
    counts = {"total": 20, "completed": 9, "failed": 1, "cancelled": 2, "expired": 3, "unknown": 5}
    job = {"id": NOBODY, "state": "completed", "counts": counts, "created_at": "2026-01-01T00:00:00Z"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"jobs": [job]}).encode()})

    with serve(app, lifespan="off") as server:
        done = CliRunner().invoke(command_line, ["jobs", "list", "--url", f"{server.url}/batch"])
    head, row = done.stdout.splitlines()
    assert (done.exit_code, head.split()) == (0, ["id", "state", "done", "not", "ok", "created"])
    assert row.split()[:4] == [NOBODY, "completed", "20/20", "11"]


def test_a_silent_server_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for one that nobody has started hears of it after a moment, not only when the time is over."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda pause: now.append(now.pop() + pause))
    monkeypatch.setattr(job_server, "time", clock)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/batch"
        done = CliRunner().invoke(command_line, ["jobs", "watch", NOBODY, "--url", url])
    told, last = done.stderr.splitlines()
    assert told == f"no answer from {url}/jobs yet, trying for 59 s more"
    assert (done.exit_code, last.startswith(f"batchproxy: {url}/jobs: no answer: ")) == (5, True)


@pytest.mark.parametrize("jobs", ["{}", "{endpoints: [/v1]}"])
def test_a_file_without_native_jobs(jobs: str, tmp_path: Path) -> None:
    """No URL would help."""
    native = "" if jobs == "{}" else ", {path: /batch}"
    file = tmp_path / "batchproxy.yaml"
    api = "{path: /v1, dialect: openai, allow: [/v1/chat/completions]}"
    file.write_text(f"upstreams: {{a: {{url: 'http://127.0.0.1:9'}}}}\nendpoints: [{api}{native}]\njobs: {jobs}\n")
    done = CliRunner().invoke(command_line, ["jobs", "list", "-c", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"none of the endpoints in {file} has native jobs" in done.stderr


def test_a_server_that_holds_nothing_back_is_not_hurried() -> None:
    """`watch` asks again, but not at once: somebody in between may not know the preference to wait."""
    counts = dict.fromkeys(("total", "completed", "failed", "cancelled", "expired", "unknown"), 1)
    asked: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(time.monotonic())
        status = 304 if len(asked) == 2 else 200
        state = "running" if len(asked) < 3 else "completed"
        content = json.dumps({"id": NOBODY, "state": state, "counts": counts}).encode()
        await send({"type": "http.response.start", "status": status, "headers": [(b"etag", b'W/"1"')]})
        await send({"type": "http.response.body", "body": b"" if status == 304 else content})

    with serve(app, lifespan="off") as server:
        assert run("jobs", "watch", NOBODY, "--url", f"{server.url}/batch").returncode == 0
    assert len(asked) == 3
    assert asked[2] - asked[0] >= 1


def test_a_server_that_starts_anew_is_waited_for(tmp_path: Path) -> None:
    """`watch`, with the server's address out of its own config file, goes on over its end and its next start."""
    behind = Behind()
    with behind.served() as upstream:
        store = f"{{url: 'sqlite:///{tmp_path}/jobs.db', lease: 1s}}"
        jobs = f"jobs: {{anonymous: true, store: {store}, worker: {{poll: 200ms}}}}\n"
        text = f"server: {{watch: false}}\nupstreams: {{a: {{url: '{upstream.url}'}}}}\n{jobs}"
        behind.hold_after(10)
        with whole(tmp_path, text) as process:
            address = f"127.0.0.1:{process.server.port}"
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 5)
            asked = ["jobs", "watch", path.rpartition("/")[2], "-c", str(process.file)]
            command = [sys.executable, "-m", "batchproxy", *asked]
            variables = {"BATCHPROXY_SERVER__LISTEN": address}
            watching = subprocess.Popen(command, env=environment(variables), stderr=subprocess.PIPE)
            with watching:
                assert watching.stderr is not None
                assert watching.stderr.readline().startswith(b"running")
                process.signal(signal.SIGKILL)
                process.ended()
                behind.open_up()
                with whole(tmp_path, text, variables=variables):
                    assert watching.wait(PATIENCE) == 0
