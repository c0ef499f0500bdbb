"""The command line as users start it: exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from tests.programs import batchproxy
from tests.serving import PATIENCE, serve

CONFIG = """\
upstreams:
  api: {url: "http://127.0.0.1:9"}
routes:
  - {path: /users, upstream: api, strip_prefix: true, add_prefix: /v1, methods: [GET], max_per_batch: 3}
"""
VERBS = ("serve", "check", "routes", "send", "schema", "init", "reload", "healthcheck", "version")


def run(
    *arguments: str, stdin: bytes = b"", folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHPROXY_", "NO_COLOR"))}
    return subprocess.run(
        [sys.executable, "-m", "batchproxy", *arguments],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        cwd=folder,
        env={**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "COLUMNS": "100", **(variables or {})},
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "api.yaml"
    path.write_text(CONFIG, "utf-8")
    return path


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers by path, also as an admin listener would."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    answers: dict[str, tuple[int, bytes]] = {
        "/livez": (200, b"ok"),
        "/readyz": (503, b"draining\x1b[2J"),
        "/-/reload": (422, json.dumps({"errors": ["a.yaml:1:2: error: no\n  x\x1b[2J\n  ^"]}).encode()),
        "/fails": (500, b'{"a": 1}'),
    }
    status, body = answers.get(scope["path"], (200, b'{"ok": true}'))
    token = (b"authorization", b"Bearer right") in scope["headers"]
    if scope["path"] == "/-/reload" and token:
        status, body = 200, b'{"digest": "abc"}'
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


# Help and usage


def test_help_names_verbs_and_exit_codes() -> None:
    """`-h` lists every verb and every exit code, on stdout."""
    done = run("-h")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert all(f"\n    {code} " in text for code in (0, 1, 2, 4, 5, 78))


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_examples(verb: str) -> None:
    """The help of each verb shows how it is used."""
    assert f"Examples:\n    batchproxy {verb}" in run(verb, "-h").stdout.decode().replace("echo", "batchproxy send")


@pytest.mark.parametrize(
    "arguments", [("serve",), ("nonsense",), ("check", "--format", "xml"), ("send", "missing.json")]
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Wrong usage ends with 2, says why on stderr, and a file in the folder is never taken unasked."""
    (tmp_path / "batchproxy.yaml").write_text(CONFIG, "utf-8")
    done = run(*arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def test_missing_extra_says_what_to_install() -> None:
    """Without the extra the command says how to get it, and ends with 1."""
    program = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['batchproxy', 'version'];"
        "from batchproxy.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"pip install 'batchproxy[proxy]'" in done.stderr
    assert b"Traceback" not in done.stderr


# Configuration


def test_check(file: Path, tmp_path: Path) -> None:
    """A right file is 0, a wrong one 78 with its place; JSON goes to stdout; an unreachable address is 1."""
    right = run("check", "-c", str(file), "--print")
    assert (right.returncode, right.stderr) == (0, b"ok: 1 upstreams, 1 routes, 1 endpoints\n")
    assert b"http://127.0.0.1:9" in right.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("upstream: {}\n", "utf-8")
    done = run("check", "-c", str(wrong))
    assert (done.returncode, done.stdout) == (78, b"")
    assert b"wrong.yaml:1:1: error:" in done.stderr
    assert json.loads(run("check", "-c", str(wrong), "--format", "json").stdout)[0]["line"] == 1
    unreachable = run("check", "-c", str(file), "--connect")
    assert (unreachable.returncode, b"api: http://127.0.0.1:9: failed" in unreachable.stderr) == (1, True)


@pytest.mark.parametrize("options", [(), ("--minimal",)])
def test_the_starter_file_is_right(options: tuple[str, ...], tmp_path: Path) -> None:
    """What `init` writes passes `check`, and is not written over."""
    assert run("init", *options, folder=tmp_path).returncode == 0
    assert run("check", "-c", "batchproxy.yaml", folder=tmp_path).returncode == 0
    assert run("init", *options, folder=tmp_path).returncode == 1


@pytest.mark.parametrize(
    ("method", "path", "code", "told"),
    [
        ("GET", "/users/7?a=1", 0, "target: /v1/7?a=1"),
        ("POST", "/users/7", 1, "refused: 405 method_refused"),
        ("GET", "/other", 1, "refused: 404 no_route"),
        ("GET", "/batch", 1, "refused: 400 nested_batch"),
        ("GET", "/users/../x", 1, "refused: 400 invalid_path"),
    ],
)
def test_routes_match(method: str, path: str, code: int, told: str, file: Path) -> None:
    """The verdict is that of the running proxy: 0 with the target, or 1 with the reason."""
    done = run("routes", "-c", str(file), "--match", method, path)
    assert (done.returncode, done.stderr) == (code, b"")
    assert told in done.stdout.decode()


@pytest.mark.parametrize("kind", ["config", "batch"])
def test_schema_is_json(kind: str) -> None:
    """Both schemas are JSON on stdout."""
    assert isinstance(json.loads(run("schema", "--kind", kind).stdout), dict)


# Sending


def test_send() -> None:
    """0 when all succeeded, 4 when an item failed or the batch was refused; the table is on stdout, without colours."""
    with serve(BatchMiddleware(app)) as server:
        target = ("--url", f"{server.url}/batch")
        fine = run("send", "-", *target, stdin=b'[{"path": "/a"}]', variables={"FORCE_COLOR": "1"})
        failed = run("send", "-", *target, "--stream", stdin=b'{"requests": [{"path": "/a"}, {"path": "/fails"}]}')
        whole = run("send", "-", *target, "--json", stdin=b'[{"path": "/a"}]')
        refused = run("send", "-", *target, stdin=b'[{"path": "/a", "\\u001b[2J": 1}]')
    assert (fine.returncode, fine.stderr) == (0, b"1 items, 1 succeeded, 0 failed\n")
    assert b"/a" in fine.stdout
    assert b"\x1b" not in fine.stdout
    assert (failed.returncode, len(failed.stdout.splitlines())) == (4, 2)
    assert json.loads(whole.stdout)["summary"]["succeeded"] == 1
    assert (refused.returncode, refused.stdout) == (4, b"")
    assert b"invalid_batch" in refused.stderr
    assert b"\x1b" not in refused.stderr


def test_send_without_an_answer_is_5() -> None:
    """Nobody there, or somebody who does not answer batches: 5."""
    with serve(app) as server:
        assert run("send", "-", "--url", server.url, stdin=b"[]").returncode == 5
    done = run("send", "-", "--url", server.url, stdin=b"[]")
    assert (done.returncode, done.stdout) == (5, b"")


def test_send_as_curl_is_quoted() -> None:
    """`--curl` prints a command that a shell reads as the same words, and sends nothing."""
    body = b"""[{"path": "/it's $HOME"}]"""
    done = run("send", "-", "--curl", "-H", "X-A: b", stdin=body)
    words = subprocess.run(
        ["sh", "-c", done.stdout.decode().replace("curl", "printf '%s\\n'", 1)],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert b"X-A: b\n" in words
    assert b'{"requests": ' + body + b"}\n" in words


# A running process


def test_healthcheck_and_reload() -> None:
    """Health is 0 or 1; a reload is 0, 78 with the errors, or 1; nothing from outside rules the terminal."""
    with serve(app) as server:
        admin = ("--admin", f"{server.host}:{server.port}")
        assert run("healthcheck", *admin).returncode == 0
        unready = run("healthcheck", "--ready", *admin)
        wrong = run("reload", *admin)
        right = run("reload", *admin, variables={"BATCHPROXY_TOKEN": "right"})
    assert (unready.returncode, unready.stderr) == (1, b"batchproxy: 503: draining\\x1b[2J\n")
    assert (wrong.returncode, b"\x1b" in wrong.stderr, b"a.yaml:1:2: error: no\n" in wrong.stderr) == (78, False, True)
    assert (right.returncode, right.stdout) == (0, b"abc\n")
    assert run("reload", *admin).returncode == 1


def test_serve_starts_from_a_file_and_ends_orderly(tmp_path: Path) -> None:
    """The verb and its flags start the whole process, which answers batches and ends without an error."""
    with batchproxy(CONFIG, tmp_path) as server:
        assert run("send", "-", "--url", f"{server.url}/batch", stdin=b'[{"path": "/other"}]').returncode == 4
    assert run("serve", "--upstream", "nowhere").returncode == 78


def test_version() -> None:
    """`version`, `--version` and `version --verbose` begin with the same line."""
    plain, flag, verbose = run("version"), run("--version"), run("version", "--verbose")
    assert plain.stdout == flag.stdout
    assert verbose.stdout.startswith(plain.stdout)
    assert b"\nuvicorn " in verbose.stdout
