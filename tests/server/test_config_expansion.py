"""Variables and files in text."""

from __future__ import annotations

from pathlib import Path

import pytest

from .configured import UPSTREAM, errors, loaded

ENVIRONMENT = {"NAME": "edge", "EMPTY": "", "ITEMS": "50", "GRACE": "1m", "FLAG": "true", "TRICK": "x\nadmin: 'off'"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAME}", "edge"),
        ("${NAME}-1", "edge-1"),
        ("a${NAME}${NAME}", "aedgeedge"),
        ("${NONE:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${NAME:-other}", "edge"),
        ("${NAME:?needed}", "edge"),
        ("$$x", "$x"),
        ("a$b", "a$b"),
        ("$${NAME}", "${NAME}"),
        ("${file:name}", "from-file"),
    ],
)
def test_text_is_expanded(tmp_path: Path, text: str, expected: str) -> None:
    """Each form becomes what it stands for, and `$$` one `$`."""
    (tmp_path / "name").write_text("from-file\n", "utf-8")
    routes = f"routes: [{{upstream: a, add_headers: {{X-Name: '{text}'}}}}]\n"
    found = loaded(tmp_path, UPSTREAM + routes, environment=ENVIRONMENT)
    assert found.config.routes[0].add_headers == {"X-Name": expected}


def test_variables_become_what_is_expected(tmp_path: Path) -> None:
    """Where a number, a flag or a list is expected, the text of a variable is one."""
    text = "server: {workers: '${ITEMS}', grace: '${GRACE}', watch: '${FLAG}', allowed_hosts: '${NAME},b'}\n"
    server = loaded(tmp_path, UPSTREAM + text, environment=ENVIRONMENT).config.server
    assert (server.workers, server.grace, server.watch, server.allowed_hosts) == (50, 60, True, ("edge", "b"))


def test_a_variable_cannot_bring_keys(tmp_path: Path) -> None:
    """YAML inside a variable stays text: here a text that the setting refuses."""
    [error] = errors(tmp_path, UPSTREAM + "server: {name: '${TRICK}'}\n", environment=ENVIRONMENT)
    assert "expected a token" in error.message


def test_what_a_variable_holds_is_not_expanded_again(tmp_path: Path) -> None:
    """A reference inside a variable, or inside a default, stays as it is."""
    routes = "routes: [{upstream: a, add_headers: {X-Name: '${OUTER}'}}]\n"
    found = loaded(tmp_path, UPSTREAM + routes, environment={"OUTER": "${NAME}", "NAME": "x"})
    assert found.config.routes[0].add_headers == {"X-Name": "${NAME}"}


def test_keys_are_not_expanded(tmp_path: Path) -> None:
    """A reference in a key is the name of an unknown key."""
    [error] = errors(tmp_path, UPSTREAM + "server: {'${NAME}': x}\n", environment=ENVIRONMENT)
    assert "unknown key `${NAME}`" in error.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NAMR}", "variable `NAMR` is not set, expected a value or a default, did you mean `NAME`?"),
        ("${TIMER}", "variable `TIMER` is not set, expected a value or a default"),
        ("${NONE:?say who you are}", "variable `NONE` is not set: say who you are"),
        ("${EMPTY:?}", "variable `EMPTY` is not set: expected a value"),
        ("${file:none}", "file `none` cannot be read: No such file or directory"),
        ("${file:.}", "file `.` cannot be read: Is a directory"),
        ("${NAME:+x}", "this `${…}` cannot be read"),
        ("${1}", "this `${…}` cannot be read"),
        ("${}", "this `${…}` cannot be read"),
        ("${NAME", "`${` without its `}`"),
    ],
)
def test_references_that_lead_nowhere_are_errors(tmp_path: Path, text: str, expected: str) -> None:
    """An unset variable, an unreadable file and an unfinished reference are told at the value."""
    route = f"routes: [{{upstream: a, add_headers: {{X-Name: '{text}'}}}}]\n"
    [error] = errors(tmp_path, UPSTREAM + route, environment={**ENVIRONMENT, "TERM": "xterm"})
    assert expected in error.message
    assert ("did you mean" in error.message) == ("did you mean" in expected)
    assert (error.line, error.column) == (2, 46)
