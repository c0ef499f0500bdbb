"""Jobs over HTTP: batches that are submitted now, worked on later, and looked at whenever it suits.

Knows: requests and answers, whose a job is, what is secret. Must not know: how the store keeps jobs, how items are run.

    BatchMiddleware(app, jobs=JobsSettings(store=StoreSettings(url="sqlite:///state/jobs.db")))

    POST   /batch                     with `Prefer: respond-async`: 202, and where the job is
    GET    /batch/jobs                those of whoever asks
    GET    /batch/jobs/{id}           state and counts; waits with `Prefer: wait=N`
    GET    /batch/jobs/{id}/events    progress, as server-sent events
    GET    /batch/jobs/{id}/results   what is there so far, as pages, as lines, until the end
    POST   /batch/jobs/{id}/cancel    stops it
    DELETE /batch/jobs/{id}           stops it, or removes it if it has ended
    POST   /batch/jobs/{id}/retry     what failed, as a new job

A job belongs to the principal that sent it; for all others it does not exist.
"""

from __future__ import annotations

from .native import NativeKind, kind_name
from .principal import FindPrincipal
from .resources import JobResources
from .secrets import Box, Vault, box_of
from .settings import JobsSettings

__all__ = ["Box", "FindPrincipal", "JobResources", "JobsSettings", "NativeKind", "Vault", "box_of", "kind_name"]
