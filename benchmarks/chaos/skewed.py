"""`python -m benchmarks.chaos.skewed SECONDS …` is `python -m batchproxy …` by a wall clock that is wrong."""

import sys
import time
from runpy import run_module


def main() -> None:
    """Sets the clock of this process before anybody has looked at it."""
    ahead, right, right_ns = float(sys.argv[1]), time.time, time.time_ns
    time.time = lambda: right() + ahead
    time.time_ns = lambda: right_ns() + int(ahead * 1e9)
    del sys.argv[1]
    run_module("batchproxy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
