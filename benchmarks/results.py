"""A run as it is kept: results/latest.json, of which the tables and pictures of docs/performance.md are made.

Knows: the file. Must not know: what was measured, or how it is shown. Every measurement has its own date and effort,
for some of them can be made again alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from benchmarks.apps import ROOT
from benchmarks.readings import Curve, Goal, Reading
from benchmarks.rounds import Ratio

LATEST = ROOT / "benchmarks" / "results" / "latest.json"


class Unlike(Exception):
    """Figures of two machines, or of other versions, are not for one file; the text says what differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A reading beside its goal."""

    row: str
    text: str
    limit: str
    ratio: Ratio
    verdict: str
    detail: str
    elsewhere: str = ""

    @property
    def label(self) -> str:
        """The name of the goal, without what the text says too."""
        return self.row.split()[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one measurement has brought; `note` says why it brought no more."""

    section: str
    name: str
    date: str
    effort: str
    seconds: float
    rows: Sequence[Row] = ()
    curves: Sequence[Curve] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that is kept."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    measured: Sequence[Measured] = ()

    def with_all(self, new: Sequence[Measured], order: Sequence[str]) -> "Run":
        """With these measurements in their places, instead of older ones of their names."""
        kept = {each.name: each for each in (*self.measured, *new)}
        return replace(self, measured=[kept[name] for name in order if name in kept])

    def refuse_unlike(self, other: "Run", kept: Collection[str]) -> None:
        """Raises `Unlike` if measurements of the other run that shall be kept are not for one file with those here."""
        here, there = {**self.machine, **self.versions}, {**other.machine, **other.versions}
        differing = [
            f"{name} {there[name]} (here {here.get(name, 'none')})" for name in there if there[name] != here.get(name)
        ]
        if differing and any(each.name in kept for each in other.measured):
            raise Unlike(f"was measured with {', '.join(differing)}")


def row_of(reading: Reading, goal: Goal) -> Row:
    """The reading as it is kept."""
    ratio = reading.ratio
    return Row(
        row=reading.row,
        text=goal.text,
        limit=goal.limit,
        ratio=Ratio(middle=short(ratio.middle), low=short(ratio.low), high=short(ratio.high)),
        verdict=goal.verdict(ratio.middle),
        detail=reading.detail,
        elsewhere=goal.elsewhere,
    )


def curve_of(curve: Curve) -> Curve:
    """The curve as it is kept."""
    return replace(
        curve, series={side: [(short(x), short(y)) for x, y in points] for side, points in curve.series.items()}
    )


def short(figure: float) -> float:
    """Four digits of a figure: more would be noise."""
    return float(f"{figure:.4g}") if abs(figure) < 1e4 else float(round(figure))


def read(path: Path = LATEST) -> Run:
    """The run that is kept."""
    return msgspec.json.decode(path.read_bytes(), type=Run)


def write(run: Run, path: Path = LATEST) -> None:
    """Keeps a run, the old one whole until the new one is."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    unfinished.replace(path)
