"""Measures goals A1 to B4 side by side in one run and prints each with its limit.

Knows: the goals, the table and the command line. `python benchmarks/goals.py --help`; README.md says how to read it.
"""

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, installed or not

from benchmarks.in_process import measure_a1, measure_a2, measure_a3, measure_a4, measure_a5, measure_a9
from benchmarks.instructions import measure_instructions
from benchmarks.memory import measure_a8
from benchmarks.over_sockets import measure_a6, measure_a7
from benchmarks.proxied import measure_b
from benchmarks.readings import FULL, QUICK, Effort, Goal, Reading

Measure = Callable[[Effort], Awaitable[list[Reading]]]


GOALS: Mapping[str, Goal] = {
    "A1 pure": Goal(text="CPU in process, batch of 100 / bare call, pure ASGI", at_most=2.0),
    "A1 Starlette": Goal(text="the same, Starlette", at_most=1.4),
    "A1 FastAPI": Goal(text="the same, FastAPI", at_most=1.2),
    "A1 instructions": Goal(text="instructions, batch of 100 / bare call, pure ASGI", at_most=2.1),
    "A2": Goal(text="overhead, replay through ASGITransport / ours", at_least=20),
    "A3": Goal(text="request that is no batch, with / without middleware", at_most=1.10),
    "A4": Goal(text="cost of an item, N=10,000 / N=100", at_most=1.8),
    "A5 short values": Goal(text="1 MiB answer, orjson re-encode / our whole item", at_least=4),
    "A5 long strings": Goal(text="the same, a body of long strings"),
    "A6 20 connections / batch of 10": Goal(text="server CPU, 20 connections / batch of 10", at_least=1.4),
    "A6 20 connections / batch of 100": Goal(text="server CPU, 20 connections / batch of 100", at_least=2.2),
    "A6 1 connection / batch of 100": Goal(text="server CPU, 1 connection / batch of 100", at_least=3.5),
    "A7 N=20 RTT 20 ms": Goal(text="latency, 6 connections / batch, N=20, RTT 20 ms", at_least=3),
    "A7 N=100 RTT 20 ms": Goal(text="latency, 6 connections / batch, N=100, RTT 20 ms", at_least=10),
    "A7 N=100 RTT 80 ms": Goal(text="latency, 6 connections / batch, N=100, RTT 80 ms", at_least=12),
    "A8 buffered": Goal(text="peak memory / bytes of 100 x 1 MiB, buffered", at_most=1.5),
    "A8 NDJSON": Goal(text="peak memory / bytes of 100 x 1 MiB, NDJSON", at_most=0.4),
    "A9": Goal(text="time to first result, buffered / NDJSON", at_least=50),
    "B1": Goal(text="proxy CPU of an item, same core over aiohttp / ours", at_least=2.5),
    "B2": Goal(text="proxy CPU of an item, ours / nginx with Lua", at_most=1.5),
    "B3": Goal(text="proxy CPU of an item, plain Node / ours", at_least=1.2),
    "B4": Goal(text="resident memory of the proxy, MiB", at_most=80),
}

MEASURES: Mapping[str, Measure] = {
    "A1": measure_a1,
    "instructions": measure_instructions,
    "A2": measure_a2,
    "A3": measure_a3,
    "A4": measure_a4,
    "A5": measure_a5,
    "A6": measure_a6,
    "A7": measure_a7,
    "A8": measure_a8,
    "A9": measure_a9,
    "B": measure_b,
}
PLAIN_LOOP = {"A7"}  # uvloop's timers count whole milliseconds
LINUX = {"A6", "A7", "A8", "B"}


def measured(chosen: list[str], effort: Effort) -> Iterator[Reading | str]:
    """Runs one measurement after another; what cannot be measured here is told in a line."""
    for name in chosen:
        if name in LINUX and sys.platform != "linux":
            yield f"{name}: skipped, it reads Linux's accounts of processes"
            continue
        factory = asyncio.new_event_loop if name in PLAIN_LOOP else uvloop.new_event_loop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                yield from runner.run(_measure(MEASURES[name], effort))
        except FileNotFoundError as missing:
            yield f"{name}: skipped, {missing}"


async def _measure(measure: Measure, effort: Effort) -> list[Reading]:
    return await measure(effort)


def shown(reading: Reading) -> str:
    """One line of the table."""
    goal, ratio = GOALS[reading.row], reading.ratio
    figures = f"{ratio.middle:8.2f}  ({ratio.low:.2f} - {ratio.high:.2f})"
    name = reading.row.split()[0]
    return f"{name:3} {goal.text:53} {goal.limit:>8} {figures:28} {goal.verdict(ratio.middle):6} {reading.detail}"


def recorded(readings: list[Reading], effort: Effort) -> str:
    """The run as JSON."""
    rows = [
        {
            **asdict(reading),
            "text": GOALS[reading.row].text,
            "limit": GOALS[reading.row].limit,
            "verdict": GOALS[reading.row].verdict(reading.ratio.middle),
        }
        for reading in readings
    ]
    machine = {"python": platform.python_version(), "system": platform.platform()}
    return json.dumps({"effort": asdict(effort), "machine": machine, "readings": rows}, indent=1)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures goals A1 to B4 and prints each with its limit.")
    parser.add_argument("--quick", action="store_true", help="about a minute; wider spread")
    parser.add_argument("--only", metavar="A1,A3", default="", help="these goals alone")
    parser.add_argument("--instructions", action="store_true", help="also count A1 in instructions, needs valgrind")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the run to a file as well")
    options = parser.parse_args()
    options.chosen = options.only.split(",") if options.only else [name for name in MEASURES if name != "instructions"]
    if options.instructions:
        options.chosen.append("instructions")
    if unknown := [name for name in options.chosen if name not in MEASURES]:
        parser.error(f"no goal {', '.join(unknown)}; known are {', '.join(MEASURES)}")
    return options


def main() -> None:
    """Measures what was asked for, printing each row as soon as it is there."""
    options = arguments()
    effort = QUICK if options.quick else FULL
    begin, readings = time.monotonic(), []
    print(f"{'':3} {'goal':53} {'limit':>8} {'ratio':>8}  {'(middle half)':18} {'':6} in this run")
    for outcome in measured([name for name in MEASURES if name in options.chosen], effort):
        if isinstance(outcome, Reading):
            readings.append(outcome)
            outcome = shown(outcome)
        print(outcome, flush=True)
    verdicts = [GOALS[reading.row].verdict(reading.ratio.middle) for reading in readings]
    print(f"{verdicts.count('met')} met, {verdicts.count('short')} short, {time.monotonic() - begin:.0f} s")
    if options.json:
        options.json.write_text(recorded(readings, effort) + "\n")


if __name__ == "__main__":
    main()
