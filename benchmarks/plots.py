"""Pictures of curves, by matplotlib: one file for each, the same bytes from the same figures.

Knows: colours, axes, ticks. Must not know: what the curves mean. A series is called "SIDE" or "SIDE, FORM": in all
pictures a side has one colour, and a form one style of line.
"""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks.readings import Curve

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#666666", "#b8a800")
"""Those of Okabe and Ito, which people with any sight tell apart."""
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
MOST_TICKS = 12
WIDE = 20.0  # largest / smallest value from which an axis is logarithmic
STEEP = 1000.0  # and from which only powers of ten are told


def draw(curves: Sequence[Curve], folder: Path) -> None:
    """Writes a picture for each curve, and removes those of others."""
    sides = _numbered(side for curve in curves for side, _ in map(_parts, curve.series))
    for curve in curves:
        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            figure = _figure(curve, sides)
            drawn = BytesIO()
            figure.savefig(drawn, dpi=100)
        # A palette makes the file a third as large.
        small = Image.open(drawn).convert("RGB").quantize(colors=64, dither=Image.Dither.NONE)
        small.save(folder / f"{curve.name}.png", optimize=True)
    for picture in folder.glob("*.png"):
        if picture.stem not in {curve.name for curve in curves}:
            picture.unlink()


def _parts(series: str) -> tuple[str, str]:
    side, _, form = series.partition(", ")
    return side, form


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _figure(curve: Curve, sides: dict[str, int]) -> Figure:
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    axes = figure.subplots()
    forms = _numbered(form for _, form in map(_parts, curve.series))
    for name, points in curve.series.items():
        side, form = _parts(name)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            color=COLOURS[sides[side] % len(COLOURS)],
            linestyle=LINES[forms[form] % len(LINES)],
            marker=MARKERS[forms[form] % len(MARKERS)],
            markersize=4,
        )
    axes.set_title(curve.title, fontsize=11, loc="left")
    axes.set_xlabel(curve.x)
    axes.set_ylabel(curve.y)
    _scale(axes, curve)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curve.series) > 1:
        figure.legend(
            loc="outside lower center", fontsize=8, frameon=False, ncols=max(1, len(curve.series) // len(forms))
        )
    return figure


def _scale(axes: Axes, curve: Curve) -> None:
    xs = sorted({x for points in curve.series.values() for x, _ in points})
    ys = [y for points in curve.series.values() for _, y in points]
    if _is_wide(xs):
        axes.set_xscale("log")
    if len(xs) <= MOST_TICKS:
        label = _size if "byte" in curve.x else _plain
        axes.set_xticks(xs, [label(x) for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
    if _is_wide(ys):
        axes.set_yscale("log")
        if max(ys) / min(ys) < STEEP:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _is_wide(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) >= WIDE


def _plain(value: float) -> str:
    return f"{value:,.10g}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.0f} GiB"
