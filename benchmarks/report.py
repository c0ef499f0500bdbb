"""The tables of docs/performance.md, from a kept run; the prose around them is written by hand.

What stands between `<!-- measured: NAME -->` and `<!-- end -->` is written here: NAME is `run`, a section, or one
measurement of a section. Knows: Markdown. Must not know: how anything is measured.
"""

import re
from collections.abc import Iterator, Sequence

from benchmarks.apps import ROOT
from benchmarks.readings import Curve, written
from benchmarks.results import Measured, Row, Run

PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"
BLOCK = re.compile(r"(?P<begin><!-- measured: (?P<name>\S+) -->\n).*?(?P<end><!-- end -->\n)", re.DOTALL)


class Unplaced(Exception):
    """The page and the run do not fit; the text says where."""


def render(run: Run) -> None:
    """Writes the tables and the pictures, and removes pictures of curves that are gone."""
    from benchmarks import plots

    text = page(PAGE.read_text("utf-8"), run)
    PICTURES.mkdir(exist_ok=True)
    plots.draw([curve for each in run.measured for curve in each.curves], PICTURES)
    PAGE.write_text(text, "utf-8")


def page(text: str, run: Run) -> str:
    """The page with the figures of this run. Raises `Unplaced`."""
    placed = [match["name"] for match in BLOCK.finditer(text)]
    for each in run.measured:
        places = sum(placed.count(name) for name in {each.section, each.name})
        if places != 1:
            raise Unplaced(f"{each.name} of {each.section} has {places} places on {PAGE.name}, expected one")
    return BLOCK.sub(lambda match: f"{match['begin']}{_block(match['name'], run)}{match['end']}", text)


def _block(name: str, run: Run) -> str:
    parts = _of_run(run) if name == "run" else _of_measured(_found(name, run))
    return "".join(f"\n{part}\n" for part in parts) + "\n"


def _found(name: str, run: Run) -> list[Measured]:
    return [each for each in run.measured if name in (each.section, each.name)]


def _of_run(run: Run) -> Iterator[str]:
    dates = sorted({each.date for each in run.measured})
    efforts = sorted({each.effort for each in run.measured})
    facts = {"measured": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "", **run.machine}
    facts["effort"] = " and ".join(efforts)
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    yield _table(["", ""], [[name, fact] for name, fact in facts.items()])


def _of_measured(found: Sequence[Measured]) -> Iterator[str]:
    rows = [row for each in found for row in each.rows]
    if rows:
        head, cells = ["", "", "limit", "measured", "middle half", "", "in this run"], [_cells(row) for row in rows]
        if any(row.elsewhere for row in rows):
            head, cells = [*head, "elsewhere"], [[*_cells(row), row.elsewhere] for row in rows]
        yield _table(head, cells)
    for each in found:
        for curve in each.curves:
            yield f"![{curve.title}](performance/{curve.name}.png)"
            yield f"{curve.y[0].upper()}{curve.y[1:]}:"
            yield _table([curve.x, *curve.series], list(_points(curve)))
    notes = [f"{each.name}: {each.note}" for each in found if each.note]
    if notes:
        yield "\n".join(f"* {note}" for note in notes)
    if not found:
        yield "Not measured yet."


def _cells(row: Row) -> list[str]:
    ratio = row.ratio
    spread = f"{ratio.low:.2f} – {ratio.high:.2f}"  # noqa: RUF001
    return [row.label, row.text, row.limit, f"{ratio.middle:.2f}", spread, row.verdict, row.detail]


def _points(curve: Curve) -> Iterator[list[str]]:
    sides = [dict(points) for points in curve.series.values()]
    for x in sorted({x for side in sides for x in side}):
        yield [f"{x:,.12g}", *(written(side[x]) if x in side else "" for side in sides)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *others = map(_line, (head, *rows))
    return "\n".join([first, f"|{'---|' * len(head)}", *others])


def _line(cells: Sequence[str]) -> str:
    return "".join(["|", *(f" {cell.replace('|', '/')} |" if cell else " |" for cell in cells)])
