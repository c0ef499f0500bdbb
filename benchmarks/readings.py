"""What a measurement hands over, and how measurements make up a section of the suite."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.rounds import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measured row: `row` is the name of its goal, `detail` what stood behind it in this run."""

    row: str
    ratio: Ratio
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A row of the table; with neither limit it is shown for what it tells.

    `elsewhere` is what others reached, and not in this run.
    """

    text: str
    at_most: float | None = None
    at_least: float | None = None
    elsewhere: str = ""

    def verdict(self, figure: float) -> str:
        """Whether the figure keeps the limit."""
        if self.at_most is None and self.at_least is None:
            return "shown"
        kept = (self.at_most is None or figure <= self.at_most) and (self.at_least is None or figure >= self.at_least)
        return "met" if kept else "short"

    @property
    def limit(self) -> str:
        """The limit as it is printed."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """How one quantity grows with another, for some sides: a plot, and the table behind it.

    `name` is that of its picture; `x` and `y` are titles of axes, with their units.
    """

    name: str
    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to look: rounds of CPU time, rounds of latency (slower and steadier), and the size of a sample."""

    rounds: int
    slow_rounds: int
    scale: float

    def count(self, items: int) -> int:
        """So many items make one sample."""
        return max(100, int(items * self.scale) // 100 * 100)


Outcome = Reading | Curve
Measure = Callable[[Effort], Awaitable[Sequence[Outcome]] | AsyncIterator[Outcome]]
"""All its rows at the end, or one by one: then the first are kept if a later one fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Measurements that belong together, by the names that `--only` takes, and the goals of their rows."""

    name: str
    title: str
    measures: Mapping[str, Measure]
    goals: Mapping[str, Goal] = field(default_factory=dict)
    anywhere: Collection[str] = ()  # need nothing of Linux
    plain_loop: Collection[str] = ()  # measure waits: uvloop's timers count whole milliseconds
    thorough: Collection[str] = ()  # take so long that a quick run leaves them out


QUICK = Effort(rounds=5, slow_rounds=1, scale=0.5)
FULL = Effort(rounds=31, slow_rounds=5, scale=1.0)


def microseconds(seconds: float) -> str:
    """Seconds of one item, for a person."""
    return f"{seconds * 1e6:.1f} us"


def written(figure: float, digits: int = 4) -> str:
    """So many digits that count, for a person: never with an exponent."""
    return f"{float(f'{figure:.{digits}g}'):,.12g}"
