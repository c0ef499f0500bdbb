"""The secrets of webhooks, and signatures with them: `v1`, HMAC-SHA256 over id, timestamp and body.

Knows: where secrets lie, and how they are written. Must not know: messages, HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from ...engine.errors import SettingError
from .settings import WebhookSettings

_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64
"""The bytes of a secret."""
_MOST_SECRETS = 8
_MOST_TEXT = 4096


class Secrets:
    """The secrets that settings name, read again each time they are used. Raises `SettingError` if one is wrong now."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._references = settings.secrets
        for name in settings.secrets:
            self.of(name)

    def of(self, name: str) -> list[bytes]:
        """All secrets of a name; with each of them a message is signed. Raises `SettingError`."""
        references = self._references.get(name)
        if references is None:
            raise SettingError("secrets", name, "expected the name of a secret that is there")
        setting = f"secrets.{name}"
        found = [_secret(text, setting) for each in references for text in _read(each, setting).split()]
        if not 0 < len(found) <= _MOST_SECRETS:
            raise SettingError(setting, "…", f"expected 1 to {_MOST_SECRETS} secrets, not {len(found)}")
        return found


def signature(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """What `webhook-signature` says: a signature with each of the secrets."""
    signed = b"%b.%d.%b" % (message_id.encode("ascii"), timestamp, body)
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode("ascii") for digest in digests)


def _read(reference: str, setting: str) -> str:
    kind, _, where = reference.partition(":")
    if kind == "env":
        if where not in os.environ:
            raise SettingError(setting, reference, "expected an environment variable that is set")
        return os.environ[where]
    path = Path(where).absolute()
    try:
        with path.open("rb") as file:
            return file.read(_MOST_TEXT).decode("ascii")
    except OSError as fault:
        told = f"expected a file that can be read: {fault.strerror}; it is {path}"
        raise SettingError(setting, reference, told) from None
    except UnicodeDecodeError:
        raise SettingError(setting, reference, f"expected a file with secrets, whsec_…; it is {path}") from None


def _secret(text: str, setting: str) -> bytes:
    encoded = text.removeprefix(_PREFIX)
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if encoded == text or not _LEAST <= len(secret) <= _MOST:
        told = f"expected {_PREFIX} and {_LEAST} to {_MOST} bytes in Base64"
        raise SettingError(setting, "…", told)
    return secret
