"""Runs the whole process under mixed load and faults for a long time, and reports whether it keeps its size.

`python benchmarks/soak.py --minutes 60`: batches and single requests, most of them good, some to an upstream that
resets, truncates, stalls or closes, some from clients that leave; a reload every few seconds. At the end memory,
descriptors and answers are compared with those after the warm-up. Exit code 1 if memory or descriptors grew, or if an
answer was missing.

Knows: the command line of the product, and the upstream's tricks. Must not know: the inside of the package.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository's root, installed or not

from benchmarks.server import Server, started

GOOD = ["/plain/1", "/chunked/1", "/close/1", "/slow/1", "/large/1"]
BAD = ["/reset/1", "/midhead/1", "/midbody/1", "/hang/1", "/../x"]
CLIENTS = 16
SAMPLE_SECONDS = 5.0
MOST_GROWTH = 1.10
MOST_MORE_FILES = 20

CONFIG = """
server: {{listen: "127.0.0.1:0", admin: "unix:{folder}/admin.sock", log: {{access: false}}}}
upstreams:
  flaky:
    url: {upstream}
    max_in_flight: 200
    timeouts: {{first_byte: 1s}}
    circuit_breaker: {{consecutive_failures: 1000000}}
endpoints:
  - {{path: /batch, item_timeout: 2s, batch_timeout: 5s}}
# {stamp}
"""


@dataclass
class Ledger:
    """What was asked, what came, and how the process looked meanwhile."""

    outcomes: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


async def send_batches(client: httpx.AsyncClient, ledger: Ledger, until: float) -> None:
    """One client: batch after batch, buffered or streamed; now and then it leaves in the middle, or sends one alone."""
    while time.monotonic() < until:
        paths = random.choices(GOOD, k=random.randint(1, 30)) + random.choices(BAD, k=random.choice((0, 0, 1, 3)))
        stream = random.random() < 0.3
        headers = {"accept": "application/x-ndjson"} if stream else {}
        body = {"requests": [{"path": path} for path in paths]}
        leaves = random.random() < 0.05
        try:
            async with asyncio.timeout(0.05 if leaves else 30):
                if random.random() < 0.2:
                    answer = await client.get("/plain/alone")
                    ledger.outcomes[f"alone {answer.status_code}"] += 1
                    continue
                answer = await client.post("/batch", json=body, headers=headers)
        except TimeoutError:
            ledger.outcomes["left" if leaves else "timeout"] += 1
            ledger.missing += not leaves
            continue
        except httpx.TransportError as error:
            ledger.outcomes[type(error).__name__] += 1
            ledger.missing += 1
            continue
        _count(answer, len(paths), stream, ledger)


def _count(answer: httpx.Response, expected: int, stream: bool, ledger: Ledger) -> None:
    if answer.status_code != 200:
        ledger.outcomes[f"batch {answer.status_code}"] += 1
        ledger.missing += answer.status_code != 503
        return
    lines = answer.text.splitlines()
    entries = [json.loads(line) for line in lines[:-1]] if stream else answer.json()["responses"]
    ledger.missing += len(entries) != expected
    ledger.outcomes.update(f"item {entry.get('error', entry['status'])}" for entry in entries)


async def observe(server: Server, ledger: Ledger, until: float) -> None:
    """Samples memory and descriptors."""
    while time.monotonic() < until:
        await asyncio.sleep(SAMPLE_SECONDS)
        ledger.memory.append(server.resident_memory() / 2**20)
        ledger.files.append(server.open_files())


async def reload_often(server: Server, config: Path, text: str, until: float) -> None:
    """Another generation every few seconds, now and then a bad one."""
    number = 0
    while time.monotonic() < until:
        await asyncio.sleep(7)
        number += 1
        changed = text.replace("5s}", f"{5 + number % 3}s}}") + ("\nbroken: [" if number % 5 == 0 else "")
        await asyncio.to_thread(config.write_text, changed)
        os.kill(server.process_id, signal.SIGHUP)


async def soak(minutes: float) -> Ledger:
    """The whole run."""
    ledger = Ledger()
    with TemporaryDirectory() as folder, started([sys.executable, "-m", "benchmarks.flaky"]) as upstream:
        config = Path(folder) / "batchproxy.yaml"
        url = f"http://127.0.0.1:{upstream.port}"
        text = CONFIG.format(folder=folder, upstream=url, stamp=time.time())
        config.write_text(text)
        command = [sys.executable, "-m", "batchproxy", "serve", "--config", str(config)]
        with started(command) as server:
            until = time.monotonic() + 60 * minutes
            limits = httpx.Limits(max_connections=CLIENTS)
            base = f"http://127.0.0.1:{server.port}"
            async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60, trust_env=False) as client:
                clients = [send_batches(client, ledger, until) for _ in range(CLIENTS)]
                await asyncio.gather(
                    observe(server, ledger, until), reload_often(server, config, text, until), *clients
                )
    return ledger


def reported(ledger: Ledger) -> bool:
    """Prints what was seen; whether all is well."""
    third = max(1, len(ledger.memory) // 3)
    early, late = median(ledger.memory[third : 2 * third] or ledger.memory), median(ledger.memory[-third:])
    files = median(ledger.files[third : 2 * third] or ledger.files), median(ledger.files[-third:])
    for outcome, count in sorted(ledger.outcomes.items()):
        print(f"{count:10} {outcome}")
    print(f"memory: {early:.1f} MiB in the second third, {late:.1f} MiB in the last ({late / early:.3f})")
    print(f"descriptors: {files[0]:.0f}, {files[1]:.0f}")
    print(f"missing answers: {ledger.missing}")
    return late <= early * MOST_GROWTH and files[1] <= files[0] + MOST_MORE_FILES and not ledger.missing


def main() -> None:
    """Soaks as long as was asked for."""
    parser = argparse.ArgumentParser(description="Mixed load and faults for a long time; reports growth.")
    parser.add_argument("--minutes", type=float, default=60)
    sys.exit(not reported(asyncio.run(soak(parser.parse_args().minutes))))


if __name__ == "__main__":
    main()
