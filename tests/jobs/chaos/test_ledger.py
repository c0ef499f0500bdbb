"""What the ledger of the chaos rounds finds wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.drawing import AT_LEAST_ONCE, AT_MOST_ONCE
from benchmarks.chaos.ledger import Arrival, Arrivals, Verdict, judged, longest_gap, longest_wait

ITEMS = ["a/0", "a/1", "a/2"]
OK = [(item, "ok") for item in ITEMS]


def arrived(*items: str, keys: bool = True) -> list[Arrival]:
    return [Arrival(float(at), item, f"key of {item}" if keys else None) for at, item in enumerate(items)]


def again(arrivals: list[Arrival], answers: list[tuple[str, str]], at_risk: int = 1) -> Verdict:
    return judged(ITEMS, arrivals, answers, delivery=AT_LEAST_ONCE, at_risk=at_risk)


def once(arrivals: list[Arrival], answers: list[tuple[str, str]], at_risk: int = 1) -> Verdict:
    return judged(ITEMS, arrivals, answers, delivery=AT_MOST_ONCE, at_risk=at_risk)


def test_all_is_well() -> None:
    """Each item came once; or once more, or is unknown, as many as there may be."""
    assert again(arrived(*ITEMS), OK).wrong == []
    assert again(arrived(*ITEMS, "a/1"), OK).wrong == []
    assert once(arrived(*ITEMS, keys=False), OK).wrong == []
    verdict = once(arrived("a/0", "a/2", keys=False), [OK[0], ("a/1", "unknown"), OK[2]])
    assert (verdict.wrong, verdict.lost, verdict.doubled, verdict.unknown) == ([], 0, 0, 1)


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (again(arrived(*ITEMS), OK[:2]), "1 items have no answer"),
        (again(arrived(*ITEMS[:2]), OK), "1 items were never sent"),
        (again(arrived(*ITEMS), [*OK, ("b/0", "ok")]), "1 answers are to nothing"),
        (again(arrived(*ITEMS, "b/0"), OK), "1 arrivals are of nothing"),
        (again(arrived(*ITEMS), [*OK, OK[0]]), "3 items have 4 answers"),
        (again(arrived(*ITEMS, "a/1", "a/1"), OK), "2 items came again, of at most 1"),
        (again(arrived(*ITEMS), [*OK[:2], ("a/2", "unknown")]), "1 items are unknown, of at most 0"),
        (again(arrived(*ITEMS), [*OK[:2], ("a/2", "error")]), "items failed: {'error': 1}"),
        (again(arrived(*ITEMS, keys=False), OK), "the keys of items are not one each"),
        (again([*arrived(*ITEMS), Arrival(9.0, "a/0", "another")], OK), "the keys of items are not one each"),
        (once(arrived(*ITEMS, "a/1", keys=False), OK), "1 items came again, of at most 0"),
        (once(arrived(*ITEMS, keys=False), [(item, "unknown") for item in ITEMS], 2), "3 items are unknown"),
        (once(arrived(*ITEMS), OK), "items have keys that should have none"),
    ],
)
def test_what_is_wrong_is_told(verdict: Verdict, told: str) -> None:
    """Each in a sentence, alone."""
    [found] = verdict.wrong
    assert found.startswith(told)
    assert verdict.lost == (1 if "no answer" in told or "never sent" in told else 0)


def test_arrivals_are_read_as_they_come(tmp_path: Path) -> None:
    """A line that is not whole yet is read when it is."""
    file = tmp_path / "arrivals"
    arrivals = Arrivals(file)
    assert arrivals.look() == 0
    file.write_text("1.5 a/0 -\n2.5 a/1 the k")
    assert arrivals.look() == 1
    with file.open("a") as more:
        more.write("ey\n3.5 a/0 -\n")
    assert arrivals.look() == 2
    assert arrivals.all == [Arrival(1.5, "a/0", None), Arrival(2.5, "a/1", "the key"), Arrival(3.5, "a/0", None)]


def test_the_longest_gap() -> None:
    """From a fault to the end, whatever came before or after."""
    assert longest_gap([1.0, 2.0, 7.0, 8.0], since=2.5, until=9.0) == 4.5
    assert longest_gap([], since=2.0, until=9.0) == 7.0
    assert longest_gap([3.0, 99.0], since=2.0, until=9.0) == 6.0


def test_the_longest_wait() -> None:
    """Only what was before, between and after faults counts."""
    assert longest_wait([1.0, 2.0, 7.0, 8.0], [(2.5, 6.0)], until=9.0) == 1.0
    assert longest_wait([1.0], [(2.0, 4.0), (6.0, 8.0)], until=9.0) == 2.0
    assert longest_wait([1.0], [(2.0, 4.0), (3.0, 8.0)], until=9.0) == 1.0
    assert longest_wait([], [(2.0, 12.0)], until=9.0) == 0.0
    assert longest_wait([1.0, 8.0], [], until=9.0) == 0.0
    assert longest_wait([3.0, 3.5, 8.0], [(2.0, 3.2)], until=9.0) == 4.5
