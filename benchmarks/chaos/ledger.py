"""The ledger: what was accepted, what has arrived, what was answered; and the judgement over it.

Knows: what was promised. Must not know: how anything came about.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.chaos.drawing import AT_MOST_ONCE


class Arrival(NamedTuple):
    """An item at the API, at a time of the monotonic clock; with its `Idempotency-Key`, if it has one."""

    at: float
    item: str
    key: str | None


class Arrivals:
    """Those in the file of the API, as far as they were read."""

    def __init__(self, file: Path) -> None:
        self.all: list[Arrival] = []
        self.items: set[str] = set()
        self._file = file
        self._read = 0

    def look(self) -> int:
        """How many items have arrived by now, however often."""
        if self._file.exists():
            with self._file.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.decode().splitlines():
                at, item, key = line.split(" ", 2)
                self.all.append(Arrival(float(at), item, None if key == "-" else key))
                self.items.add(item)
        return len(self.items)


def longest_gap(times: Sequence[float], since: float, until: float) -> float:
    """The longest time between two arrivals, from a fault to the end."""
    points = [since, *sorted(time for time in times if since < time < until), until]
    return max(later - earlier for earlier, later in pairwise(points))


def longest_wait(times: Sequence[float], faults: Sequence[tuple[float, float]], until: float) -> float:
    """The same, without the times in which a fault was on: each has a beginning and an end."""
    since, longest = min((began for began, _ in faults), default=until), 0.0
    points = [since, *sorted(time for time in times if since < time < until), until]
    for earlier, later in pairwise(points):
        free_from = earlier
        for began, over in sorted(faults):
            longest = max(longest, min(began, later) - free_from)
            free_from = max(free_from, over)
        longest = max(longest, later - free_from)
    return longest


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`wrong` says what must not be, a sentence each."""

    accepted: int
    arrived: int
    answered: int
    lost: int
    doubled: int
    reruns: int
    unknown: int
    failed: int
    wrong: Sequence[str] = field(default=())


def judged(
    accepted: Sequence[str],
    arrivals: Sequence[Arrival],
    answers: Sequence[tuple[str, str]],
    *,
    delivery: str,
    at_risk: int,
) -> Verdict:
    """`accepted` are items, `answers` their outcomes, in whatever order; `at_risk` is how many may have been in flight
    with what was lost."""
    expected, arrived = set(accepted), Counter(arrival.item for arrival in arrivals)
    outcomes, answered = dict(answers), Counter(item for item, _ in answers)
    unanswered = expected - answered.keys()
    invented = {item for item in expected & outcomes.keys() if outcomes[item] == "ok"} - arrived.keys()
    doubled = [item for item, times in arrived.items() if times > 1]
    reruns = arrived.total() - len(arrived)
    unknown = sum(outcome == "unknown" for outcome in outcomes.values())
    failed = Counter(outcome for outcome in outcomes.values() if outcome not in ("ok", "unknown"))
    bound = 0 if delivery == AT_MOST_ONCE else at_risk
    most_unknown = at_risk if delivery == AT_MOST_ONCE else 0
    checks: Mapping[str, bool] = {
        f"{len(unanswered)} items have no answer": bool(unanswered),
        f"{len(invented)} items were never sent, and are said to be done": bool(invented),
        f"{len(answered.keys() - expected)} answers are to nothing": bool(answered.keys() - expected),
        f"{len(arrived.keys() - expected)} arrivals are of nothing": bool(arrived.keys() - expected),
        f"{len(answered)} items have {answered.total()} answers": answered.total() > len(answered),
        f"{reruns} items came again, of at most {bound}": reruns > bound,
        f"{unknown} items are unknown, of at most {most_unknown}": unknown > most_unknown,
        f"items failed: {dict(failed)}": bool(failed),
        **_about_keys(arrivals, delivery),
    }
    return Verdict(
        accepted=len(expected),
        arrived=len(arrived),
        answered=len(answered),
        lost=len(unanswered) + len(invented),
        doubled=len(doubled),
        reruns=reruns,
        unknown=unknown,
        failed=failed.total(),
        wrong=[text for text, is_so in checks.items() if is_so],
    )


def _about_keys(arrivals: Sequence[Arrival], delivery: str) -> Mapping[str, bool]:
    """An item that may come again has one key, which no other has."""
    keys = {(arrival.item, arrival.key) for arrival in arrivals}
    if delivery == AT_MOST_ONCE:
        return {"items have keys that should have none": any(key is not None for _, key in keys)}
    items = {item for item, _ in keys}
    distinct = {key for _, key in keys if key is not None}
    return {"the keys of items are not one each": not len(keys) == len(items) == len(distinct)}
