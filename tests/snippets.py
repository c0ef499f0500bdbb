"""Runs the snippets of a Markdown document, one after another: python -m tests.snippets README.md

A fenced block says in its first line what it is, and the block behind it may show what comes of it:

    python name=shop    a module; requests that follow go to its `app`, or `application`
    python wsgi name=x  a WSGI application, which the proxies that follow find at `127.0.0.1:9000`
    yaml config         a config file, `batchproxy.yaml` or `file=…`; it is right
    python of=shop      more of that module
    python              runs by itself
    sh                  commands; `curl` is run, others are checked
    json request        a batch, posted to `/batch`, or to another path: `to=/other`
    http request        any request
    text output         what the block before printed
    json output         the same, compared as JSON
    text startup        why the app before does not start
    json response       the body of the answer, with status 200, to the request before
    http response       the whole answer, but for headers that are not shown
    text drawing        nothing

`localhost:8000` stands for the server, `localhost:8080` for the proxy that `batchproxy serve` starts. In what is shown,
`…` stands for any text, and a member `…` for further ones.
Records of a stream may come in another order than is shown, but for the last.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from uvicorn.main import main as uvicorn_command

from batchproxy.server.config import load
from tests.documents import ROOT, Block, blocks
from tests.serving import PATIENCE, App, Response, Server, StartupFailed, ask, serve

PLACE = "localhost:8000"
PROXY = "localhost:8080"
UPSTREAM = "127.0.0.1:9000"
ANYTHING = "…"


class Walk:
    """One document, from its first snippet to its last."""

    def __init__(self) -> None:
        self._app: App | None = None
        self._running = ExitStack()
        self._server: Server | None = None
        self._output: str | None = None
        self._answer: Response | None = None
        self._upstream: str | None = None
        self._proxy: str | None = None
        self._folder = Path(tempfile.mkdtemp())
        self._for_good = ExitStack()
        self._for_good.callback(shutil.rmtree, self._folder)

    def step(self, block: Block) -> None:
        STEPS[block.kind](self, block)

    def end(self) -> None:
        self._running.close()
        self._server = None
        self._proxy = None

    def close(self) -> None:
        self._for_good.close()

    # Blocks that do something

    def python(self, block: Block) -> None:
        name = block.options.get("name") or block.options.get("of")
        module = _module(name, new="name" in block.options)
        text = block.text.replace(PLACE, self._address()) if PLACE in block.text else block.text
        printed = io.StringIO()
        with redirect_stdout(printed):
            # Empty lines before it, so that an error names the line of the document.
            code = compile("\n" * block.line + text, f"<{name or 'snippet'}>", "exec", dont_inherit=True)
            exec(code, module.__dict__)
        self._output = printed.getvalue().replace(self._address(), PLACE) if self._server else printed.getvalue()
        if name is not None:
            self.end()
            self._app = getattr(module, "app", None) or getattr(module, "application", None)

    def wsgi(self, block: Block) -> None:
        module = _module(block.options["name"], new=True)
        exec(compile(block.text, f"<{block.options['name']}>", "exec", dont_inherit=True), module.__dict__)
        server = make_server("127.0.0.1", 0, module.application, handler_class=_Quiet)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._for_good.callback(server.server_close)
        self._for_good.callback(server.shutdown)
        self._upstream = f"127.0.0.1:{server.server_port}"

    def config(self, block: Block) -> None:
        file = self._folder / block.options.get("file", "batchproxy.yaml")
        file.write_text(block.text.replace(UPSTREAM, self._upstream or UPSTREAM), "utf-8")
        load(file, environment={})

    def shell(self, block: Block) -> None:
        self._output = None
        for command in block.text.replace("\\\n", " ").splitlines():
            COMMANDS[command.split()[0]](self, command)

    def request_json(self, block: Block) -> None:
        headers = [("Content-Type", "application/json")]
        self._ask("POST", block.options.get("to", "/batch"), headers, block.text.encode())

    def request_http(self, block: Block) -> None:
        head, _, body = block.text.partition("\n\n")
        first, *lines = head.splitlines()
        method, target, _ = first.split(" ")
        self._ask(method, target, _headers(lines), body.strip().encode() or None)

    # Blocks that show what came of it

    def output_text(self, block: Block) -> None:
        if self._output is not None:
            _expect_text(block.text, self._output)

    def output_json(self, block: Block) -> None:
        if self._output is not None:
            _expect(json.loads(block.text), json.loads(self._output))

    def startup(self, block: Block) -> None:
        try:
            self._address()
        except StartupFailed as failed:
            _expect_text(block.text, str(failed).partition("\n")[0])
        else:
            raise AssertionError("the app starts")

    def response_json(self, block: Block) -> None:
        _expect(200, self._answered().status)
        _expect(json.loads(block.text), self._answered().json())

    def response_http(self, block: Block) -> None:
        head, _, body = block.text.partition("\n\n")
        first, *lines = head.splitlines()
        answer = self._answered()
        _expect(int(first.split(" ")[1]), answer.status)
        for name, value in _headers(lines):
            _expect_text(value, ", ".join(answer.values(name)))
        _expect(_content(body, answer), _content(answer.body.decode(), answer))

    # The server and the commands

    def curl(self, command: str) -> None:
        if shutil.which("curl") is None:
            print("curl is not here: its commands are not run")
            return
        if PROXY in command:
            assert self._proxy is not None, "no proxy was started"
            command = command.replace(PROXY, self._proxy)
        arguments = shlex.split(command.replace(PLACE, self._address()) if PLACE in command else command)
        self._output = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    def batchproxy(self, command: str) -> None:
        """A proxy that is started goes on until the next one; whatever else is asked is run."""
        _, verb, *arguments = shlex.split(command.replace(UPSTREAM, self._upstream or UPSTREAM))
        line = [sys.executable, "-m", "batchproxy", verb, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if verb != "serve":
            done = subprocess.run(
                line, capture_output=True, text=True, cwd=self._folder, env=environment, timeout=PATIENCE
            )
            self._output = done.stdout or done.stderr
            return
        self.end()
        line += ["--listen", "127.0.0.1:0", "--admin", "off"]
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self._folder, env=environment
        )
        self._running.callback(process.communicate, timeout=PATIENCE)
        self._running.callback(process.terminate)
        assert process.stderr is not None
        said = (re.search(r"running on http://(127\.0\.0\.1:\d+)", line) for line in process.stderr)
        self._proxy = next(found[1] for found in said if found)

    def script(self, command: str) -> None:
        """`python x.py` runs a module of the document."""
        assert command.split()[1].removesuffix(".py") in sys.modules

    def make(self, command: str) -> None:
        """The target is there; it is not made, for that may mean the tests."""
        makefile = (ROOT / "Makefile").read_text()
        for target in (word for word in command.split()[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the Makefile has no target {target}"

    def pip(self, command: str) -> None:
        assert command in ("pip install .", "pip install '.[proxy]'"), f"expected `pip install .`, not `{command}`"
        assert (ROOT / "pyproject.toml").is_file()

    def uvicorn(self, command: str) -> None:
        """uvicorn understands the arguments, and the app is a module of the document."""
        context = uvicorn_command.make_context("uvicorn", shlex.split(command)[1:])
        module, _, attribute = context.params["app"].partition(":")
        assert callable(getattr(sys.modules[module], attribute))

    def _address(self) -> str:
        if self._server is None:
            assert self._app is not None, "no app is there to be served"
            self._server = self._running.enter_context(serve(self._app, lifespan="auto", access_log=False))
        return f"{self._server.host}:{self._server.port}"

    def _ask(self, method: str, target: str, headers: list[tuple[str, str]], body: bytes | None) -> None:
        self._address()
        assert self._server is not None
        self._answer = ask(self._server, method, target, headers, body)

    def _answered(self) -> Response:
        assert self._answer is not None, "no request was made"
        return self._answer


STEPS: Mapping[str, Callable[[Walk, Block], None]] = {
    "python": Walk.python,
    "python wsgi": Walk.wsgi,
    "yaml config": Walk.config,
    "sh": Walk.shell,
    "json request": Walk.request_json,
    "http request": Walk.request_http,
    "text output": Walk.output_text,
    "json output": Walk.output_json,
    "text startup": Walk.startup,
    "json response": Walk.response_json,
    "http response": Walk.response_http,
    "text drawing": lambda walk, block: None,
}
COMMANDS: Mapping[str, Callable[[Walk, str], None]] = {
    "batchproxy": Walk.batchproxy,
    "python": Walk.script,
    "curl": Walk.curl,
    "make": Walk.make,
    "pip": Walk.pip,
    "uvicorn": Walk.uvicorn,
}


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def _module(name: str | None, *, new: bool) -> ModuleType:
    """A module that others can import; one without a name is gone after its block."""
    if name is None:
        return ModuleType("snippet")
    if new:
        sys.modules[name] = ModuleType(name)
    return sys.modules[name]


def _headers(lines: list[str]) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in lines)
    return [(name, value.strip()) for name, _, value in pairs]


# Comparing what is shown with what came


def _content(body: str, answer: Response) -> Any:
    """A body as something to compare: a JSON document, the records of a stream, or text."""
    kind = (answer.header("content-type") or "").partition(";")[0]
    if kind == "application/x-ndjson":
        return _records(body.splitlines())
    if kind == "text/event-stream":
        return _records([data.removeprefix("data: ") for data in body.splitlines() if data.startswith("data: ")])
    if kind.endswith("json") and body.strip():
        return json.loads(body)
    return body.strip()


def _records(lines: list[str]) -> list[Any]:
    *entries, summary = [json.loads(line) for line in lines if line]
    return [*sorted(entries, key=lambda entry: entry["index"]), summary]


def _expect_text(shown: str, actual: str) -> None:
    assert _same_text(shown.strip(), actual.strip()), f"it gives:\n{actual}"


def _expect(shown: Any, actual: Any) -> None:
    place = _difference(shown, actual)
    assert place is None, f"differs at {place or 'the top'}; it gives:\n{json.dumps(actual, indent=1)}"


def _same_text(shown: str, actual: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split(ANYTHING))), actual, re.DOTALL) is not None


def _difference(shown: Any, actual: Any, place: str = "") -> str | None:
    """The JSON Pointer to the first difference."""
    if isinstance(shown, str) and isinstance(actual, str):
        return None if _same_text(shown, actual) else place
    if isinstance(shown, dict) and isinstance(actual, dict):
        return _difference_of_members(shown, actual, place)
    if isinstance(shown, list) and isinstance(actual, list) and len(shown) == len(actual):
        pairs = enumerate(zip(shown, actual, strict=True))
        found = (_difference(one, other, f"{place}/{index}") for index, (one, other) in pairs)
        return next((each for each in found if each is not None), None)
    return None if type(shown) is type(actual) and shown == actual else place


def _difference_of_members(shown: dict[str, Any], actual: dict[str, Any], place: str) -> str | None:
    names = shown.keys() - {ANYTHING}
    if names - actual.keys() or (ANYTHING not in shown and actual.keys() - names):
        return place
    found = (_difference(shown[name], actual[name], f"{place}/{name}") for name in sorted(names))
    return next((each for each in found if each is not None), None)


def run(document: Path) -> None:
    """Raises what the first snippet raises that does not do what is shown."""
    walk = Walk()
    try:
        for block in blocks(document.read_text("utf-8")):
            try:
                walk.step(block)
            except Exception as error:
                error.add_note(f"in the snippet at line {block.line} of {document}")
                raise
    finally:
        walk.end()
        walk.close()


def works(document: Path) -> None:
    """Every snippet does what is shown. Each document has a process of its own, as a reader's would be."""
    command = (sys.executable, "-W", "error", "-m", "tests.snippets", str(document))
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stdout + finished.stderr


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
