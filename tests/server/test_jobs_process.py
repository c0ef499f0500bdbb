"""Jobs in the whole process: what becomes of them when it is killed, stopped, reloaded, or one of several."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.faults.whole import Whole, whole
from tests.jobs.postgresql import cluster
from tests.serving import PATIENCE, Server, ask, serve

from .job_process import (
    LINES,
    Behind,
    ended,
    environment,
    eventually,
    job,
    lines,
    results,
    submitted,
    waited_for,
    working,
)

PATHS = [f"/x/{number}" for number in range(120)]


def config(behind: Server, folder: Path, *, jobs: str = "", store: str = "lease: 2s", server: str = "") -> str:
    return f"""
server: {{watch: false, {server}}}
upstreams: {{api: {{url: "{behind.url}"}}}}
jobs:
  anonymous: true
  store: {{url: "sqlite:///{folder}/jobs.db", {store}}}
  {jobs}
"""


def view(process: Whole) -> list[Any]:
    """What each process says of its jobs."""
    return [each.get("jobs") for each in process.asks_admin("GET", "/-/upstreams").json()["workers"]]


def running(process: Whole) -> int:
    return int(process.asks_admin("GET", "/-/upstreams").json()["workers"][0]["running"])


def test_a_job_is_taken_done_and_read(tmp_path: Path) -> None:
    """Lines become a job, every item reaches the upstream once, and all results are there in order."""
    behind = Behind()
    with behind.served() as server, whole(tmp_path, config(server, tmp_path)) as process:
        path = submitted(process, PATHS)
        done = ended(process, path)
        assert (done["state"], done["counts"]["completed"]) == ("completed", len(PATHS))
        found = results(process, path)
        assert [each["index"] for each in found] == list(range(len(PATHS)))
        assert {each["status"] for each in found} == {200}
        assert behind.seen == dict.fromkeys(PATHS, 1)
        assert view(process)[0]["status"] == "open"
        assert process.asks_admin("GET", "/readyz?verbose").json()["checks"]["jobs"] == "pass"


def test_nothing_is_lost_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """Killed in the middle and started again, it does the rest; only what was in flight is sent twice."""
    behind = Behind()
    with behind.served() as server:
        text = config(server, tmp_path, jobs="worker: {concurrency: 4, poll: 200ms}")
        behind.hold_after(40)
        with whole(tmp_path, text) as process:
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 30)
            process.signal(signal.SIGKILL)
            assert process.ended() == -signal.SIGKILL
        behind.open_up()
        with whole(tmp_path, text) as process:
            assert ended(process, path)["counts"]["completed"] == len(PATHS)
            assert len(results(process, path)) == len(PATHS)
        assert set(behind.seen) == set(PATHS)
        assert sum(behind.seen.values()) <= len(PATHS) + 4


def test_what_runs_at_the_end_is_handed_over(tmp_path: Path) -> None:
    """SIGTERM ends a process whose items do not end within its grace; who watches is let go, and another process has
    the items at once."""
    behind = Behind()
    with behind.served() as server:
        text = config(server, tmp_path, store="lease: 10m", server="grace: 4s", jobs="worker: {poll: 200ms}")
        behind.hold_after(10)
        with whole(tmp_path, text) as process:
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 5)
            with ThreadPoolExecutor(1) as pool:
                watching = pool.submit(process.ask, "GET", f"{path}/events")
                # The four items that are held, and the one who watches.
                eventually(lambda: running(process), (5).__eq__)
                process.signal(signal.SIGTERM)
                assert process.ended() == 0
                assert b'"state":"running"' in watching.result().body
        behind.open_up()
        # The lease would go on for longer than anybody waits here.
        with whole(tmp_path, text) as process:
            assert ended(process, path)["counts"]["completed"] == len(PATHS)


def test_a_reload_in_the_middle(tmp_path: Path) -> None:
    """The job and its worker stay; items that begin after it go to the upstream of the new configuration."""
    before, after = Behind("before"), Behind("after")
    with before.served() as one, after.served() as other:
        before.hold_after(20)
        with whole(tmp_path, config(one, tmp_path)) as process:
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 10)
            eventually(lambda: sum(before.seen.values()) - job(process, path)["counts"]["completed"], (4).__eq__)
            worker = view(process)[0]["worker"]
            process.file.write_text(config(other, tmp_path), "utf-8")
            verdict = process.asks_admin("POST", "/-/reload")
            assert (verdict.status, verdict.json()["warnings"]) == (200, [])
            before.open_up()
            assert ended(process, path)["counts"]["completed"] == len(PATHS)
            sent = {each["body"]["from"] for each in results(process, path)}
            assert sent == {"before", "after"}
            # Those that ran during the reload were not cut.
            assert before.seen + after.seen == dict.fromkeys(PATHS, 1)
            assert sum(after.seen.values()) > len(PATHS) / 2
            assert view(process)[0]["worker"] == worker


def test_an_endpoint_that_a_reload_adds_has_jobs(tmp_path: Path) -> None:
    """Its jobs are worked on as those of the others, and the section `jobs` can be left out meanwhile."""
    behind = Behind()
    with behind.served() as server, whole(tmp_path, config(server, tmp_path)) as process:
        text = process.file.read_text("utf-8")
        # It has begun to serve a moment before it begins to work.
        [before] = eventually(lambda: view(process), lambda found: found[0]["worker"] is not None)
        process.file.write_text(f"{text}\nendpoints: [{{path: /batch}}, {{path: /more}}]\n", "utf-8")
        assert process.asks_admin("POST", "/-/reload").status == 200
        answer = process.ask("POST", "/more", LINES, lines(PATHS[:5]))
        assert answer.status == 202
        assert ended(process, answer.header("location") or "")["counts"]["completed"] == 5
        assert view(process)[0]["worker"] == before["worker"], "what it had was not handed over for that"
        process.file.write_text(text.partition("jobs:")[0], "utf-8")
        verdict = process.asks_admin("POST", "/-/reload").json()
        assert verdict["warnings"] == ["jobs has changed, and needs a restart"]
        assert ended(process, submitted(process, PATHS[:5]))["counts"]["completed"] == 5
        # Not after some time either: what it did not know would be left alone for a while, and then be done.
        assert not [each for each in process.log if "unready" in each["msg"]]


def test_endpoints_without_jobs(tmp_path: Path) -> None:
    """Where jobs are not on, the preference is ignored, as HTTP has it, and there is nothing below the path."""
    text = "endpoints: [/other]\nendpoints: [{path: /batch}, {path: /other}]\n"
    behind = Behind()
    with behind.served() as server, whole(tmp_path, config(server, tmp_path, jobs=text)) as process:
        headers = [("Content-Type", "application/json"), ("Prefer", "respond-async")]
        body = json.dumps({"requests": [{"path": "/x"}]}).encode()
        assert process.ask("POST", "/batch", headers, body).status == 200
        assert process.ask("POST", "/batch", LINES, lines(["/x"])).status == 415
        assert process.ask("GET", "/batch/jobs").status == 404
        assert process.ask("POST", "/other", headers, body).status == 202
        assert process.ask("GET", "/other/jobs").status == 200


def test_workers_share_the_store(tmp_path: Path) -> None:
    """Two processes behind one socket take, show and do the same jobs; one that is killed is replaced, and loses
    nothing."""
    behind = Behind()
    with behind.served() as server:
        behind.hold_after(30)
        text = config(server, tmp_path, server="workers: 2", jobs="worker: {poll: 200ms}")
        with whole(tmp_path, text) as process:
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 20)
            workers = process.asks_admin("GET", "/-/upstreams").json()["workers"]
            assert [each["jobs"]["status"] for each in workers] == ["open", "open"]
            assert len({each["jobs"]["worker"] for each in workers}) == 2
            os.kill(workers[0]["pid"], signal.SIGKILL)
            behind.open_up()
            assert ended(process, path)["counts"]["completed"] == len(PATHS)
            assert set(behind.seen) == set(PATHS)
            eventually(lambda: process.asks_admin("GET", "/readyz?verbose").json(), lambda found: "jobs" in str(found))


def test_processes_that_only_work(tmp_path: Path) -> None:
    """A server that does not work on jobs, and two workers that do; one is told to end in the middle."""
    behind = Behind()
    with behind.served() as server:
        behind.hold_after(30)
        text = config(server, tmp_path, store="lease: 10m", jobs="worker: {embedded: false, poll: 200ms}")
        with whole(tmp_path, text) as process:
            path = submitted(process, PATHS)
            assert view(process)[0]["worker"] is None
            with working("-c", process.file) as first:
                waited_for(process, path, lambda found: found["counts"]["completed"] >= 20)
                with working("--admin", "127.0.0.1:0", "-c", process.file) as second:
                    assert ask(second.admin, "GET", "/readyz", [("Host", "localhost")]).status == 200
                    second.signal(signal.SIGHUP)
                    second.says("config.unchanged")
                    first.signal(signal.SIGTERM)
                    behind.open_up()
                    assert first.ended() == 0
                    assert ended(process, path)["counts"]["completed"] == len(PATHS)
        assert set(behind.seen) == set(PATHS)


def test_several_processes_of_one_worker(tmp_path: Path) -> None:
    """One that is killed is replaced, and loses nothing; the file is read anew by all; they end together."""
    behind = Behind()
    with behind.served() as server:
        behind.hold_after(30)
        text = config(server, tmp_path, jobs="worker: {embedded: false, poll: 200ms}")
        with (
            whole(tmp_path, text) as process,
            working("--workers", "2", "--admin", "127.0.0.1:0", "-c", process.file) as worker,
        ):
            path = submitted(process, PATHS)
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 20)
            states = worker.asks_admin("GET", "/-/upstreams").json()["workers"]
            assert len({each["jobs"]["worker"] for each in states} - {None}) == 2
            os.kill(states[0]["pid"], signal.SIGKILL)
            worker.says("worker.replaced")
            worker.signal(signal.SIGHUP)
            worker.says("config.unchanged")
            behind.open_up()
            assert ended(process, path)["counts"]["completed"] == len(PATHS)
            worker.signal(signal.SIGTERM)
            assert worker.ended() == 0
        assert set(behind.seen) == set(PATHS)


def test_a_store_that_several_machines_may_share(tmp_path: Path) -> None:
    """With PostgreSQL all is the same; when the database comes back, jobs do, without a new start."""
    behind = Behind()
    with cluster(("fsync=off",)) as database, behind.served() as server:
        text = config(server, tmp_path, jobs="worker: {embedded: false, poll: 200ms}").replace(
            f"sqlite:///{tmp_path}/jobs.db", database.new_url()
        )
        with whole(tmp_path, text) as process, working("-c", process.file):
            assert ended(process, submitted(process, PATHS[:20]))["counts"]["completed"] == 20
            behind.hold_after(10)
            path = submitted(process, PATHS[20:60])
            waited_for(process, path, lambda found: found["counts"]["completed"] >= 5)
            database.stop()
            eventually(lambda: process.ask("POST", "/batch", LINES, lines(["/x"])).status, (503).__eq__)
            behind.open_up()
            database.start()
            eventually(lambda: process.ask("GET", path).status, (200).__eq__)
            assert ended(process, path)["counts"]["completed"] == 40
            assert view(process)[0]["store"] == "postgresql"


def test_a_store_out_of_reach_stops_no_batch(tmp_path: Path) -> None:
    """Batches are answered as ever; jobs are answered 503, and both views tell of it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://user:word@127.0.0.1:{nobody.getsockname()[1]}/jobs"
        behind = Behind()
        with behind.served() as server:
            text = config(server, tmp_path).replace(f"sqlite:///{tmp_path}/jobs.db", url)
            with whole(tmp_path, text) as process:
                assert process.batch({"path": "/x"})[0]["status"] == 200
                answer = process.ask("POST", "/batch", LINES, lines(["/x"]))
                assert (answer.status, answer.json()["code"]) == (503, "store_unreachable")
                assert answer.header("retry-after") is not None
                ready = process.asks_admin("GET", "/readyz?verbose")
                assert (ready.status, ready.json()["checks"]["jobs"]) == (200, "warn")
                assert view(process)[0] == {
                    "store": "postgresql",
                    "status": "store_unreachable",
                    "workers": 0,
                    "worker": None,
                }
                assert b"word" not in process.asks_admin("GET", "/-/config").body
                assert "word@" not in json.dumps(process.log)


def test_a_store_that_needs_help_stops_the_start(tmp_path: Path) -> None:
    """A file that is no database is told at once, and left as it is."""
    file = tmp_path / "jobs.db"
    file.write_text("This is a letter, and no database. " * 200, "utf-8")
    path = tmp_path / "batchproxy.yaml"
    path.write_text(config(Server(host="127.0.0.1", port=9), tmp_path), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "batchproxy", "serve", "-c", path, "--listen", "127.0.0.1:0", "--admin", "off"],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert b"start.failed" in done.stderr
    assert file.read_text("utf-8").startswith("This is a letter")


def test_the_state_directory_of_the_service_is_used(tmp_path: Path) -> None:
    """Without a URL the store is where systemd says, and its folder is made."""
    state = tmp_path / "state" / "batchproxy"
    behind = Behind()
    with behind.served() as server:
        text = f"server: {{watch: false}}\nupstreams: {{a: {{url: '{server.url}'}}}}\njobs: {{anonymous: true}}\n"
        with whole(tmp_path, text, variables={"STATE_DIRECTORY": str(state)}) as process:
            assert ended(process, submitted(process, PATHS[:3]))["counts"]["completed"] == 3
    assert (state / "jobs.db").stat().st_mode & 0o077 == 0


def test_credentials_are_kept_with_a_key_only(tmp_path: Path) -> None:
    """With a key from the environment the items have the caller's credentials; his jobs are nobody else's."""
    seen: list[bytes | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise RuntimeError("there is none")
        seen.append(dict(scope["headers"]).get(b"authorization"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    mine = [("Authorization", "Bearer mine"), *LINES]
    with serve(app, lifespan="off") as server:
        with whole(tmp_path, config(server, tmp_path)) as process:
            answer = process.ask("POST", "/batch", mine, lines(["/x"]))
            assert (answer.status, answer.json()["code"]) == (422, "secrets_unavailable")
        variables = {"BATCHPROXY_JOBS_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
        with whole(tmp_path, config(server, tmp_path), variables=variables) as process:
            path = process.ask("POST", "/batch", mine, lines(["/x"])).header("location") or ""
            eventually(lambda: process.ask("GET", path, mine[:1]).json()["state"], "completed".__eq__)
            assert process.ask("GET", path).status == 404
    assert seen == [b"Bearer mine"]


@contextmanager
def listening() -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    """A receiver of webhooks: its port, and what it got."""
    got: list[tuple[dict[str, str], bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        got.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with serve(app, lifespan="off") as server:
        yield server.port, got


def test_the_end_of_a_job_is_told(tmp_path: Path) -> None:
    """One signed webhook for each end, from whichever process it is that has worked on it. Its URL is in the settings,
    and never in the store."""
    secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    behind = Behind()
    with behind.served() as server, listening() as (port, got):
        told = f"webhooks: {{url: 'http://127.0.0.1:{port}/hook', http: true, ports: [{port}], allow: [127.0.0.0/8]"
        jobs = f"{told}, signing: ['env:HOOK']}}"
        with whole(tmp_path, config(server, tmp_path, jobs=jobs), variables={"HOOK": secret}) as process:
            path = submitted(process, PATHS[:3])
            ended(process, path)
            [(headers, body)] = eventually(lambda: got, lambda found: len(found) == 1)
            # With what is in its log only, and what has been removed since.
            stored = b"".join(file.read_bytes() for file in tmp_path.glob("jobs.db*") if file.is_file())
    assert b"batch.job.completed" in stored
    assert f":{port}/hook".encode() not in stored
    said = Webhook(secret).verify(body, headers)
    assert said["type"] == "batch.job.completed"
    assert said["data"]["id"] == path.rpartition("/")[2]


@pytest.mark.parametrize("jobs", ["", "jobs: {anonymous: true}"])
def test_only_jobs_need_a_database(jobs: str, tmp_path: Path) -> None:
    """A process without the section imports nothing of SQLAlchemy, nor of what else jobs need."""
    text = f"upstreams: {{a: {{url: 'http://127.0.0.1:9'}}}}\n{jobs}\n"
    (tmp_path / "batchproxy.yaml").write_text(text, "utf-8")
    asked = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from batchproxy.server import life\n"
        "from batchproxy.server.config import load, schema, shown\n"
        "from batchproxy.server.running import running\n"
        "async def main():\n"
        "    loaded = load(Path('batchproxy.yaml'))\n"
        "    shown(loaded), schema()\n"
        "    async with running(loaded):\n"
        "        print('sqlalchemy' in sys.modules)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", asked],
        cwd=tmp_path,
        env=environment({"STATE_DIRECTORY": str(tmp_path)}),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (str(bool(jobs)).encode(), b"")


APP = """
from batchproxy import BatchMiddleware
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.resources import JobsSettings

class Observer:
    def item_ended(self, event):
        print("observed", event.item.path.decode(), flush=True)
    def batch_ended(self, event):
        pass

async def plain(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("there is none")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})

store = StoreSettings(url="sqlite:///FOLDER/jobs.db", blobs="FOLDER/large")
app = BatchMiddleware(plain, jobs=JobsSettings(store=store, anonymous=True, worker=False), observers=[Observer()])
bare = BatchMiddleware(plain)
"""


def test_a_worker_for_an_app(tmp_path: Path) -> None:
    """With `--app`, the jobs that the middleware of an app took are done by a process without a server, which tells its
    observers of their items."""
    (tmp_path / "shop.py").write_text(APP.replace("FOLDER", str(tmp_path)), "utf-8")
    names: dict[str, Any] = {}
    exec((tmp_path / "shop.py").read_text("utf-8"), names)
    large = json.dumps({"method": "POST", "path": "/large", "body": "x" * 20_000}).encode()
    with serve(names["app"]) as server:
        location = ask(server, "POST", "/batch", LINES, lines(PATHS[:5]) + large).header("location") or ""
        assert ask(server, "GET", location).json()["state"] == "queued"
        assert any(each.is_file() for each in (tmp_path / "large").rglob("*"))
        with working("--app", "shop:app", folder=tmp_path) as worker:
            eventually(lambda: ask(server, "GET", location).json()["state"], "completed".__eq__)
            worker.signal(signal.SIGTERM)
            assert worker.ended() == 0
        told = [f"observed {path}" for path in [*PATHS[:5], "/large"]]
        assert sorted(line["msg"] for line in worker.lines) == sorted(told)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--app", "shop:app", "--upstream", "http://127.0.0.1:9"], 2, b"in the place of a configuration"),
        (["--app", "shop:app", "--store", "sqlite:///jobs.db", "--workers", "2"], 2, b"in the place of"),
        (["--app", "shop:nothing", "--store", "sqlite:///jobs.db"], 2, b"batchproxy: --app='shop:nothing': expected"),
        (["--app", "shop"], 2, b"--app shop: expected a module and its app, such as shop.main:app\n"),
        (["--app", "shop:app", "--store", "mysql://x"], 2, b"sqlite:///"),
        (["--app", "shop:bare", "--store", "sqlite:///jobs.db"], 1, b"no BatchMiddleware with jobs"),
        (["--app", "shop:app", "--store", "sqlite:////no/such/folder/jobs.db"], 1, b"/no/such/folder"),
        (["--upstream", "http://127.0.0.1:9"], 78, b"there is no `jobs`"),
        ([], 2, b"expected --config FILE, --upstream URL or --app MODULE:APP\n"),
    ],
)
def test_what_a_worker_cannot_work_with(arguments: list[str], code: int, told: bytes, tmp_path: Path) -> None:
    """Each mistake has its exit code, and is named."""
    (tmp_path / "shop.py").write_text(APP.replace("FOLDER", str(tmp_path)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "batchproxy", "worker", *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert done.stderr.count(b"batchproxy: ") < 2
    assert b"Traceback" not in done.stderr
