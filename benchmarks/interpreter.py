"""What items cost in process under the interpreter that runs this: `python -m benchmarks.interpreter`.

Each line that comes, `APP FORM COUNT`, is measured, and answered with the CPU seconds of an item. Knows: the apps and
how they are called. Must not know: which interpreters are compared.
"""

import asyncio
import sys

import uvloop

from batchproxy import BatchMiddleware
from benchmarks.apps import App, pure, starlette
from benchmarks.driver import bare_cost, batch_cost, same_answers

APPS: dict[str, App] = {"pure": pure, "Starlette": starlette()}
BATCHING = {name: BatchMiddleware(app) for name, app in APPS.items()}


async def cost(name: str, form: str, count: int) -> float:
    """CPU seconds of an item: alone, or in a batch of 100."""
    if form == "bare":
        return await bare_cost(APPS[name], count)
    return await batch_cost(BATCHING[name], 100, count)


async def checked() -> None:
    """Refuses to measure what answers something else in a batch."""
    for name, app in APPS.items():
        await same_answers(app, BATCHING[name], [100])


def main() -> None:
    """Until there is nothing more to measure."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(checked())
        for line in sys.stdin:
            name, form, count = line.split()
            print(runner.run(cost(name, form, int(count))), flush=True)


if __name__ == "__main__":
    main()
