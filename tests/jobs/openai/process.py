"""The whole process in front of an API, as the example for it says.

Knows: the example, and what differs on a machine for tests. Must not know: what is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openai import OpenAI

from tests.faults.whole import Whole, whole
from tests.jobs.resources.site import KEY
from tests.programs import ROOT
from tests.serving import PATIENCE, serve

from .api import Api

EXAMPLE = (ROOT / "config" / "examples" / "openai.yaml").read_text("utf-8")


@contextmanager
def running(folder: Path, config: str = EXAMPLE) -> Iterator[tuple[Whole, Api]]:
    api = Api()
    with serve(api, access_log=False, lifespan="off") as server:
        variables = {
            "MODELS_URL": server.url,
            "STATE_DIRECTORY": str(folder),
            "BATCHPROXY_JOBS_KEY": KEY,
            "BATCHPROXY_SERVER__WATCH": "false",
        }
        try:
            with whole(folder, config, variables=variables) as process:
                yield process, api
        finally:
            api.release.set()


@contextmanager
def client(process: Whole, key: str = "sk-ann") -> Iterator[OpenAI]:
    url = f"{process.server.url}/v1"
    with OpenAI(base_url=url, api_key=key, max_retries=0, timeout=PATIENCE) as made:
        yield made
