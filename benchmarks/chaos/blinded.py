"""`python -m benchmarks.chaos.blinded …` is `python -m batchproxy …` whose worker takes its leases for held,
however long it was frozen: nothing but the store keeps it from what is somebody else's by then.
"""

import math
import sys
import time
from collections.abc import Collection
from runpy import run_module
from typing import Any

from batchproxy.jobs.store.claims import Claims
from batchproxy.jobs.store.model import Claim, Lease, Renewal
from batchproxy.jobs.working import holds

SAYS = "takes leases for held that are over"
_LONG_AGO = 0.9
"""In leases: whoever was not frozen has renewed them by then."""


class Blind(Claims):
    """Leases are renewed as always, but those for which it is too late: of these nobody is asked."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._renewed_at: dict[Lease, float] = {}

    async def claim(self, *said: Any, **more: Any) -> list[Claim]:
        asked = time.monotonic()
        claims = await super().claim(*said, **more)
        self._renewed_at.update((claim.lease, asked) for claim in claims)
        return claims

    async def renew(self, leases: Collection[Lease]) -> Renewal:
        asked = time.monotonic()
        late = asked - _LONG_AGO * self._database.settings.lease
        over = {lease for lease in leases if self._renewed_at[lease] < late}
        if over:
            print(SAYS, file=sys.stderr, flush=True)
        answer = await super().renew(set(leases) - over)
        self._renewed_at.update(dict.fromkeys(answer.renewed, asked))
        return Renewal(answer.renewed | over, answer.stopping)


def main() -> None:
    from batchproxy.jobs.store import store

    vars(store)["Claims"] = Blind
    holds._USABLE = math.inf
    run_module("batchproxy", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
