"""The command line: `python -m benchmarks.chaos --help`.

Knows: options, and how a round looks on a terminal. Must not know: how anything is done.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos import bar
from benchmarks.chaos.drawing import AT_LEAST_ONCE, AT_MOST_ONCE, DATABASES, POSTGRESQL, drawn
from benchmarks.chaos.running import Report, run
from tests.jobs.postgresql import Cluster, cluster

_SUMS = ("accepted", "arrived", "answered", "lost", "doubled", "unknown", "failed")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Kills, freezes and cuts off what works on jobs, and judges by a ledger what became of the items.",
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--database", choices=[*DATABASES, "both"], default="both")
    parser.add_argument("--seed", type=int, help="of all rounds; drawn unless it is given")
    parser.add_argument("--round", type=int, help="this one alone, of a seed that was printed")
    parser.add_argument("--lines", type=Path, help="a file that gets a line of JSON for each round")
    parser.add_argument("--bar", action="store_true", help="50,000 items, and SIGKILL at 10, 50 and 90 %%")
    parser.add_argument("--items", type=int, default=50_000, help="of --bar")
    parser.add_argument("--lease", type=float, default=30.0, help="of --bar, in seconds")
    parser.add_argument("--delivery", choices=[AT_MOST_ONCE, AT_LEAST_ONCE], default=AT_LEAST_ONCE, help="of --bar")
    return parser.parse_args(given)


def tell(text: str) -> None:
    """At once, also into a pipe."""
    print(text, flush=True)


def shown(report: Report) -> str:
    """A line, and one for each thing that is wrong."""
    drawn_round, verdict = report.round, report.verdict
    head = f"{drawn_round.number:4} {'good' if report.is_good else 'WRONG':5} {drawn_round.database:10} "
    figures = ""
    if verdict is not None:
        figures = (
            f"{verdict.accepted} accepted, {verdict.arrived} arrived, {verdict.answered} answered, "
            f"{verdict.lost} lost, {verdict.doubled} doubled, {verdict.unknown} unknown "
            f"(at risk {drawn_round.at_risk}), "
        )
    times = f"gap {report.gap:.1f} s, {report.seconds:.1f} s in all"
    faults = ", ".join(map(str, drawn_round.faults))
    notes = [*report.wrong, *(f"not done: {text}" for text in report.not_done)]
    if report.kept:
        notes.append(f"see {report.kept}")
    return "\n     ".join([f"{head}{drawn_round.delivery:13} {figures}{times}; {faults}", *notes])


@contextmanager
def servers(names: Sequence[str]) -> Iterator[Cluster | None]:
    """A private PostgreSQL that commits as it does for everybody, if it is needed."""
    if POSTGRESQL not in names:
        yield None
        return
    with cluster(()) as made:
        yield made


def _keep(file: Path | None, record: Mapping[str, Any]) -> None:
    if file is not None:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(record) + "\n")


def rounds(options: argparse.Namespace) -> bool:
    """Whether all of them were good."""
    names = DATABASES if options.database == "both" else (options.database,)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    numbers = range(options.rounds) if options.round is None else [options.round]
    tell(f"seed {seed}, {len(numbers)} rounds; again: --seed {seed} --database {options.database} --round NUMBER")
    sums, bad, longest, hung = Counter[str](), [], 0.0, 0
    with servers(names) as server:
        for number in numbers:
            report = asyncio.run(run(drawn(seed, number, names), server))
            tell(shown(report))
            _keep(options.lines, report.record())
            if report.verdict is not None:
                sums.update({name: getattr(report.verdict, name) for name in _SUMS})
            longest, hung = max(longest, report.gap), hung + report.hung
            if not report.is_good:
                bad.append(number)
    told = ", ".join(f"{sums[name]:,} {name}" for name in _SUMS)
    tell(f"{len(numbers)} rounds: {told}, {hung} hung; longest time without progress {longest:.1f} s")
    tell(f"wrong: {', '.join(map(str, bad)) or 'none'}")
    return not bad


def bars(options: argparse.Namespace) -> bool:
    """Whether all of them were reached."""
    names = DATABASES if options.database == "both" else (options.database,)
    good = True
    with servers(names) as server:
        for name in names:
            of_name = server if name == POSTGRESQL else None
            found = asyncio.run(bar.reach(name, options.delivery, options.items, options.lease, of_name))
            tell(bar.shown(found))
            _keep(options.lines, asdict(found))
            good = good and not found.wrong
    return good


def main() -> None:
    """Exit code 1 if something was lost, came again that must not, or hung."""
    options = arguments()
    sys.exit(not (bars(options) if options.bar else rounds(options)))


if __name__ == "__main__":
    main()
