"""What a webhook says, and where it goes, as it lies in the outbox: names of secrets, never secrets.

Knows: jobs and messages. Must not know: sockets, signatures, tries.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec

from ..store import Job, JobState, Message, Taken
from .guard import WebhookRefused, destination
from .settings import WebhookSettings

_PREFIX = "batch.job."
SEALED = "sealed:"
"""What a URL begins with that lies in the outbox encrypted: only who has put it there knows how to open it."""


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`secret` is a name in the settings. Without a `url` it is the one that they say who sends is to tell."""

    url: str | None = None
    secret: str


class _Data(msgspec.Struct, frozen=True):
    id: str
    kind: str
    state: str


class _Payload(msgspec.Struct, frozen=True):
    """Thin: who is told asks for the rest, with credentials of his own."""

    type: str
    timestamp: str
    data: _Data


def checked(url: str, secret: str, settings: WebhookSettings) -> None:
    """Whether something may ever be sent there, as far as can be told without asking anybody. Raises `WebhookRefused`.

    Where the name of its host leads is judged at each try.
    """
    destination(url, settings)
    if secret not in settings.secrets:
        raise WebhookRefused("There is no secret of this name.")


def message_for(
    job: Job, url: str | None, secret: str, *, state: JobState | None = None, name: str = "0", at: float | None = None
) -> Message:
    """Tells the end of a job: `batch.job.completed`, `cancelled`, `expired` or `failed`.

    With None it goes to the URL that the sender is given: what is in settings already is not to lie in the store.
    The end may be one that is being committed along with this: that which the job is on its way to, or `state`. Of
    several messages about one end each has a `name`. `at` is when it was, in seconds of the epoch; None for now.
    """
    end = state or (job.state if job.is_terminal else job.ending)
    if end is None:
        raise ValueError(f"The job {job.id} is {job.state}, and has no end that could be told.")
    when = datetime.fromtimestamp(time.time() if at is None else at, UTC)
    payload = _Payload(
        type=f"{_PREFIX}{end}",
        timestamp=when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        data=_Data(id=job.id, kind=job.kind, state=end),
    )
    return Message(
        event=payload.type,
        name=name,
        target=msgspec.json.encode(Target(url=url, secret=secret)),
        payload=msgspec.json.encode(payload),
    )


def target_of(message: Taken) -> Target:
    """Raises `WebhookRefused` for a message that is no webhook."""
    try:
        return msgspec.json.decode(message.target, type=Target)
    except msgspec.MsgspecError as fault:
        raise WebhookRefused(f"The target in the outbox is not that of a webhook: {fault}") from None


def webhook_id(message: Taken) -> str:
    """The same at every try. It is signed with full stops around it, so it has none itself."""
    return message.id.replace(".", "_")
