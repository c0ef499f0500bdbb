"""Who owns a job: whoever a request says it comes from, by a rule that the settings choose.

An owner is text that stands for a principal and nothing else; credentials are hashed, and never kept.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ...engine.errors import SettingError
from ...engine.headers import is_token
from ...engine.model import Scope
from .problems import NoPrincipal

FindPrincipal: TypeAlias = Callable[[Scope], "str | Awaitable[str | None] | None"]
"""Says from the ASGI scope of a request who sent it; None if that is nobody in particular."""

CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")
"""The headers whose hash is the principal by default."""
_LONGEST = 200
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")
_EXPECTED = "expected `credential`, `header:NAME`, `cookie:NAME`, or a function of the ASGI scope"


class Owners:
    """`of` says whose a job is. Raises `SettingError`."""

    def __init__(self, principal: str | FindPrincipal, *, anonymous: bool) -> None:
        self._anonymous = anonymous
        self._find = _finder(principal)

    async def of(self, scope: Scope) -> str:
        """Raises `NoPrincipal`."""
        found = self._find(scope)
        owner = await found if inspect.isawaitable(found) else found
        if owner is not None and not isinstance(owner, str):
            raise TypeError(f"A principal is a string or None; the function returned {type(owner).__name__}.")
        if owner:
            # What a function returns may be more than a database takes for text. Nothing else is changed: whoever
            # has another name after an upgrade has lost his jobs.
            is_storable = len(owner) <= _LONGEST and not _UNSTORABLE.search(owner)
            return owner if is_storable else f"long:{_digest(owner.encode('utf-8', 'surrogatepass'))}"
        if self._anonymous:
            return "anonymous"
        raise NoPrincipal("Nothing in the request says whose the job is; send it with the credentials of the API.")


def _finder(principal: str | FindPrincipal) -> FindPrincipal:
    if callable(principal):
        given = principal

        async def own(scope: Scope) -> str | None:
            found = given(scope)
            return _marked("own", await found if inspect.isawaitable(found) else found)

        return own
    if not isinstance(principal, str):
        raise SettingError("jobs.principal", principal, _EXPECTED)
    if principal == "credential":
        return _credential
    how, _, name = principal.partition(":")
    if how not in ("header", "cookie") or not is_token(name):
        raise SettingError("jobs.principal", principal, _EXPECTED)
    if how == "header":
        field = name.lower().encode("ascii")
        return lambda scope: _marked("header", _header(scope, field))
    return lambda scope: _cookie(scope, name)


def _marked(how: str, found: str | None) -> str | None:
    if found is not None and not isinstance(found, str):
        raise TypeError(f"A principal is a string or None; the function returned {type(found).__name__}.")
    return f"{how}:{found}" if found else None


def _credential(scope: Scope) -> str | None:
    """All credentials together, so that one more or one less is somebody else."""
    found = [(name, value) for name, value in scope["headers"] if name in CREDENTIALS and value]
    if not found:
        return None
    return f"credential:{_digest(*(part for pair in sorted(found) for part in pair))}"


def _header(scope: Scope, field: bytes) -> str | None:
    """One that came twice says nothing: a client may have put its own beside the one that is to be believed."""
    values = [value for name, value in scope["headers"] if name == field]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def _cookie(scope: Scope, name: str) -> str | None:
    cookies = b";".join(value for field, value in scope["headers"] if field == b"cookie").decode("latin-1")
    values = re.findall(rf"(?:^|;)\s*{re.escape(name)}=([^;]*)", cookies)
    return f"cookie:{_digest(values[0].strip().encode('latin-1'))}" if len(values) == 1 and values[0].strip() else None


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256(b"batchproxy principal")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
