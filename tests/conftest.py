"""Settings of the test run that have no place in pyproject.toml."""

from hypothesis import settings

# No test may depend on the speed of the machine.
settings.register_profile("batchproxy", deadline=None)
settings.load_profile("batchproxy")
