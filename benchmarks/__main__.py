"""The command line of the suite: `python -m benchmarks --help`; README.md says how to read what it prints.

Knows: options, and how a row looks on a terminal. Must not know: how anything is measured.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmarks import machine, report, results
from benchmarks.readings import FULL, QUICK, Curve, Section
from benchmarks.results import LATEST, Measured, Row, Run
from benchmarks.running import measured
from benchmarks.sections import SECTIONS

HEAD = f"{'':4} {'':60} {'limit':>8} {'ratio':>9}  {'(middle half)':20} {'':6} in this run"
NAMES = [name for section in SECTIONS for name in section.measures]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `chosen` are names of measurements, in their order."""
    known = [name for section in SECTIONS for name in (section.name, *section.measures)]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures everything, section by section, and prints each row as soon as it is there.",
        epilog=f"Names for --only: {', '.join(dict.fromkeys(known))}.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute or two: few rounds, wider spread, and nothing slow that is not named",
    )
    parser.add_argument("--only", metavar="A1,growth", default="", help="these sections and measurements alone")
    parser.add_argument("--write", action="store_true", help=f"keep the run in {_place()}, and render it")
    parser.add_argument("--render", action="store_true", help="measure nothing; tables and pictures from the kept run")
    options = parser.parse_args(given)
    asked = [name for name in options.only.split(",") if name]
    if unknown := [name for name in asked if name not in known]:
        parser.error(f"there is no {', '.join(unknown)}; known are {', '.join(dict.fromkeys(known))}")
    options.chosen = list(_chosen(asked, options.quick))
    return options


def _place() -> str:
    return str(LATEST.relative_to(LATEST.parents[2]))


def _chosen(asked: Sequence[str], quick: bool) -> Iterator[tuple[Section, str]]:
    for section in SECTIONS:
        for name in section.measures:
            is_left_out = bool(asked) or (quick and name in section.thorough)
            if section.name in asked or name in asked or not is_left_out:
                yield section, name


def shown(outcome: Row | Curve) -> str:
    """A row of the table, or a curve as one line a side."""
    if isinstance(outcome, Curve):
        sides = [
            f"    {side}: {', '.join(f'{x:g}: {y:g}' for x, y in points)}" for side, points in outcome.series.items()
        ]
        return "\n".join([f"{outcome.title}; {outcome.x}: {outcome.y}", *sides])
    ratio = outcome.ratio
    goal = f"{outcome.label:4} {outcome.text:60} {outcome.limit:>8}"
    figures = f"{ratio.middle:9.2f}  ({ratio.low:.2f} - {ratio.high:.2f})"
    elsewhere = f"; elsewhere: {outcome.elsewhere}" if outcome.elsewhere else ""
    return f"{goal} {figures:31} {outcome.verdict:6} {outcome.detail}{elsewhere}"


def tell(text: str) -> None:
    """At once, also into a pipe."""
    print(text, flush=True)


def take(options: argparse.Namespace) -> list[Measured]:
    """Measures what was chosen; what is to be kept is kept after each measurement."""
    run = Run(machine=machine.machine(), versions=machine.versions())
    if options.write and options.only and LATEST.exists():
        kept = results.read()
        run.refuse_unlike(kept, set(NAMES) - {name for _, name in options.chosen})
        run = run.with_all(kept.measured, NAMES)
    effort, effort_name = (QUICK, "quick") if options.quick else (FULL, "full")
    taken = []
    for section, group in groupby(options.chosen, key=lambda pair: pair[0]):
        tell(f"\n{section.title}\n{HEAD}")
        for _, name in group:
            found = measured(section, name, effort, effort_name, lambda outcome: tell(shown(outcome)))
            taken.append(found)
            if found.note:
                tell(f"{name}: {found.note}")
            if options.write:
                run = run.with_all([found], NAMES)
                results.write(run)
    return taken


def main() -> None:
    """Measures what was asked for. Exit code 1 if a measurement failed; a goal that is short is no failure."""
    options = arguments()
    begin = time.monotonic()
    if options.render:
        report.render(results.read())
        return
    try:
        taken = take(options)
    except results.Unlike as difference:
        sys.exit(f"{_place()} {difference}; measure everything, without --only")
    if options.write:
        report.render(results.read())
    verdicts = [row.verdict for each in taken for row in each.rows]
    notes = [each.note for each in taken if each.note]
    failed = [note for note in notes if note.startswith("failed")]
    tell(
        f"\n{verdicts.count('met')} met, {verdicts.count('short')} short, "
        f"{len(notes) - len(failed)} skipped, {len(failed)} failed, {time.monotonic() - begin:.0f} s"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
