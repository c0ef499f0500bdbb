"""The command line as users start it: exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from batchproxy import BatchMiddleware
from batchproxy.server.cli import app as command_line
from batchproxy.server.commands.batch_file import check_url
from tests.programs import ROOT, batchproxy
from tests.serving import PATIENCE, serve

CONFIG = """\
upstreams:
  api: {url: "http://127.0.0.1:9"}
routes:
  - {path: /users, upstream: api, strip_prefix: true, add_prefix: /v1, methods: [GET], max_per_batch: 3}
"""
VERBS = ("serve", "check", "routes", "send", "schema", "init", "reload", "healthcheck", "version")


def run(
    *arguments: str,
    stdin: bytes = b"",
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
    as_anybody: bool = False,
    unread: str = "",
) -> subprocess.CompletedProcess[bytes]:
    """To the end. `as_anybody`: without the privilege to read every file; `unread`: a stream whose reader has left."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHPROXY_", "NO_COLOR"))}
    left, broken = os.pipe()
    os.close(left)
    try:
        return subprocess.run(
            [*(unprivileged() if as_anybody else ()), sys.executable, "-m", "batchproxy", *arguments],
            input=stdin,
            timeout=PATIENCE,
            cwd=folder,
            env={**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **(variables or {})},
            check=False,
            stdout=broken if unread == "stdout" else subprocess.PIPE,
            stderr=broken if unread == "stderr" else subprocess.PIPE,
        )
    finally:
        os.close(broken)


def run_here(
    *arguments: str, stdin: bytes = b"", folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """As `run`, in this process: to start one takes longer than what most verbs do. For what is not about streams,
    signals and how a process ends."""
    kept = {name: None for name in os.environ if name.startswith(("BATCHPROXY_", "NO_COLOR"))}
    runner = CliRunner(env={**kept, **(variables or {})})
    with chdir(folder or Path.cwd()):
        ended = runner.invoke(command_line, arguments, stdin, prog_name="batchproxy", catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout_bytes, ended.stderr_bytes)


def unprivileged() -> list[str]:
    """What takes the privilege off a command that only root has."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


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
        status, body = 200, b'{"digest": "abc", "changed": false, "warnings": ["server.log\\u001b has changed"]}'
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


# Help and usage


def test_help_names_verbs_and_exit_codes() -> None:
    """`-h` lists every verb and every exit code, on stdout."""
    done = run("-h")
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert all(f"\n    {code} " in text for code in (0, 1, 2, 4, 5, 78, 130))


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_examples(verb: str) -> None:
    """The help of each verb shows how it is used."""
    assert f"Examples:\n    batchproxy {verb}" in run_here(verb, "-h").stdout.decode().replace(
        "echo", "batchproxy send"
    )


@pytest.mark.parametrize("verb", ["serve", "routes", "send", "reload", "healthcheck"])
def test_help_says_that_no_file_is_taken_unasked(verb: str) -> None:
    """Wherever one can be given."""
    text = " ".join(run_here(verb, "-h", variables={"COLUMNS": "100"}).stdout.decode().split())
    assert "None is taken unasked" in text


@pytest.mark.parametrize(
    "arguments", [("serve",), ("nonsense",), ("check", "--format", "xml"), ("send", "missing.json")]
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Wrong usage ends with 2, says why on stderr, and a file in the folder is never taken unasked."""
    (tmp_path / "batchproxy.yaml").write_text(CONFIG, "utf-8")
    done = run_here(*arguments, folder=tmp_path)
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


def test_where_an_upstream_was_named() -> None:
    """The flag, or the variable that stands for it; in errors as well."""
    url = "http://127.0.0.1:9"
    by_flag = run_here("check", "--print", "--upstream", url, variables={"BATCHPROXY_UPSTREAM": "http://other:9"})
    assert f"url: {url}  # flag --upstream\n".encode() in by_flag.stdout
    by_variable = run_here("check", "--print", variables={"BATCHPROXY_UPSTREAM": url})
    assert f"url: {url}  # environment BATCHPROXY_UPSTREAM\n".encode() in by_variable.stdout
    several = run_here("check", "--print", variables={"BATCHPROXY_UPSTREAM": f"a={url} b=http://127.0.0.1:8"})
    assert several.stdout.count(b"# environment BATCHPROXY_UPSTREAM\n") == 6
    wrong = run_here("check", variables={"BATCHPROXY_UPSTREAM": "ftp://x"})
    assert wrong.stderr.startswith(b"environment BATCHPROXY_UPSTREAM: error: ")


def test_check(file: Path, tmp_path: Path) -> None:
    """A right file is 0, a wrong one 78 with its place; JSON goes to stdout; an unreachable address is 1."""
    right = run("check", "-c", str(file), "--print")
    assert (right.returncode, right.stderr) == (0, b"ok: 1 upstream, 1 route, 1 endpoint\n")
    assert b"http://127.0.0.1:9" in right.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("upstream: {}\n", "utf-8")
    done = run("check", "-c", str(wrong))
    assert (done.returncode, done.stdout) == (78, b"")
    assert b"wrong.yaml:1:1: error:" in done.stderr
    assert json.loads(run_here("check", "-c", str(wrong), "--format", "json").stdout)[0]["line"] == 1
    unreachable = run("check", "-c", str(file), "--connect")
    assert (unreachable.returncode, b"api: http://127.0.0.1:9: failed" in unreachable.stderr) == (1, True)


@pytest.mark.parametrize("options", [(), ("--minimal",)])
def test_the_starter_file_is_right(options: tuple[str, ...], tmp_path: Path) -> None:
    """What `init` writes passes `check`, and is not written over."""
    assert run_here("init", *options, folder=tmp_path).returncode == 0
    assert run_here("check", "-c", "batchproxy.yaml", folder=tmp_path).returncode == 0
    assert run_here("init", *options, folder=tmp_path).returncode == 1


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
    done = run_here("routes", "-c", str(file), "--match", method, path)
    assert (done.returncode, done.stderr) == (code, b"")
    assert told in done.stdout.decode()


REFUSING = """\
upstreams: {api: {url: "http://127.0.0.1:9"}}
endpoints: [{allow: [GET /a/**, GET /b], deny: ["/a/x", "GET /a/*"]}]
"""


@pytest.mark.parametrize(
    ("path", "because"),
    [
        ("/a/x/", ["`deny` holds /a/x", "`deny` holds GET /a/*"]),
        ("/a/y;v=1", ["`deny` holds GET /a/*"]),
        ("/c", ["nothing in `allow` fits"]),
    ],
)
def test_routes_match_says_which_rules_of_the_endpoint(path: str, because: list[str], tmp_path: Path) -> None:
    """As of those of a route."""
    config = tmp_path / "rules.yaml"
    config.write_text(REFUSING, "utf-8")
    done = run_here("routes", "-c", str(config), "--match", "GET", path)
    refused, *reasons = done.stdout.decode().splitlines()
    assert (done.returncode, refused.startswith("refused: 403 forbidden by the endpoint /batch: ")) == (1, True)
    assert reasons == [f"because: {each}" for each in because]


def test_routes_match_takes_no_host_among_headers(file: Path) -> None:
    """It has an option of its own, which is named."""
    done = run_here("routes", "-c", str(file), "--match", "GET", "/users/7", "-H", "Host: api.example")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"batchproxy: --header Host: api.example: expected --host api.example in its place\n"


RULED = """\
upstreams: {api: {url: "http://127.0.0.1:9", max_in_flight: 7, timeouts: {total: 90s}}}
routes:
  - {path: /keyed, upstream: api, require_headers: [X-Key, Host]}
  - path: /ruled
    upstream: api
    deny: [DELETE /ruled/*, /ruled/y]
    allow: [/ruled/z]
    serial: true
    timeout: 1500ms
    max_request_bytes: 1MiB
"""


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/keyed/x", ["by the route * /keyed: A header", "because: `require_headers` holds X-Key\n"]),
        ("DELETE", "/ruled/y/", ["because: `deny` holds DELETE /ruled/*\nbecause: `deny` holds /ruled/y\n"]),
        ("GET", "/ruled/x", ["by the route * /ruled: The rules", "because: nothing in `allow` fits\n"]),
        (
            "GET",
            "/ruled/z",
            [
                "upstream: api, connect 2s, first_byte 10s, idle 1m, total 90s, max_in_flight 7\n",
                "serial: true\ntimeout: 1.5s\nmax_request_bytes: 1MiB\n",
            ],
        ),
    ],
)
def test_routes_match_says_what_clients_are_not_told(method: str, path: str, told: list[str], tmp_path: Path) -> None:
    """Which route it is, which rule or header, and what the upstream bounds."""
    config = tmp_path / "rules.yaml"
    config.write_text(RULED, "utf-8")
    done = run_here("routes", "-c", str(config), "--match", method, path)
    assert (done.returncode, done.stderr) == (0 if path == "/ruled/z" else 1, b"")
    for each in told:
        assert each in done.stdout.decode()


@pytest.mark.parametrize("kind", ["config", "batch"])
def test_schema_is_json(kind: str) -> None:
    """Both schemas are JSON on stdout."""
    assert isinstance(json.loads(run_here("schema", "--kind", kind).stdout), dict)


# Sending


def test_send() -> None:
    """0 when all succeeded, 4 when an item failed or the batch was refused; the table is on stdout, without colours."""
    with serve(BatchMiddleware(app)) as server:
        target = ("--url", f"{server.url}/batch")
        fine = run("send", "-", *target, stdin=b'[{"path": "/a"}]', variables={"FORCE_COLOR": "1"})
        failed = run("send", "-", *target, "--stream", stdin=b'{"requests": [{"path": "/a"}, {"path": "/fails"}]}')
        whole = run_here("send", "-", *target, "--json", stdin=b'[{"path": "/a"}]')
        refused = run_here("send", "-", *target, stdin=b'[{"path": "/a", "\\u001b[2J": 1}]')
    assert (fine.returncode, fine.stderr) == (0, b"1 item, 1 succeeded, 0 failed\n")
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
    done = run_here("send", "-", "--url", server.url, stdin=b"[]")
    assert (done.returncode, done.stdout) == (5, b"")


def test_send_as_curl_is_quoted() -> None:
    """`--curl` prints a command that a shell reads as the same words, and sends nothing."""
    body = b"""[{"path": "/it's $HOME"}]"""
    done = run_here("send", "-", "--curl", "-H", "X-A: b", stdin=body)
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
        assert run_here("healthcheck", *admin).returncode == 0
        unready = run_here("healthcheck", "--ready", *admin)
        wrong = run("reload", *admin)
        right = run_here("reload", *admin, variables={"BATCHPROXY_TOKEN": "right"})
    assert (unready.returncode, unready.stderr) == (1, b"batchproxy: 503: draining\\x1b[2J\n")
    assert (wrong.returncode, b"\x1b" in wrong.stderr, b"a.yaml:1:2: error: no\n" in wrong.stderr) == (78, False, True)
    assert (right.returncode, right.stdout) == (0, b"abc\n")
    assert right.stderr == b"already in effect\nserver.log\\x1b has changed\n"
    assert run_here("reload", *admin).returncode == 1


def test_a_file_says_where_to_ask(tmp_path: Path) -> None:
    """Listeners and the admin token out of the config file; an address that is named goes before them."""
    file = tmp_path / "api.yaml"
    upstream = "upstreams: {api: {url: 'http://127.0.0.1:9'}}\n"
    with serve(app) as server:
        address = f"{server.host}:{server.port}"
        file.write_text(f"{upstream}server: {{admin: '{address}', admin_token: right}}\n")
        assert CliRunner().invoke(command_line, ["healthcheck", "-c", str(file)]).exit_code == 0
        reloaded = CliRunner().invoke(command_line, ["reload", "--config", str(file)])
        assert (reloaded.exit_code, reloaded.stdout) == (0, "abc\n")
        for admin in ("off", "127.0.0.1:0"):
            file.write_text(f"{upstream}server: {{admin: '{admin}', admin_token: right}}\n")
            nowhere = CliRunner().invoke(command_line, ["healthcheck", "-c", str(file)])
            assert (nowhere.exit_code, "does not say where its admin listener is" in nowhere.stderr) == (2, True)
        named = CliRunner().invoke(command_line, ["reload", "-c", str(file), "--admin", address])
        assert (named.exit_code, named.stdout) == (0, "abc\n")
    batch = tmp_path / "batch.json"
    batch.write_text('[{"path": "/a"}]')
    with serve(BatchMiddleware(app, path="/all")) as server:
        file.write_text(
            f"{upstream}server: {{listen: '{server.host}:{server.port}'}}\nendpoints: [{{path: /all}}]\n",
        )
        sent = CliRunner().invoke(command_line, ["send", str(batch), "-c", str(file), "--json"])
        assert (sent.exit_code, json.loads(sent.stdout)["summary"]["succeeded"]) == (0, 1)


def test_serve_starts_from_a_file_and_ends_orderly(tmp_path: Path) -> None:
    """The verb and its flags start the whole process, which answers batches and ends without an error."""
    with batchproxy(CONFIG, tmp_path) as server:
        assert run("send", "-", "--url", f"{server.url}/batch", stdin=b'[{"path": "/other"}]').returncode == 4
    assert run("serve", "--upstream", "nowhere").returncode == 78


def test_version() -> None:
    """`version`, `--version` and `version --verbose` begin with the same line."""
    plain, flag, verbose = run("version"), run_here("--version"), run_here("version", "--verbose")
    assert plain.stdout == flag.stdout
    assert verbose.stdout.startswith(plain.stdout)
    assert b"\nuvicorn " in verbose.stdout


# What new users get wrong


@pytest.mark.parametrize("words", [("/users/7",), ("GET", "-H", "a:b"), ("/users/7", "GET"), ("users/7", "/users/7")])
def test_routes_without_a_method_says_what_was_expected(words: tuple[str, ...], file: Path) -> None:
    """A method alone, a path alone or both in the wrong order: 2, with an example that works; no flag is swallowed."""
    done = run_here("routes", "--match", *words, "-c", str(file))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"expected a method and a path, such as --match GET /users/7\n" in done.stderr


@pytest.mark.parametrize(
    ("url", "example"),
    [
        ("localhost:8080/batch", "http://localhost:8080/batch"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080/batch"),
        ("[::1]:8080/batch", "http://[::1]:8080/batch"),
        ("ftp://localhost/batch", "http://127.0.0.1:8080/batch"),
        ("http://", "http://127.0.0.1:8080/batch"),
        ("http://h:99999/", "http://127.0.0.1:8080/batch"),
        ("http://h/a b", "http://127.0.0.1:8080/batch"),
        ("http://h/\x1b[2J", "http://127.0.0.1:8080/batch"),
        ("http://[h/", "http://127.0.0.1:8080/batch"),
        ("", "http://127.0.0.1:8080/batch"),
    ],
)
def test_what_is_expected_of_a_url(url: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was given, and one that would do, made of it if it only lacks a scheme."""
    with pytest.raises(typer.Exit) as ended:
        check_url(url)
    told = capsys.readouterr()
    assert (ended.value.exit_code, told.out) == (2, "")
    assert told.err.endswith(f": expected http:// or https://, a host and a path, such as {example}\n")
    assert "\x1b" not in told.err


def test_a_url_without_a_scheme_is_wrong_usage() -> None:
    """2, before anything is read or sent; not a failure to get an answer."""
    for options in ((), ("--curl",)):
        done = run_here("send", "missing.json", "--url", "localhost:8080/batch", *options)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"batchproxy: --url localhost:8080/batch: expected http://")


@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("/page", (), "200 OK (text/html){}: <p> \\x1b[2J </p>"),
        ("/page", ("--stream",), "200 OK (text/html){}: <p> \\x1b[2J </p>"),
        ("/page", ("--json",), "200 OK (text/html){}: <p> \\x1b[2J </p>"),
        ("/records", ("--stream", "--json"), '200 OK (application/x-ndjson){}: {{"a": 1}}'),
        ("/nothing", ("--stream",), "200 OK (application/x-ndjson){}"),
        ("/missing", (), '404 Not Found (application/json){}: {{"detail": 1}}'),
        ("/missing", ("--json",), '404 Not Found (application/json){}: {{"detail": 1}}'),
        ("/moved", (), "308 Permanent Redirect to https://…@h/batch (of no type){}"),
    ],
)
def test_an_address_that_answers_no_batches(path: str, options: tuple[str, ...], told: str, elsewhere: str) -> None:
    """5, with who answered what; a password in the URL is not repeated, and a terminal obeys nothing."""
    url = elsewhere.replace("//", "//user:password@") + path
    done = run_here("send", "-", "--url", url, *options, stdin=b'[{"path": "/a"}]')
    assert (done.returncode, done.stdout) == (5, b"")
    answered = told.format(", which is not the answer to a batch")
    assert done.stderr.decode() == f"batchproxy: {elsewhere.replace('//', '//…@')}{path}: answered {answered}\n"


def test_a_stream_that_breaks_off(elsewhere: str) -> None:
    """What came is printed; 5, and that the rest is missing."""
    done = run_here("send", "-", "--url", f"{elsewhere}/broken", "--stream", stdin=b'[{"path": "/a"}, {"path": "/b"}]')
    assert (done.returncode, done.stdout.split()[:3]) == (5, [b"0", b"GET", b"/a"])
    assert (
        done.stderr == f"batchproxy: {elsewhere}/broken: the answer broke off: it ended before its summary\n".encode()
    )


async def foreign(scope: Any, receive: Any, send: Any) -> None:
    """Knows nothing of batches."""
    ndjson = b"application/x-ndjson"
    status, kind, body = {
        "/page": (200, b"text/html; charset=utf-8", b"<p>\n \x1b[2J </p>"),
        "/records": (200, ndjson, b'{"a": 1}\n{"a": 2}\n'),
        "/nothing": (200, ndjson, b""),
        "/broken": (200, ndjson, b'{"index": 0, "status": 200}\n'),
        "/moved": (308, b"", b""),
    }.get(scope["path"], (404, b"application/json", b'{"detail": 1}'))
    headers = [(b"content-type", kind)] if kind else [(b"location", b"https://secret@h/batch")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    with serve(foreign, lifespan="off") as server:
        yield server.url


# Files and pipes


@pytest.fixture(params=["missing", "directory", "unreadable", "empty", "binary"])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A kind of wrong file, and one of that kind."""
    path = tmp_path / "given"
    if request.param == "directory":
        path.mkdir()
    elif request.param != "missing":
        path.write_bytes({"empty": b"", "binary": b"\xff\xfe\x00\x01"}.get(request.param, b"{}"))
    if request.param == "unreadable":
        path.chmod(0)
    return request.param, path


TOLD = {
    "missing": "cannot be read: No such file or directory",
    "directory": "cannot be read: Is a directory",
    "unreadable": "cannot be read: Permission denied",
}


def test_bad_config_files(bad_file: tuple[str, Path]) -> None:
    """For each verb that reads one: 78, and one line that names the file and says what it is."""
    kind, path = bad_file
    told = TOLD | {"empty": ":1:1: error: there is no upstream", "binary": ":1:1: error: this is not text in UTF-8"}
    for verb in ("check", "serve", "routes") if kind in ("directory", "unreadable") else ("check",):
        done = run(verb, "-c", str(path), as_anybody=True) if kind == "unreadable" else run_here(verb, "-c", str(path))
        assert (done.returncode, done.stdout) == (78, b"")
        assert done.stderr.decode().startswith(str(path))
        assert told[kind] in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_bad_batch_files(bad_file: tuple[str, Path]) -> None:
    """2, and one line that names the file and says what it is; likewise from stdin."""
    kind, path = bad_file
    told = TOLD | {
        "empty": "is empty: expected a batch, or a list of items, in JSON",
        "binary": "is not text in UTF-8: expected a batch, or a list of items, in JSON",
    }
    done = run("send", str(path), as_anybody=True) if kind == "unreadable" else run_here("send", str(path))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == f"batchproxy: {path} {told[kind]}\n"
    if kind in ("empty", "binary"):
        assert run_here("send", "-", stdin=path.read_bytes()).stderr.decode() == f"batchproxy: stdin {told[kind]}\n"


def test_a_batch_as_windows_writes_it() -> None:
    """A byte order mark before a list of items is no part of the batch."""
    done = run_here("send", "-", "--curl", stdin=b'\xef\xbb\xbf[{"path": "/a"}]\r\n')
    assert (done.returncode, b"\xef\xbb\xbf" in done.stdout) == (0, False)
    assert b'{"requests": [{"path": "/a"}]}' in done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "is a directory; expected the name of a file in it"),
        ("a/b.yaml", "cannot be written: No such file or directory"),
        ("there.yaml", "is there already; --force writes over it"),
        ("there.yaml/b", "cannot be written: Not a directory"),
    ],
)
def test_init_where_nothing_can_be_written(name: str, told: str, tmp_path: Path) -> None:
    """1, with what is in the way, which stays as it is."""
    (tmp_path / "there.yaml").write_text("mine", "utf-8")
    done = run_here("init", str(tmp_path / name))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == f"batchproxy: {tmp_path / name} {told}\n"
    assert (tmp_path / "there.yaml").read_text("utf-8") == "mine"


def test_a_pipe_that_nobody_reads(file: Path, tmp_path: Path) -> None:
    """`batchproxy schema | head -1`: every verb that prints ends quietly; so it does where talk is not heard."""
    (tmp_path / "wrong.yaml").write_text("upstream: {}", "utf-8")
    commands: list[tuple[str, ...]] = [
        ("schema",), ("schema", "--kind", "batch"), ("init", "-"), ("version", "--verbose"), ("--help",),
        ("routes", "-c", str(file)), ("routes", "-c", str(file), "--match", "GET", "/users/7"),
        ("check", "-c", str(file), "--print"), ("check", "-c", "wrong.yaml", "--format", "json"),
        ("send", "-", "--curl"),
    ]  # fmt: skip
    with serve(BatchMiddleware(app)) as server, ThreadPoolExecutor(2) as pool:
        url = ("--url", f"{server.url}/batch")
        commands += [("send", "-", *url), ("send", "-", *url, "--stream"), ("send", "-", *url, "--json")]
        items = json.dumps([{"path": "/a"}] * 50).encode()
        runs = [pool.submit(run, *words, stdin=items, folder=tmp_path, unread="stdout") for words in commands]
        for words, done in zip(commands, [each.result() for each in runs], strict=True):
            assert (words, done.returncode, done.stderr) == (words, 1, b"")
        for words in (("check", "-c", "wrong.yaml"), ("check", "-c", str(file)), ("nonsense",), ("send", "missing")):
            assert run(*words, folder=tmp_path, unread="stderr").stdout == b""
