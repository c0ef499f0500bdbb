"""The work on durable jobs: in as many processes as there are, each with a `JobWorker`.

Knows: leases, the engine, ASGI. Must not know: wire formats, HTTP resources.

    async with opened(StoreSettings(url=…)) as store, JobWorker(store, [kind], WorkSettings()):
        …                                              # until left; then what is in work is handed over

A `JobKind` says what the items of its jobs are. An item goes into the app as an item of a batch does, and holds its
place until what became of it is committed; so at most `concurrency` items are done again after a crash.
"""

from __future__ import annotations

from ...engine.model import Delivery
from .kinds import Failed, Finish, JobBatch, JobKind, Unready, connection
from .settings import WorkSettings
from .worker import JobWorker

__all__ = ["Delivery", "Failed", "Finish", "JobBatch", "JobKind", "JobWorker", "Unready", "WorkSettings", "connection"]
