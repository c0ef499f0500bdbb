"""Goals A1 to A9 and B1 to B4, and what measures each.

Knows: the limits. Must not know: how they are measured, or where the figures go.
"""

from collections.abc import Mapping

from benchmarks.in_process import measure_a1, measure_a2, measure_a3, measure_a4, measure_a5, measure_a9
from benchmarks.instructions import measure_instructions
from benchmarks.memory import measure_a8
from benchmarks.over_sockets import measure_a6, measure_a7
from benchmarks.proxied import measure_b
from benchmarks.readings import Goal, Section

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
    "B instructions": Goal(text="instructions, proxied item / item in process"),
    "B4": Goal(text="resident memory of the proxy, MiB", at_most=80),
}


SECTION = Section(
    name="goals",
    title="Goals",
    measures={
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
    },
    goals=GOALS,
    anywhere={"A1", "instructions", "A2", "A3", "A4", "A5", "A9"},
    plain_loop={"A7"},
    thorough={"instructions"},
)
