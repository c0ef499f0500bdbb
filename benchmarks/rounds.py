"""Interleaved rounds: A B C, then C B A, over and over; ratios are medians of the ratios of single rounds.

Knows: the order of measuring and the statistics. Must not know: what a sample does or in which unit it answers.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

Sample = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median over the rounds and the middle half around it."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """One figure per sample and round."""

    figures: Mapping[str, list[float]]

    def middle(self, name: str) -> float:
        """The median figure of one sample."""
        return median(self.figures[name])

    def ratio(self, upper: str, lower: str) -> Ratio:
        """How many times `lower` goes into `upper`."""
        return spread([a / b for a, b in zip(self.figures[upper], self.figures[lower], strict=True)])

    def excess(self, upper: str, lower: str, over: str) -> Ratio:
        """How many times what `lower` costs more than `over` goes into what `upper` costs more."""
        columns = (self.figures[name] for name in (upper, lower, over))
        return spread([(a - c) / (b - c) for a, b, c in zip(*columns, strict=True)])


def spread(ratios: list[float]) -> Ratio:
    """Median and quartiles of a few ratios."""
    if len(ratios) < 2:
        return Ratio(middle=ratios[0], low=ratios[0], high=ratios[0])
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return Ratio(middle=middle, low=low, high=high)


async def interleaved(samples: Mapping[str, Sample], rounds: int) -> Rounds:
    """Measures every sample twice a round, there and back, after one round that does not count."""
    figures: dict[str, list[float]] = {name: [] for name in samples}
    for number in range(rounds + 1):
        there = {name: await sample() for name, sample in samples.items()}
        back = {name: await samples[name]() for name in reversed(list(samples))}
        if number:
            for name, column in figures.items():
                column.append((there[name] + back[name]) / 2)
    return Rounds(figures)
