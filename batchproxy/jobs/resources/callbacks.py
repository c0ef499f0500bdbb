"""Callbacks: callers who want to be told of the end of their job. What they ask for is judged at its submission.

Knows: what a caller may ask for, and which ends are told. Must not know: HTTP, how anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from ...engine.model import Callback, Options
from ..store import Job, JobState, Message
from ..webhooks import Undelivered, WebhookRefused, WebhookSettings, checked, message_for
from .problems import Unprocessable
from .secrets import CannotOpen, Vault

_PLACE = "/options/callback"
_NAME = "callback"
"""There may be another message about the same end, to somebody else."""


def accepted(options: Options, settings: WebhookSettings | None) -> Options:
    """The options, with the secret named by which a callback is signed. Raises `Unprocessable`."""
    callback = options.callback
    if callback is None:
        return options
    if settings is None:
        raise Unprocessable(
            "Nobody is told of the end of jobs here; ask for the job instead.",
            code="callbacks_unavailable",
            pointer=_PLACE,
        )
    secret = _secret(callback, settings)
    try:
        checked(callback.url, secret, settings)
    except WebhookRefused as refused:
        raise Unprocessable(str(refused), code=refused.code, pointer=f"{_PLACE}/url") from None
    return msgspec.structs.replace(options, callback=msgspec.structs.replace(callback, secret_ref=secret))


def kept(options: Options, vault: Vault, owner: str) -> Options:
    """As they lie in the store: what may be secret of a callback is encrypted, if there is a key."""
    callback = options.callback
    if callback is None:
        return options
    sealed = vault.sealed_url(callback.url, owner)
    return msgspec.structs.replace(options, callback=msgspec.structs.replace(callback, url=sealed))


def opener(vault: Vault) -> Callable[[str, str], str]:
    """How a sender opens a URL that was encrypted."""

    def opened(text: str, owner: str) -> str:
        try:
            return vault.opened_url(text, owner)
        except CannotOpen as fault:
            raise Undelivered(f"its URL cannot be opened: {fault}") from None

    return opened


def _secret(callback: Callback, settings: WebhookSettings) -> str:
    names = list(settings.secrets)
    if callback.secret_ref is None:
        if len(names) > 1:
            told = "There are several secrets; name the one that signs the message."
            raise Unprocessable(told, code=WebhookRefused.code, pointer=f"{_PLACE}/secret_ref")
        return names[0]
    if callback.secret_ref not in names:
        raise Unprocessable(
            "There is no secret of this name.", code=WebhookRefused.code, pointer=f"{_PLACE}/secret_ref"
        )
    return callback.secret_ref


def messages(job: Job, options: Options, end: JobState | None) -> Sequence[Message]:
    """What the caller is to be told of an end that is being committed."""
    callback = options.callback
    if callback is None or callback.secret_ref is None or end is None or end.value not in callback.events:
        return ()
    return (message_for(job, callback.url, callback.secret_ref, state=end, name=_NAME),)
