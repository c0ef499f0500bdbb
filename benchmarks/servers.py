"""S1 to S4: the same app behind several servers, and under several Pythons; figures without limits.

Knows: how each server and each interpreter is started. Must not know: what is behind the differences.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from subprocess import PIPE, Popen

from benchmarks.apps import ROOT
from benchmarks.client import connected, get, post
from benchmarks.driver import batch_body
from benchmarks.groups import Group, listening
from benchmarks.over_sockets import APPLICATION, MANY_CONNECTIONS, same_over_sockets, server_cost
from benchmarks.readings import Curve, Effort, Goal, Outcome, Reading, Section, microseconds
from benchmarks.rounds import Rounds, Sample, interleaved
from benchmarks.server import cores, on_core
from benchmarks.upstreams import free_port
from scripts.test import HERE, SUPPORTED, environment, find, prepare

UVICORN = "uvicorn"
SERVERS: Mapping[str, Sequence[str]] = {
    UVICORN: ["uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", "{port}"],
    "uvicorn-h11": ["uvicorn", "--loop", "asyncio", "--http", "h11", "--no-access-log", "--port", "{port}"],
    "granian": ["granian", "--interface", "asgi", "--loop", "uvloop", "--no-access-log", "--port", "{port}"],
    "hypercorn": ["hypercorn", "--worker-class", "uvloop", "--bind", "127.0.0.1:{port}"],
}
FORMS = {"single": 0, "ten": 10, "hundred": 100}
APPS = ("pure", "Starlette")

GOALS: Mapping[str, Goal] = {
    **{f"S1 {name}": Goal(text=f"{name}: single, 20 connections / batch of 100") for name in SERVERS},
    **{f"S2 {name}": Goal(text=f"batch of 100, {name} / uvicorn") for name in SERVERS if name != UVICORN},
    **{
        f"S3 {version} {app}": Goal(text=f"Python {version}, {app}: batch of 100 / bare call")
        for version in SUPPORTED
        for app in APPS
    },
    **{f"S4 {version}": Goal(text=f"the same behind uvicorn, Python {version} / {HERE}") for version in SUPPORTED},
}


async def measure_servers(effort: Effort) -> list[Reading]:
    """S1 to S4, without the curve."""
    outcomes = [*await measure_http_servers(effort), *await measure_pythons(effort)]
    return [outcome for outcome in outcomes if isinstance(outcome, Reading)]


# S1 and S2: servers


async def measure_http_servers(effort: Effort) -> list[Outcome]:
    """CPU of the server for each item, sent singly, in tens, and in hundreds."""
    installed = [name for name, command in SERVERS.items() if find_spec(command[0])]
    missing = [name for name in SERVERS if name not in installed]
    with ExitStack() as stack:
        samples: dict[str, Sample] = {}
        for name in installed:
            group = stack.enter_context(_serving(SERVERS[name]))
            await _checked(group)
            samples |= {f"{name} {form}": partial(_cost, group, form, effort.count(2000)) for form in FORMS}
        rounds = await interleaved(samples, max(5, effort.rounds // 3))
    note = f"; not installed: {', '.join(missing)}" if missing else ""
    gains = [_gain(rounds, name, note) for name in installed]
    others = [_against_uvicorn(rounds, name) for name in installed if name != UVICORN]
    return [*gains, *others, _curve(rounds, installed)]


@contextmanager
def _serving(command: Sequence[str], python: str = sys.executable) -> Iterator[Group]:
    port = free_port()
    arguments = [part.format(port=port) for part in command]
    with listening([python, "-m", *arguments, APPLICATION], port, core=cores()[0]) as group, on_core(cores()[1]):
        yield group


async def _checked(group: Group) -> None:
    async with connected(group.port, 1) as (connection,):
        await same_over_sockets(connection)


async def _cost(group: Group, form: str, items: int) -> float:
    size = FORMS[form]
    async with connected(group.port, 1 if size else MANY_CONNECTIONS) as connections:
        requests = [post(batch_body(size))] * (items // size) if size else [get(n % 100) for n in range(items)]
        return await server_cost(group, connections, requests, items)


def _gain(rounds: Rounds, name: str, note: str) -> Reading:
    costs = ", ".join(f"{form} {microseconds(rounds.middle(f'{name} {form}'))}" for form in FORMS)
    return Reading(row=f"S1 {name}", ratio=rounds.ratio(f"{name} single", f"{name} hundred"), detail=costs + note)


def _against_uvicorn(rounds: Rounds, name: str) -> Reading:
    ratio = rounds.ratio(f"{name} hundred", f"{UVICORN} hundred")
    single = rounds.ratio(f"{name} single", f"{UVICORN} single").middle
    ten = rounds.ratio(f"{name} ten", f"{UVICORN} ten").middle
    return Reading(row=f"S2 {name}", ratio=ratio, detail=f"single {single:.2f}, batch of 10 {ten:.2f}")


def _curve(rounds: Rounds, names: Sequence[str]) -> Curve:
    return Curve(
        name="servers",
        title="What an item costs behind several servers",
        x="items in a batch (1: sent singly, over 20 connections)",
        y="CPU of the server for an item, µs",
        series={
            name: [(size or 1, rounds.middle(f"{name} {form}") * 1e6) for form, size in FORMS.items()] for name in names
        },
    )


# S3 and S4: Pythons


def interpreters() -> dict[str, str]:
    """This interpreter, and the others that are here, each with an environment of its own."""
    others = {version: find(version) for version in SUPPORTED if version != HERE}
    for version, interpreter in others.items():
        if interpreter is not None:
            preparation = prepare(version, interpreter)
            said, _ = preparation.communicate()
            if preparation.returncode:
                raise RuntimeError(said)
    found = {version: str(ROOT / environment(version) / "bin" / "python") for version in others if others[version]}
    return {HERE: sys.executable, **found}


async def measure_pythons(effort: Effort) -> list[Outcome]:
    """What an item costs under each Python, in process and behind uvicorn."""
    pythons = interpreters()
    missing = [version for version in SUPPORTED if version not in pythons]
    with ExitStack() as stack:
        samples: dict[str, Sample] = {}
        for version, python in pythons.items():
            meter = stack.enter_context(_metering(python))
            samples |= {
                f"{version} {app} {form}": partial(meter.cost, app, form, effort.count(2000))
                for app in APPS
                for form in ("bare", "batch")
            }
            group = stack.enter_context(_serving(SERVERS[UVICORN], python))
            await _checked(group)
            samples |= {f"{version} {form}": partial(_cost, group, form, effort.count(2000)) for form in FORMS}
        rounds = await interleaved(samples, max(5, effort.rounds // 3))
    note = f"; not found: {', '.join(missing)}" if missing else ""
    return [
        *(_in_process(rounds, version, app) for version in pythons for app in APPS),
        *(_behind_uvicorn(rounds, version, note) for version in pythons),
    ]


class Meter:
    """A process under some interpreter, which measures what it is asked for."""

    def __init__(self, process: "Popen[str]") -> None:
        self._process = process

    async def cost(self, app: str, form: str, count: int) -> float:
        """CPU seconds of an item. Nothing else is to run meanwhile, not even our loop."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{app} {form} {count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args!r} has ended")
        return float(answer)


@contextmanager
def _metering(python: str) -> Iterator[Meter]:
    with on_core(cores()[0]):
        process = Popen([python, "-m", "benchmarks.interpreter"], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)
    with process:  # which closes what it reads, and so ends it
        yield Meter(process)


def _in_process(rounds: Rounds, version: str, app: str) -> Reading:
    bare, batch = f"{version} {app} bare", f"{version} {app} batch"
    against = "" if version == HERE else f", {rounds.ratio(batch, f'{HERE} {app} batch').middle:.2f} of {HERE}"
    detail = f"bare {microseconds(rounds.middle(bare))}, batch {microseconds(rounds.middle(batch))} an item{against}"
    return Reading(row=f"S3 {version} {app}", ratio=rounds.ratio(batch, bare), detail=detail)


def _behind_uvicorn(rounds: Rounds, version: str, note: str) -> Reading:
    costs = ", ".join(f"{form} {microseconds(rounds.middle(f'{version} {form}'))}" for form in FORMS)
    ratio = rounds.ratio(f"{version} hundred", f"{HERE} hundred")
    return Reading(row=f"S4 {version}", ratio=ratio, detail=costs + note)


SECTION = Section(
    name="servers",
    title="Servers and Pythons",
    measures={"http-servers": measure_http_servers, "pythons": measure_pythons},
    goals=GOALS,
    thorough={"http-servers", "pythons"},
)
