"""Batches to an app with the middleware, then the same batches to an app that cannot have it, through the proxy; then a
job for that, which survives one of its workers.

Afterwards both keep serving: python -m examples.demo [--once]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from http.client import HTTPException

from examples.legacy import demo as legacy, jobs
from examples.shop import demo as shop, terminal
from examples.shop.tour import tour

FAULTS = (OSError, HTTPException, ValueError, AssertionError, legacy.Failed)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    arguments.add_argument("--once", action="store_true", help="end after the batches and the job")
    once = arguments.parse_args().once
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    try:
        with shop.served() as (process, first):
            terminal.title("1. A shop with the middleware: FastAPI and one line")
            tour(first)
            with legacy.served() as (processes, second, alone):
                terminal.title("2. An older shop behind the proxy: WSGI, and not a line of it changed")
                legacy.introduce(processes)
                tour(second)
                terminal.title("3. A job for the older shop: two workers, one of which is killed")
                jobs.tour(alone)
                if not once:
                    terminal.heading("Both shops stay open until Ctrl-C; try")
                    shop.invite(first)
                    legacy.invite(second)
                    while process.is_alive() and all(each.poll() is None for each in processes):
                        time.sleep(0.5)
                    return 1  # none of them ends of its own accord
    except KeyboardInterrupt:
        print("\nThe shops are closed.")
    except FAULTS as error:
        print(f"The demo failed: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
