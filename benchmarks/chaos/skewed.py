"""`python -m benchmarks.chaos.skewed SECONDS …` is `python -m batchproxy …` by a wall clock that is wrong."""

import sys
import time
from runpy import run_module


def main() -> None:
    """Sets the clock of this process before anybody has looked at it."""
    ahead, right = float(sys.argv[1]), time.time
    time.time = lambda: right() + ahead
    del sys.argv[1]
    run_module("batchproxy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
