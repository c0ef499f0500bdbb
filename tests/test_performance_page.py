"""What the page on performance shows is what was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.readings import written
from benchmarks.results import Unlike
from tests.documents import tables

RUN = results.read()
TEXT = report.PAGE.read_text("utf-8")


def pictures(markdown: str) -> list[Path]:
    """The files that the page shows."""
    return [report.PAGE.parent / link for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", markdown)]


def test_the_tables_are_those_of_the_kept_run() -> None:
    """Rendering the kept run changes nothing on the page."""
    assert report.page(TEXT, RUN) == TEXT


def test_every_figure_is_on_the_page() -> None:
    """Each row of the run is in a table, and each picture of a curve is shown."""
    shown = {tuple(row[:4]) for table in tables(TEXT) for row in table}
    measured = [row for each in RUN.measured for row in each.rows]
    assert {(row.label, row.text, row.limit, f"{row.ratio.middle:.2f}") for row in measured} <= shown
    beside = {row[-1] for table in tables(TEXT) for row in table}
    assert {row.elsewhere for row in measured if row.elsewhere} <= beside
    assert pictures(TEXT) == [report.PICTURES / f"{curve.name}.png" for each in RUN.measured for curve in each.curves]


def test_figures_are_written_for_people() -> None:
    """None has an exponent, neither in a table nor behind a row."""
    assert not re.search(r"\de[+-]\d", TEXT)
    assert [written(figure) for figure in (27_777.0, 4460.4, 0.061_27)] == ["27,780", "4,460", "0.06127"]


def test_every_picture_is_there() -> None:
    """Each picture that the page shows exists, and no other."""
    assert sorted(pictures(TEXT)) == sorted(report.PICTURES.iterdir())
    for picture in pictures(TEXT):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("marks", ["", "<!-- measured: {name} -->\n<!-- end -->\n" * 2], ids=["none", "two"])
def test_a_measurement_has_one_place(marks: str) -> None:
    """A run is not rendered into a page that leaves a measurement out, or shows it twice."""
    first = RUN.measured[0]
    with pytest.raises(report.Unplaced, match=first.name):
        report.page(marks.format(name=first.name), replace(RUN, measured=[first]))


def test_figures_of_unlike_runs_are_not_mixed() -> None:
    """What was measured on another machine is not kept beside what is measured here, but may be replaced."""
    elsewhere = replace(RUN, machine={**RUN.machine, "CPU": "another"})
    names = [each.name for each in RUN.measured]
    with pytest.raises(Unlike, match="another"):
        RUN.refuse_unlike(elsewhere, kept=names[1:])
    RUN.refuse_unlike(elsewhere, kept=[])


def test_a_newer_measurement_takes_the_place_of_the_older() -> None:
    """Measurements made again replace those of their names; the others stay, in order."""
    names = [each.name for each in RUN.measured]
    again = replace(RUN.measured[0], note="again")
    merged = RUN.with_all([again], names)
    assert [each.name for each in merged.measured] == names
    assert [each.note for each in merged.measured] == ["again", *(each.note for each in RUN.measured[1:])]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Writing and reading a run gives the same run."""
    results.write(RUN, tmp_path / "run" / "latest.json")
    assert results.read(tmp_path / "run" / "latest.json") == RUN
