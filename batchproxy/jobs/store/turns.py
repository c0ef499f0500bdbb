"""Whose turn it is: chunks are given out evenly between owners, and then between the jobs of each.

Knows: who has how many, priorities. Must not know: tables, leases.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from .states import JobState


class Candidate(NamedTuple):
    """An open job with something to claim."""

    id: str
    owner: str
    state: JobState
    priority: int


def shares(jobs: Collection[Candidate], held: dict[tuple[str, str], int], want: int) -> Counter[str]:
    """How many chunks of each job to take: one by one, from the owner that has least, and there from such a job."""
    owners: Counter[str] = Counter()
    for (owner, _), n in held.items():
        owners[owner] += n
    queues: dict[str, list[tuple[int, int, str]]] = {}
    for each in jobs:
        entry = (-each.priority, held.get((each.owner, each.id), 0), each.id)
        queues.setdefault(each.owner, []).append(entry)
    for queue in queues.values():
        heapq.heapify(queue)
    turns = [(owners[owner], queue[0][2], owner) for owner, queue in queues.items()]
    heapq.heapify(turns)
    taken: Counter[str] = Counter()
    for _ in range(want):
        n, _, owner = heapq.heappop(turns)
        priority, of_job, job_id = queues[owner][0]
        taken[job_id] += 1
        heapq.heapreplace(queues[owner], (priority, of_job + 1, job_id))
        heapq.heappush(turns, (n + 1, queues[owner][0][2], owner))
    return taken
