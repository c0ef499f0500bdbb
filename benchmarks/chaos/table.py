"""What became of all rounds: a table of faults and databases.

Knows: reports. Must not know: how rounds are run.
"""

from collections.abc import Iterator, Sequence

from benchmarks.chaos.drawing import DATABASES, WRONG_CLOCK, Kind
from benchmarks.chaos.running import Report

HEAD = (
    "fault",
    "database",
    "rounds",
    "missed",
    "accepted",
    "answered",
    "lost",
    "doubled",
    "unknown",
    "at most",
    "hung",
    "wrong",
    "slowest resumption",
)


def shown(reports: Sequence[Report]) -> str:
    """In columns, as Markdown has it. A round stands in the row of each fault that has hit in it; a fault that has not
    is `missed`, and its round does not count there."""
    rows = [HEAD, *_rows(reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines).replace("| -", "|--").replace("- |", "--|")


def _rows(reports: Sequence[Report]) -> Iterator[Sequence[str]]:
    for fault in (*(kind.value for kind in Kind), WRONG_CLOCK):
        for database in DATABASES:
            of_it = [report for report in reports if report.round.database == database]
            hit = [report for report in of_it if fault in report.struck]
            missed = sum(name == fault for report in of_it for name, _ in report.missed)
            if hit or missed:
                yield _row(fault, database, hit, missed)
    for database in DATABASES:
        of_it = [report for report in reports if report.round.database == database]
        if of_it:
            yield _row("any", database, of_it, sum(len(report.missed) for report in of_it))


def _row(fault: str, database: str, reports: Sequence[Report], missed: int) -> Sequence[str]:
    verdicts = [report.verdict for report in reports if report.verdict is not None]
    sums = (
        len(reports),
        missed,
        sum(verdict.accepted for verdict in verdicts),
        sum(verdict.answered for verdict in verdicts),
        sum(verdict.lost for verdict in verdicts),
        sum(verdict.doubled for verdict in verdicts),
        sum(verdict.unknown for verdict in verdicts),
        sum(report.round.at_risk for report in reports),
        sum(report.hung for report in reports),
        sum(not report.is_good for report in reports),
    )
    slowest = max((report.resumed for report in reports), default=0.0)
    return (fault, database, *(f"{each:,}" for each in sums), f"{slowest:.1f} s")
