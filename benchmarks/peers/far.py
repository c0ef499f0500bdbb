"""The relay as a process of its own, so that neither the client nor the server pays for the distance.

`python -m benchmarks.peers.far PORT SECONDS` leads to the port, so many seconds away, and tells its own address.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.apps import ROOT
from benchmarks.relay import relayed
from benchmarks.server import started


@contextmanager
def far(port: int, round_trip: float) -> Iterator[int]:
    """A port that leads to `port`, `round_trip` seconds away; the port itself if that is no distance."""
    if not round_trip:
        yield port
        return
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.peers.far", str(port), str(round_trip)]
    with started(command, {"PYTHONPATH": path}) as relay:
        yield relay.port


async def main() -> None:
    """Relays until the process is ended."""
    async with relayed(int(sys.argv[1]), float(sys.argv[2])) as port:
        print(f"running on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
