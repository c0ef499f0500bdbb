"""A decorator for tests that are coroutines: they run on virtual time, and may leave no task behind.

Knows: `tests.protocol.virtual_time`. Must not know: what is tested.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.protocol.virtual_time import run

Given = ParamSpec("Given")


def on_virtual_time(test: Callable[Given, Coroutine[Any, Any, None]]) -> Callable[Given, None]:
    @functools.wraps(test)
    def ordinary(*args: Given.args, **named: Given.kwargs) -> None:
        run(test(*args, **named))

    return ordinary
