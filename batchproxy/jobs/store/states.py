"""The states of a job, and which may follow which.

    storing ─▶ queued ──────────────▶ running ─▶ finalizing ─▶ completed
          └──▶ validating ─▶ queued ─┘  │ │         ▲   └────▶ expired
                    └─────────────────▶ │ └─────────┘
                    └─▶ failed          └─▶ cancelling ──────▶ cancelled

A job that is `storing` is seen by nobody but the submission that fills it. A deadline leads from every open state to
`finalizing`; a cancellation from every one before it to `cancelling`. From both of them a job is `failed` if its end
cannot be made. Terminal states never change again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    STORING = "storing"
    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    FINALIZING = "finalizing"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.STORING: frozenset({JobState.VALIDATING, JobState.QUEUED}),
    JobState.VALIDATING: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLING, JobState.FINALIZING}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLING, JobState.FINALIZING}),
    JobState.RUNNING: frozenset({JobState.CANCELLING, JobState.FINALIZING}),
    JobState.FINALIZING: frozenset({JobState.COMPLETED, JobState.EXPIRED, JobState.FAILED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.FAILED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.EXPIRED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
OPEN = frozenset(JobState) - TERMINAL
"""What counts against the quota of open jobs; `storing` is among them."""
STOPPABLE = frozenset({JobState.VALIDATING, JobState.QUEUED, JobState.RUNNING})
"""Where a cancellation or a deadline still changes the course."""
STOPPING = frozenset({JobState.FINALIZING, JobState.CANCELLING})


def before(state: JobState) -> list[JobState]:
    """The states that `state` may follow, for the condition of an UPDATE."""
    return [earlier for earlier, following in TRANSITIONS.items() if state in following]
