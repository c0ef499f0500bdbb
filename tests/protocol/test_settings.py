"""Section 5: a wrong setting stops the start of the app, with a real uvicorn, in both forms of use."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from batchproxy import Batch, BatchMiddleware, Endpoint, InFlight
from tests.serving import StartupFailed, ask, serve

from .exchange import App, Receive, Scope, Send

Build = Callable[[Mapping[str, Any]], App]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that starts, and stops when it is told to."""
    while scope["type"] == "lifespan":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def constructed(settings: Mapping[str, Any]) -> App:
    return BatchMiddleware(bare, **settings)


def constructed_around_starlette(settings: Mapping[str, Any]) -> App:
    return BatchMiddleware(Starlette(), **settings)


def added_to_starlette(settings: Mapping[str, Any]) -> App:
    app = Starlette()
    app.add_middleware(BatchMiddleware, **settings)
    return app


def added_to_fastapi(settings: Mapping[str, Any]) -> App:
    app = FastAPI()
    app.add_middleware(BatchMiddleware, **settings)
    return app


FORMS = [constructed, constructed_around_starlette, added_to_starlette, added_to_fastapi]


async def ordinary_guard(batch: Batch) -> Batch:
    return batch


def guard_that_is_not_async(batch: Batch) -> Batch:
    return batch


INTEGERS = [
    "max_items",
    "max_batch_bytes",
    "max_item_bytes",
    "max_response_bytes",
    "max_total_response_bytes",
    "max_path_bytes",
    "max_headers",
    "max_header_bytes",
    "max_depth",
    "max_vars",
    "max_var_bytes",
    "max_dependency_depth",
    "concurrency",
]
SECONDS = ["item_timeout", "batch_timeout", "read_timeout", "read_total_timeout", "write_timeout"]

# setting, wrong value, a word of what was expected
WRONG: list[tuple[str, Any, str]] = [
    *[(name, wrong, "integer") for name in INTEGERS for wrong in (-1, "10", 1.5, True, None)],
    *[(name, 0, "integer") for name in INTEGERS if name not in ("max_headers", "max_header_bytes", "max_vars")],
    *[(name, wrong, "seconds") for name in SECONDS for wrong in (0, -1, "5", True, None)],
    *[(name, wrong, "seconds") for name in SECONDS for wrong in (float("nan"), float("inf"))],
    *[("path", wrong, "/batch") for wrong in ("batch", "", "/", "//b", "/b/", "/a/../b", "/b?x=1", "/b#x", 7, None)],
    *[("base_path", wrong, "/api") for wrong in ("api", "/api/", "/", "//api", "/a/../b", "/a?x", 7, None)],
    *[("in_flight", wrong, "InFlight") for wrong in (256, "256", (256, 1024))],
    *[("methods", wrong, "GET") for wrong in (["get"], ["TRACE"], ["GET", "BREW"])],
    ("methods", [], "at least one"),
    *[("methods", wrong, "list") for wrong in ("GET", 7, [7], None)],
    *[(name, wrong, "path") for name in ("allow", "deny") for wrong in (["items"], ["GETx /a"], ["get /a"])],
    *[(name, ["/a/**/b"], "only at the end") for name in ("allow", "deny")],
    *[(name, wrong, "list") for name in ("allow", "deny") for wrong in ("/a", 7, [7])],
    ("max_per_batch", {"POST login": 1}, "path"),
    ("max_per_batch", {"/login": -1}, "integer"),
    ("max_per_batch", {"/login": "1"}, "integer"),
    ("max_per_batch", {"/login": True}, "integer"),
    ("max_per_batch", ["/login"], "mapping"),
    *[("protected_headers", wrong, "headers") for wrong in (["X User"], [""], ["X:"])],
    *[("protected_headers", wrong, "list") for wrong in ("X-User", 7, [7])],
    *[("allow_empty_segments", wrong, "True or False") for wrong in ("yes", 1, None)],
    *[("describe", wrong, "True or False") for wrong in ("no", 0, None)],
    *[("trusted_origins", [origin], "https://") for origin in ("*", "app.example", "https://", "null", "ftp://a")],
    *[("trusted_origins", [f"https://{host}"], "https://") for host in ("a.example/", "a.example/x", "*.a.example")],
    *[("trusted_origins", wrong, "list") for wrong in ("*", "https://a.example", 7)],
    *[("execution", wrong, "sequential") for wrong in ("fast", "PARALLEL", 1, None)],
    *[("guards", wrong, "async") for wrong in (ordinary_guard, 7, [7], [guard_that_is_not_async], "guard")],
    ("max_itmes", 5, "max_items"),
    ("maxItems", 5, "max_items"),
    ("backoff", 5, "known"),
    ("endpoints", [], "Endpoint"),
    ("endpoints", ["/batch"], "Endpoint"),
    ("endpoints", "/batch", "Endpoint"),
    ("endpoints", {"/batch": {}}, "Endpoint"),
    ("endpoints", [Endpoint(path="/a"), Endpoint(path="/a")], "different"),
]  # fmt: skip


def failure_of(build: Build, settings: Mapping[str, Any]) -> str:
    """What a real uvicorn says when it does not start."""
    with pytest.raises(StartupFailed) as caught, serve(build(settings)):
        pass
    return str(caught.value)


@pytest.mark.parametrize(("setting", "value", "expected"), WRONG)
def test_a_wrong_setting_stops_the_start(setting: str, value: object, expected: str) -> None:
    """A wrong setting stops the start with an error that names the setting, the value and what was expected."""
    message = failure_of(constructed, {setting: value})
    assert re.search(rf"\b{setting}\b", message)
    shown = value[1].path if setting == "endpoints" and isinstance(value, list) and len(value) == 2 else value
    if setting == "guards" and isinstance(value, list):
        shown = value[0]
    if setting == "endpoints" and value == ["/batch"]:
        shown = "/batch"
    assert repr(shown) in message
    assert expected in message
    assert "Traceback" not in message


SOME_WRONG = [
    ("max_items", 0, "integer"),
    ("item_timeout", "5", "seconds"),
    ("path", "batch", "/batch"),
    ("in_flight", 256, "InFlight"),
    ("trusted_origins", ["*"], "https://"),
    ("deny", ["admin"], "path"),
    ("max_itmes", 5, "max_items"),
    ("guards", [7], "async"),
]


@pytest.mark.parametrize("build", FORMS)
@pytest.mark.parametrize(("setting", "value", "expected"), SOME_WRONG)
def test_a_wrong_setting_stops_the_start_in_every_form(
    build: Build, setting: str, value: object, expected: str
) -> None:
    """A wrong setting stops the start with a real uvicorn in both forms: the constructor's and `add_middleware`'s."""
    message = failure_of(build, {setting: value})
    assert re.search(rf"\b{setting}\b", message)
    assert repr(value) in message or repr(value).strip("[]") in message
    assert expected in message


@pytest.mark.parametrize(
    "form", ["BatchMiddleware(app, max_items=0)", "app.add_middleware(BatchMiddleware, max_items=0)"]
)
def test_the_process_ends_with_an_error(form: str) -> None:
    """A wrong setting stops the start: uvicorn's own process ends with an error and says why."""
    code = f"""
import uvicorn
from starlette.applications import Starlette
from batchproxy import BatchMiddleware
app = Starlette()
wrapped = {form}
uvicorn.run(wrapped or app, port=0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "max_items=0" in ended.stderr
    assert "expected an integer" in ended.stderr
    assert "Traceback" not in ended.stderr


@asynccontextmanager
async def lifespan(app: object) -> Any:
    raise AssertionError("the app began to start")
    yield


@pytest.mark.parametrize("build", [lambda settings: BatchMiddleware(Starlette(lifespan=lifespan), **settings)])
def test_the_app_does_not_begin_to_start(build: Build) -> None:
    """A wrong setting is reported before the wrapped app has opened anything."""
    assert "the app began" not in failure_of(build, {"max_items": 0})


GOOD: dict[str, Any] = {
    "path": "/api/batch",
    "base_path": "/api",
    "max_items": 1,
    "max_headers": 0,
    "max_vars": 0,
    "in_flight": InFlight(1, queue=0),
    "item_timeout": 0.5,
    "batch_timeout": 1,
    "methods": {"GET"},
    "allow": ("/api/**",),
    "deny": ["DELETE /api/*", "/api/caf\u00e9"],
    "max_per_batch": {"POST /login": 0},
    "protected_headers": frozenset({"X-User"}),
    "allow_empty_segments": True,
    "trusted_origins": ["https://app.example", "http://localhost:3000"],
    "execution": "ordered_writes",
    "describe": False,
    "guards": [ordinary_guard],
}


@pytest.mark.parametrize("build", [constructed, added_to_fastapi])
def test_good_settings_start(build: Build) -> None:
    """Every setting has values with which the app starts."""
    with serve(build(GOOD)) as server:
        assert server.port > 0


@pytest.mark.parametrize("name", [*GOOD, "endpoints"])
def test_every_setting_of_the_page_exists(name: str) -> None:
    """The settings have the names of the page, as keyword arguments and of an `Endpoint`."""
    if name == "endpoints":
        BatchMiddleware(bare, endpoints=[Endpoint(**GOOD)])
    else:
        assert getattr(Endpoint(**{name: GOOD[name]}), name) == GOOD[name]


@pytest.mark.parametrize(("limit", "queue"), [(0, 1), (-1, 1), ("1", 1), (1, -1), (1, "1"), (True, 1), (1.5, 1)])
def test_a_wrong_in_flight_is_refused(limit: Any, queue: Any) -> None:
    """An `InFlight` with wrong numbers names the number and what was expected, where it is made."""
    with pytest.raises(ValueError, match=r"in_flight\.(limit|queue)=.*expected an integer"):
        InFlight(limit, queue=queue)


def test_a_wrong_endpoint_is_refused() -> None:
    """An `Endpoint` with a wrong setting names it where it is made."""
    with pytest.raises(ValueError, match=r"max_items=0: expected an integer"):
        Endpoint(max_items=0)


def test_a_server_without_lifespan_answers_no_request() -> None:
    """Where no server asks whether the app has started, no request is answered as if all were well."""
    with serve(constructed({"max_items": 0}), lifespan="off") as server:
        assert ask(server, "GET", "/").status == 500
