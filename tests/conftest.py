"""Settings of the test run that have no place in pyproject.toml."""

import gc
import signal

from hypothesis import HealthCheck, settings

# No test may depend on the speed of the machine.
settings.register_profile("batchproxy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("batchproxy")

# What a shell runs in its background ignores SIGINT, and so would all that tests start, and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()


def pytest_collection_finish() -> None:
    """All modules are there now, and stay: the collector, which many tests call, need not look at them again."""
    gc.enable()
    gc.collect()
    gc.freeze()
