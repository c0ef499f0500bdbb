"""Any text is a configuration or an error, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, strategies as st

from batchproxy.server.config import ConfigErrors, Loaded, load, rendered, shown
from batchproxy.server.configuration import units
from batchproxy.server.configuration.located import Report
from batchproxy.server.configuration.node import Node
from batchproxy.server.configuration.reading import read
from batchproxy.server.configuration.shapes import keys
from batchproxy.server.settings import Config, Server
from tests.documents import ROOT

PIECES = st.sampled_from(
    [
        *keys(Config),
        *keys(Server),
        *"{}[],:-?&*!|>'\"%@`#$\n \t~\\\0\x85\u2028\ufeff",
        "  ",
        "\n  ",
        ": ",
        "- ",
        "${",
        "${A}",
        "<<: ",
        "---\n",
        "!!python/object:os.system ",
        "1e999",
        "0x",
        "\\U",
        "upstreams: {a: {url: 'http://x'}}\n",
        "path: /",
        "url: http://x",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=60).map("".join))


def outcome(path: Path) -> Loaded | ConfigErrors:
    try:
        found = load(path, environment={"A": "x"})
    except ConfigErrors as errors:
        return errors
    shown(found)
    return found


@given(st.one_of(st.binary(max_size=200), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_are_a_configuration_or_errors(content: bytes) -> None:
    """Whatever is in a file, loading it gives a configuration or located errors that can be shown."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_bytes(content)
        found = outcome(path)
    if isinstance(found, ConfigErrors):
        assert found.errors
        assert rendered(found, "text")
        assert rendered(found, "github")
        assert rendered(found, "json")


@given(st.data())
def test_a_damaged_file_is_a_configuration_or_errors(data: st.DataObject) -> None:
    """Cuts and insertions at any place of the full file are taken or told."""
    text = (ROOT / "config" / "full.yaml").read_text("utf-8")
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    damaged = text[:start] + data.draw(TEXTS) + text[end:]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.yaml"
        path.write_text(damaged, "utf-8", errors="replace")
        outcome(path)


def scalars(node: Node | None) -> Iterator[Node]:
    if node is None:
        return
    if isinstance(node.value, dict | list):
        for each in node.value.values() if isinstance(node.value, dict) else node.value:
            yield from scalars(each)
    else:
        yield node


@given(st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), unique=True, max_size=8))
def test_every_value_is_found_where_it_stands(words: list[str]) -> None:
    """The line and column of a value lead to its text."""
    text = "".join(f"{'x' * (at + 1)}:{' ' * (at + 1)}[{word}]\n" for at, word in enumerate(words))
    lines = text.split("\n")
    report = Report("x")
    for node, word in zip(scalars(read(text, report)), words, strict=True):
        assert lines[node.origin.line - 1][node.origin.column - 1 :].startswith(word)
    assert report.errors == []


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{" * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "a: " * 100_000,
        "[a,",
        "x\n" * 400_000,
        "[" + "a," * 200_000,
    ],
    ids=["brackets", "braces", "dashes", "questions", "keys", "open", "lines", "members"],
)
def test_deep_and_large_documents_end_early(tmp_path: Path, text: str) -> None:
    """Nesting and numbers of values are bounded, so that no document costs more than its size allows."""
    path = tmp_path / "x.yaml"
    path.write_text(text, "utf-8")
    assert isinstance(outcome(path), ConfigErrors)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """More than a megabyte is refused unread."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigErrors, match="more than 1048576 bytes"):
        load(path, environment={})


@given(st.floats(0, 1e6).map(lambda number: round(number, 3)))
def test_durations_are_read_as_they_are_shown(seconds: float) -> None:
    """A duration that is printed is read again as the same one."""
    assert units.duration(units.shown_duration(seconds)) == pytest.approx(seconds)


@given(st.integers(0, 2**40))
def test_sizes_are_read_as_they_are_shown(count: int) -> None:
    """A size that is printed is read again as the same one."""
    assert units.size(units.shown_size(count)) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("250ms", 0.25), ("1.5m", 90), ("1h", 3600), ("1d", 86400), ("7", 7), ("1 s", 1)]
)
def test_durations(text: str, seconds: float) -> None:
    """Units of time; without one it is seconds."""
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("2MiB", 2 * 1024**2), ("512KiB", 524288), ("1GB", 10**9), ("5kB", 5000), ("1.5KiB", 1536), ("7", 7)],
)
def test_sizes(text: str, count: int) -> None:
    """Units of size, of 1000 and of 1024; without one it is bytes."""
    assert units.size(text) == count


@pytest.mark.parametrize("text", ["", "s", "-1s", "5 parsecs", "1e3", "5S", "1s1s", "٣s", "0x5", "1_000"])
def test_what_is_no_duration_and_no_size(text: str) -> None:
    """Signs, other digits and other units are not read."""
    assert units.duration(text) is None
    assert units.size(text) is None
