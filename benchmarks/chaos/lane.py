"""Where one round after another runs: a process with a PostgreSQL of its own, so that several run at once.

`python -m benchmarks.chaos.lane SEED DATABASE …` reads numbers of rounds, a line each, and writes their reports. At the
end of its input it stops, amid a round as well, and leaves nothing: so it does if who started it is killed.

Knows: how to run a round, and to end. Must not know: other lanes, what is told of rounds.
"""

import asyncio
import base64
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from benchmarks.chaos.drawing import POSTGRESQL, drawn
from benchmarks.chaos.running import Report, run
from tests.jobs.postgresql import Cluster, cluster


def packed(report: Report) -> bytes:
    """A line."""
    return base64.b64encode(pickle.dumps(report)) + b"\n"


def unpacked(line: bytes) -> Report:
    report: Report = pickle.loads(base64.b64decode(line))
    return report


@contextmanager
def servers(names: Sequence[str]) -> Iterator[Cluster | None]:
    """A private PostgreSQL that commits as it does for everybody, if it is needed."""
    if POSTGRESQL not in names:
        yield None
        return
    with cluster(()) as made:
        yield made


async def serve(seed: int, names: Sequence[str], reports: BinaryIO) -> None:
    """Until there are no more numbers."""
    numbers = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(numbers), sys.stdin)
    with servers(names) as server:
        asked = asyncio.ensure_future(numbers.readline())
        while line := await asked:
            asked = asyncio.ensure_future(numbers.readline())
            running = asyncio.ensure_future(run(drawn(seed, int(line), names), server))
            await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                reports.write(packed(running.result()))
                reports.flush()
            else:
                running.cancel()
                await asyncio.wait({running})


def main() -> None:
    """Whatever else is printed goes where errors go."""
    with os.fdopen(os.dup(1), "wb") as reports:
        os.dup2(2, 1)
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2:], reports))


if __name__ == "__main__":
    main()
