"""The ids of items that came to their results without anybody who knew them: of the end of a job, or a lost worker.

The store writes such a result, and does not know what an item is; so its id is looked up when it is read.
"""

from __future__ import annotations

import msgspec

from ..store import WORKER_LOST, ItemResult, JobStore, Outcome, Page
from .stored import stored_id

_BY_THE_STORE = (Outcome.CANCELLED, Outcome.EXPIRED, Outcome.UNKNOWN)


async def named(store: JobStore, job_id: str, page: Page) -> Page:
    """A page with the ids of all its items that have one. Raises `Gone`."""
    nameless = [each.seq for each in page.results if each.custom_id is None and _is_by_the_store(each)]
    if not nameless:
        return page
    ids = {seq: stored_id(item) for seq, item in (await store.inputs.some(job_id, nameless)).items()}
    results = [
        msgspec.structs.replace(each, custom_id=ids[each.seq]) if each.seq in ids else each for each in page.results
    ]
    return msgspec.structs.replace(page, results=tuple(results))


def _is_by_the_store(result: ItemResult) -> bool:
    return result.outcome in _BY_THE_STORE or result.failure == WORKER_LOST
