"""What a measurement hands to the table."""

from dataclasses import dataclass

from benchmarks.rounds import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One measured row: `row` is the name of its goal, `detail` what stood behind it in this run."""

    row: str
    ratio: Ratio
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to look: rounds of CPU time, rounds of latency (slower and steadier), and the size of a sample."""

    rounds: int
    slow_rounds: int
    scale: float

    def count(self, items: int) -> int:
        """So many items make one sample."""
        return max(100, int(items * self.scale) // 100 * 100)


QUICK = Effort(rounds=5, slow_rounds=1, scale=0.5)
FULL = Effort(rounds=31, slow_rounds=5, scale=1.0)


def microseconds(seconds: float) -> str:
    """Seconds of one item, for a person."""
    return f"{seconds * 1e6:.1f} us"
