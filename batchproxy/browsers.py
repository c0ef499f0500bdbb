"""Pages in browsers: which may send a batch, and what the browser is told (Fetch standard, CORS protocol).

The JSON content type forces a preflight, which is the first defence; `Sec-Fetch-Site` and `Origin` are the second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from .engine.errors import Refused
from .engine.headers import is_token
from .engine.model import Headers

_EXPOSED = b"X-Request-ID, Preference-Applied, Retry-After, Allow"


def is_page(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page sent this: browsers do not let pages leave these headers out."""
    return b"origin" in headers or any([name.startswith(b"sec-fetch-") for name in headers])


def check_site(headers: Mapping[bytes, bytes], trusted: Collection[str]) -> None:
    """Raises `Refused` for a page of another site that is not trusted."""
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1") in trusted:
        return
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        foreign = site in (b"cross-site", b"same-site")
    else:
        foreign = origin is not None and not _same_host(origin, headers.get(b"host", b""))
    if foreign:
        raise Refused(
            "The batch comes from a page of another origin, which is not among the trusted ones.", code="cross_site"
        )


def _same_host(origin: bytes, host: bytes) -> bool:
    """An `Origin` leaves out the default port of its scheme, as `Host` does. Its scheme may be a front proxy's."""
    try:
        parts = urlsplit(origin.decode("latin-1"))
    except ValueError:
        return False
    return parts.netloc != "" and parts.netloc.lower() == host.decode("latin-1").lower()


def cors(headers: Mapping[bytes, bytes], trusted: Collection[str]) -> Headers:
    """The headers that let a page of a trusted origin read the answer."""
    if not trusted:
        return ()
    origin = headers.get(b"origin", b"")
    if origin.decode("latin-1") not in trusted:
        return ((b"vary", b"Origin"),)
    return (
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    )


def is_preflight(method: str, headers: Mapping[bytes, bytes]) -> bool:
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


def preflight(headers: Mapping[bytes, bytes]) -> Headers:
    """What a trusted page may send: POST, and the headers that it asks for."""
    asked = headers.get(b"access-control-request-headers", b"").decode("latin-1").split(",")
    names = [name.strip().lower() for name in asked if is_token(name.strip())]
    return (
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", ", ".join(names or ["content-type"]).encode("latin-1")),
        (b"access-control-max-age", b"600"),
    )
