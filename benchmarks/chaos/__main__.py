"""The command line: `python -m benchmarks.chaos --help`.

Knows: options, and how a round looks on a terminal. Must not know: how anything is done.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos import bar, table
from benchmarks.chaos.drawing import AT_LEAST_ONCE, AT_MOST_ONCE, DATABASES, POSTGRESQL, SQLITE
from benchmarks.chaos.lane import servers
from benchmarks.chaos.lanes import drive, usual
from benchmarks.chaos.running import Report
from tests.jobs.postgresql import binaries

_INTERRUPTED = 130


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="Kills, freezes and cuts off what works on jobs, and judges by a ledger what became of the items.",
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=usual(), help="so many of them; %(default)s on this machine")
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
    word = "WRONG" if not report.is_good else "good" if report.struck else "calm"
    head = f"{drawn_round.number:4} {word:5} {drawn_round.database:10} "
    figures = ""
    if verdict is not None:
        figures = (
            f"{verdict.accepted} accepted, {verdict.arrived} arrived, {verdict.answered} answered, "
            f"{verdict.lost} lost, {verdict.doubled} doubled, {verdict.unknown} unknown "
            f"(at risk {drawn_round.at_risk}), "
        )
    times = f"gap {report.gap:.1f} s, resumed after {report.resumed:.1f} s, {report.seconds:.1f} s in all"
    faults = ", ".join(map(str, drawn_round.faults))
    notes = [*report.wrong, *(f"missed: {fault}, {why}" for fault, why in report.missed)]
    if report.kept:
        notes.append(f"see {report.kept}")
    return "\n     ".join([f"{head}{drawn_round.delivery:13} {figures}{times}; {faults}", *notes])


def _keep(file: Path | None, record: Mapping[str, Any]) -> None:
    if file is not None:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(record) + "\n")


def rounds(options: argparse.Namespace) -> int:
    """The exit code: 1 if any of them was wrong."""
    names = DATABASES if options.database == "both" else (options.database,)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    numbers = range(options.rounds) if options.round is None else [options.round]
    at_once = max(1, min(options.at_once, len(numbers)))
    tell(f"seed {seed}, {len(numbers)} rounds, {at_once} at once; again: {_again(seed, options)}")
    reports: list[Report] = []

    def took(report: Report) -> None:
        reports.append(report)
        tell(shown(report))
        _keep(options.lines, report.record())

    try:
        asyncio.run(drive(seed, numbers, names, at_once, took))
    except KeyboardInterrupt:
        tell(f"interrupted, after {len(reports)} of {len(numbers)} rounds")
        _sum_up(reports)
        return _INTERRUPTED
    _sum_up(reports)
    return int(not all(report.is_good for report in reports))


def _again(seed: int, options: argparse.Namespace) -> str:
    return f"--seed {seed} --database {options.database} --round NUMBER"


def _sum_up(reports: Sequence[Report]) -> None:
    tell("\n" + table.shown(reports))
    for what, numbers in {
        "hit by nothing": [report.round.number for report in reports if not report.struck],
        "resumed later than lease + 2 s": [report.round.number for report in reports if report.is_late],
        "wrong": [report.round.number for report in reports if not report.is_good],
    }.items():
        tell(f"{what}: {', '.join(map(str, sorted(numbers))) or 'none'}")


def bars(options: argparse.Namespace) -> int:
    """The exit code: 1 if one of them was not reached."""
    names = DATABASES if options.database == "both" else (options.database,)
    good = True
    with servers(names) as server:
        for name in names:
            of_name = server if name == POSTGRESQL else None
            found = asyncio.run(bar.reach(name, options.delivery, options.items, options.lease, of_name))
            tell(bar.shown(found))
            _keep(options.lines, asdict(found))
            good = good and not found.wrong
    return int(not good)


def main() -> None:
    """Exit code 1 if something was lost, came again that must not, or hung."""
    options = arguments()
    if options.database != SQLITE and binaries() is None:
        sys.exit("PostgreSQL is not on this machine (on Debian: apt-get install postgresql), or: --database sqlite")
    sys.exit(bars(options) if options.bar else rounds(options))


if __name__ == "__main__":
    main()
