"""What the README shows is what happens."""

from __future__ import annotations

import tomllib

from tests.documents import README, ROOT, broken_links, names, section, tables
from tests.snippets import works
from tests.test_docs import shown_defaults

TEXT = README.read_text("utf-8")


def test_every_snippet_works() -> None:
    """Each snippet runs, and gives what is shown behind it."""
    works(README)


def test_every_link_leads_somewhere() -> None:
    """Links to files and headings of the repository lead to one that is there."""
    assert broken_links(README) == []


def test_the_limits_are_the_defaults() -> None:
    """The settings in the README exist and have the defaults that it shows."""
    [rows] = tables(section(TEXT, "Limits"))
    defaults = shown_defaults()
    shown = {names(setting)[0]: default for setting, default, _ in rows[1:]}
    assert shown == {name: defaults[name] for name in shown}


def test_it_names_the_oldest_python() -> None:
    """The README asks for the Python that the package asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or newer" in section(TEXT, "Install")
