"""Webhooks: tells others that a job has ended, by the Standard Webhooks specification 1.0, out of the store's outbox.

Knows: the outbox, signatures, where a request may go. Must not know: how items run, who asked for a webhook.

    settings = WebhookSettings(secrets={"default": ["env:WEBHOOK_SECRET"]})

What a caller asks for is checked when a job is submitted; when it ends, the message is written along with that:

    checked(url, "default", settings)                                      # raises `WebhookRefused`
    await store.ending.finish(lease, messages=[message_for(job, url, "default")])

Any number of processes send, each message at least once, with the same `webhook-id` at every try:

    async with WebhookSender(store, settings):
        …
"""

from __future__ import annotations

from .delivery import Undelivered
from .guard import WebhookRefused
from .messages import SEALED, checked, message_for
from .sender import WebhookSender
from .settings import WebhookSettings

__all__ = [
    "SEALED",
    "Undelivered",
    "WebhookRefused",
    "WebhookSender",
    "WebhookSettings",
    "checked",
    "message_for",
]
