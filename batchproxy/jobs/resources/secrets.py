"""What a job keeps of its caller's credentials: encrypted, or not at all.

The headers that items inherit go into the secret of the job, which the store drops when the job ends. Items that bring
credentials of their own have those headers encrypted with a key that lies in that secret, and so is gone with it.

AES-256-GCM (NIST SP 800-38D), by `cryptography`; a sealed text is a version, which key, 12 random bytes, the rest.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ...engine.errors import SettingError
from ...engine.headers import normalised
from ...engine.model import Headers
from ..webhooks import SEALED
from .problems import Unprocessable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "BATCHPROXY_JOBS_KEY"
_PLAIN, _SEALED = b"\x00", b"\x01"
_KEY_ID, _NONCE = 4, 12

CREDENTIALS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "apikey",
        "x-auth-token",
        "x-access-token",
        "x-amz-security-token",
        "x-csrf-token",
        "x-xsrf-token",
        "x-session-token",
        "x-vault-token",
        "private-token",
    }
)
"""Headers of an item that are encrypted; without a key, they are refused."""

_HARMLESS = frozenset(
    {
        "accept-language",
        "baggage",
        "cache-control",
        "cdn-loop",
        "dnt",
        "forwarded",
        "from",
        "host",
        "origin",
        "pragma",
        "priority",
        "referer",
        "save-data",
        "traceparent",
        "tracestate",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
        "x-correlation-id",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "x-real-ip",
        "x-request-id",
        "x-requested-with",
    }
)
"""Inherited headers that are no credentials, for sure; of others nobody knows."""


class CannotOpen(Exception):
    """It was sealed with another key, for somebody else, or it is damaged."""


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """What a job must not lose before it ends, and must not keep afterwards. `key` is that of its items."""

    inherited: Headers = ()
    key: bytes = b""


_decode = msgspec.msgpack.Decoder(Secret).decode
_decode_headers = msgspec.msgpack.Decoder(Headers).decode
_encode = msgspec.msgpack.encode


class Box:
    """Seals with the first key, opens with any: so keys can be changed. `about` must be the same at both ends."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys: dict[bytes, AESGCM] = {hashlib.sha256(key).digest()[:_KEY_ID]: _cipher(key) for key in keys}

    def __repr__(self) -> str:
        return f"Box({len(self._keys)} keys)"

    def seal(self, content: bytes, about: bytes) -> bytes:
        key_id, cipher = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(_NONCE)
        return key_id + nonce + cipher.encrypt(nonce, content, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Raises `CannotOpen`."""
        from cryptography.exceptions import InvalidTag

        cipher = self._keys.get(sealed[:_KEY_ID])
        if cipher is None:
            raise CannotOpen("There is no key for it.")
        nonce, content = sealed[_KEY_ID : _KEY_ID + _NONCE], sealed[_KEY_ID + _NONCE :]
        try:
            return cipher.decrypt(nonce, content, about)
        except (InvalidTag, ValueError):
            raise CannotOpen("It is damaged, or belongs to somebody else.") from None


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise SettingError("jobs.secret_key_file", "…", "expected the package `cryptography` to be installed") from None
    return AESGCM(key)


def box_of(file: str | None, *, environment: str | None = None) -> Box | None:
    """The box whose keys are in a file, or else in the environment; None if there are none. Raises `SettingError`."""
    if file is not None:
        try:
            text = Path(file).read_text("ascii")
        except (OSError, UnicodeDecodeError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else "it is not text"
            raise SettingError("jobs.secret_key_file", file, f"expected a file with a key: {reason}") from None
    else:
        text = (os.environ.get(VARIABLE, "") if environment is None else environment).strip()
        if not text:
            return None
    keys = [_key(each) for each in text.replace(",", " ").split()]
    if not keys or None in keys:
        # The value itself is shown to nobody.
        name = VARIABLE if file is None else "jobs.secret_key_file"
        expected = (
            "expected 32 bytes in base64, such as `openssl rand -base64 32` prints; older keys behind the new one"
        )
        raise SettingError(name, "…" if file is None else file, expected)
    return Box([key for key in keys if key is not None])


def _key(text: str) -> bytes | None:
    try:
        key = b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return None
    return key if len(key) == 32 else None


class Vault:
    """What is kept of the credentials of one endpoint's jobs. Raises `Unprocessable`, `CannotOpen`."""

    __slots__ = ("_box", "_plain")

    def __init__(self, box: Box | None, plain_headers: Collection[str] = ()) -> None:
        self._box = box
        self._plain = _HARMLESS | frozenset(map(normalised, plain_headers))

    def new_secret(self, inherited: Headers) -> Secret:
        """Raises `Unprocessable` if there is no key, and it may hold a credential."""
        if self._box is None:
            names = [name.decode("latin-1") for name, _ in inherited]
            doubtful = next((name for name in names if not self._is_harmless(normalised(name))), None)
            if doubtful is not None:
                raise _no_key(doubtful[:64])
            return Secret(inherited)
        return Secret(inherited, secrets.token_bytes(32))

    def _is_harmless(self, name: str) -> bool:
        return name in self._plain or name.startswith("sec-")

    def sealed(self, secret: Secret, owner: str) -> bytes:
        content = _encode(secret)
        if self._box is None:
            return _PLAIN + content
        return _SEALED + self._box.seal(content, owner.encode("utf-8", "surrogatepass"))

    def sealed_url(self, url: str, owner: str) -> str:
        """A URL that may be as good as a password; as it is, if there is no key."""
        if self._box is None:
            return url
        return SEALED + urlsafe_b64encode(self._box.seal(url.encode(), _about_url(owner))).decode("ascii")

    def opened_url(self, text: str, owner: str) -> str:
        """Also of one that was never encrypted. Raises `CannotOpen`."""
        if not text.startswith(SEALED):
            return text
        if self._box is None:
            raise CannotOpen("There is no key for it.")
        try:
            return self._box.open(urlsafe_b64decode(text.removeprefix(SEALED)), _about_url(owner)).decode()
        except ValueError:
            raise CannotOpen("It is damaged.") from None

    def opened(self, sealed: bytes | None, owner: str) -> Secret:
        if not sealed:
            raise CannotOpen("It is not there any more.")
        if sealed[:1] == _PLAIN:
            return _decode(sealed[1:])
        if self._box is None:
            raise CannotOpen("There is no key for it.")
        return _decode(self._box.open(sealed[1:], owner.encode("utf-8", "surrogatepass")))


def _about_url(owner: str) -> bytes:
    return b"url " + owner.encode("utf-8", "surrogatepass")


def has_credentials(headers: Headers) -> bool:
    return any(normalised(name.decode("latin-1")) in CREDENTIALS for name, _ in headers)


def sealed_headers(headers: Headers, secret: Secret) -> bytes:
    """An item's own headers, for as long as its job has its secret. Raises `Unprocessable` if there is no key."""
    if not secret.key:
        name = next(name for name, _ in headers if normalised(name.decode("latin-1")) in CREDENTIALS)
        raise _no_key(name.decode("latin-1"))
    return Box([secret.key]).seal(_encode(headers), b"item")


def opened_headers(sealed: bytes, secret: Secret) -> Headers:
    """Raises `CannotOpen`."""
    if not secret.key:
        raise CannotOpen("There is no key for it.")
    return _decode_headers(Box([secret.key]).open(sealed, b"item"))


def _no_key(name: str) -> Unprocessable:
    return Unprocessable(
        f"The job would keep the header `{name}`, which may be a credential, and the server has no key to encrypt it"
        " with.",
        code="secrets_unavailable",
    )
