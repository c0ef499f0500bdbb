"""Endpoints of a config file with `dialect: openai`: their keys, what is refused, and where."""

from __future__ import annotations

import importlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from batchproxy.engine.errors import SettingError
from batchproxy.engine.in_flight import InFlight
from batchproxy.jobs.openai import OpenAISettings
from batchproxy.server.cli import app
from batchproxy.server.config import shown
from batchproxy.server.generation import Generation
from batchproxy.server.openai_settings import OpenAI
from tests.proxy.on_a_loop import on_a_loop

from .configured import UPSTREAM, errors, loaded

JOBS = "jobs: {anonymous: true}\n"


def config(*endpoints: str, jobs: str = JOBS) -> str:
    return UPSTREAM + jobs + "endpoints:\n" + "".join(f"  - {{{each}}}\n" for each in endpoints)


def test_the_defaults_are_those_of_what_is_set() -> None:
    """A key has the default of the setting; those that are not there say nothing to lines of a file."""
    ours, made = OpenAI(), OpenAISettings()
    names = {each.name for each in fields(ours)} - {"dialect"}
    assert names <= {each.name for each in fields(made)}
    assert {name: getattr(ours, name) for name in names} == {name: getattr(made, name) for name in names}


def test_everything_reaches_what_it_sets(tmp_path: Path) -> None:
    """Beside endpoints that take batches, in any order; also by a variable."""
    text = config(
        "path: /ai/v1, dialect: openai, allow: [/ai/v1/chat/completions], one_model: false, keep: 2d",
        "path: /batch, max_items: 7",
        "dialect: openai, max_items: 9, delivery: at_most_once",
    )
    found = loaded(tmp_path, text, environment={"BATCHPROXY_ENDPOINTS__0__MAX_DEPTH": "17"}).config
    assert [each.path for each in found.batch_endpoints] == ["/batch"]
    first, second = (each.made() for each in found.apis)
    assert (first.path, first.allow, first.one_model, first.keep, first.max_depth) == (
        "/ai/v1",
        ("/ai/v1/chat/completions",),
        False,
        172800,
        17,
    )
    assert (second.path, second.max_items, second.delivery.value) == ("/v1", 9, "at_most_once")


def test_it_may_come_out_of_the_environment(tmp_path: Path) -> None:
    """Whichever of the variables is read first."""
    variables = {"BATCHPROXY_ENDPOINTS__0__ALLOW": "/v1/x", "BATCHPROXY_ENDPOINTS__0__DIALECT": "openai"}
    [api] = loaded(tmp_path, UPSTREAM + JOBS, environment=variables).config.apis
    assert list(api.allow) == ["/v1/x"]


@pytest.mark.parametrize(
    ("given", "at", "told"),
    [
        ("dialect: opnai", "opnai", "openai"),
        ("dialect: openai, one_modle: true", "one_modle", "expected a key of OpenAI, did you mean `one_model`?"),
        ("dialect: openai, guards: []", "guards", "unknown key `guards`, expected a key of OpenAI"),
        ("path: /x, one_model: true", "one_model", "unknown key `one_model`, expected a key of Endpoint"),
        ("dialect: openai, one_model: perhaps", "perhaps", "expected true or false"),
        ("dialect: openai, path: /v1/", "/v1/", "expected a path such as `/v1`"),
        ("dialect: openai, path: /batch", "/batch", "is there twice"),
        ("dialect: openai, allow: [v1]", "v1]", "expected `[METHOD ]/path`"),
        ("dialect: openai, delivery: twice", "twice", "expected one of at_most_once, at_least_once"),
        ("dialect: openai, keep: long", "long", "expected a duration"),
        ("dialect: openai, max_items: 0", "0", "expected an integer of at least 1"),
        (
            "dialect: openai, max_item_bytes: 3MiB, max_batch_bytes: 2MiB",
            "3MiB",
            "expected at most `max_batch_bytes`, which is `2MiB`",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(given: str, at: str, told: str, tmp_path: Path) -> None:
    """Each mistake is one error, with line and column."""
    text = config("path: /batch", given)
    [error] = errors(tmp_path, text)
    assert told in error.message
    assert (error.line, error.column) == (5, len("  - {") + given.index(at) + 1), error.message


def test_it_needs_jobs(tmp_path: Path) -> None:
    """A section that is missing is told at the endpoint; one that is wrong is told by itself."""
    text = config("dialect: openai", jobs="")
    [error] = errors(tmp_path, text)
    assert "`dialect` is `openai`, expected a section `jobs` as well" in error.message
    assert (error.line, error.column) == (3, 15)
    [error] = errors(tmp_path, config("dialect: openai", jobs="jobs: {deadline: no}\n"))
    assert "deadline" in error.source_line


def test_it_takes_no_path_of_a_batch_endpoint(tmp_path: Path) -> None:
    """Nobody would reach that one."""
    [error] = errors(tmp_path, config("path: /v1/batches/native", "dialect: openai, path: /v1"))
    assert "it takes that of the endpoint at" in error.message
    assert (error.line, error.column) == (5, 29)


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be installed is named."""
    for name in [each for each in sys.modules if each.startswith("batchproxy.jobs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(SettingError, match=r"batchproxy\[jobs\] to be installed, for there is no `sqlalchemy`"):
        OpenAI()
    [error] = errors(tmp_path, f"{UPSTREAM}jobs: {{}}\n")
    assert "batchproxy[jobs] to be installed" in error.message
    assert (error.line, error.column) == (2, 1)
    with pytest.raises(ModuleNotFoundError, match=r"sqlalchemy.*pip install 'batchproxy\[jobs\]'"):
        importlib.import_module("batchproxy.jobs.resources")


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    """`check --print` has every key of it, with where it came from."""
    first = loaded(tmp_path, config("dialect: openai, keep: 2d", "path: /batch"))
    printed = shown(first)
    assert "    dialect: openai  # " in printed
    assert "    keep: 48h  # " in printed
    assert "    one_model: true  # default" in printed
    assert loaded(tmp_path, printed).digest == first.digest
    assert loaded(tmp_path, config("dialect: openai, keep: 3d", "path: /batch")).digest != first.digest


@on_a_loop
async def test_a_process_without_jobs_does_not_take_it_up(tmp_path: Path) -> None:
    """A reload that adds the section is refused along with it: files would go to the upstream otherwise."""
    found = loaded(tmp_path, config("dialect: openai"))
    with pytest.raises(SettingError, match="expected a restart, for this process has begun without `jobs`"):
        Generation(found, 2, in_flight=InFlight(1))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--match", "POST", "/v1/chat/completions"], 0, "endpoint: /v1, openai"),
        (["--match", "POST", "/v1/chat/completions", "--endpoint", "/v1"], 0, "upstream: a"),
        (["--match", "POST", "/v1/other"], 1, "refused: 403 forbidden by the endpoint /v1"),
        (["--match", "POST", "/v1/files"], 1, "refused: 403 forbidden by the endpoint /v1"),
        (["--match", "POST", "/v1/other", "--endpoint", "/batch"], 0, "endpoint: /batch"),
    ],
)
def test_routes_of_its_lines(arguments: list[Any], code: int, said: str, tmp_path: Path) -> None:
    """`routes` says where a line would go, or why it may not."""
    loaded(tmp_path, config("dialect: openai", "path: /batch"))
    done = CliRunner().invoke(app, ["routes", "-c", str(tmp_path / "batchproxy.yaml"), *arguments])
    assert (done.exit_code, said in done.stdout) == (code, True), done.output
