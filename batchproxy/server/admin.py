"""The admin listener: health, a read-only view of what runs, and the reload.

Knows: ASGI. Must not know: how requests are served. Health answers need no token, and cost next to nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec

from ..engine.model import Receive, Scope, Send
from ..engine.routing import without_port
from .config import shown
from .reload import Reloader, Verdict

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", ""})
_HEALTH = frozenset({"/livez", "/readyz", "/startupz", "/healthz"})


class Health(Protocol):
    """What the life of the process knows of itself."""

    is_started: bool
    is_draining: bool

    async def unavailable(self) -> set[str]: ...

    async def is_serving(self) -> bool: ...

    async def jobs(self) -> str | None: ...


class Answer(msgspec.Struct, frozen=True):
    status: int
    content: bytes
    media_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Admin:
    """An ASGI app. `hosts` are values of `Host` beside loopback names; `token` is None where none is asked for."""

    def __init__(
        self,
        health: Health,
        reloader: Reloader,
        state: Callable[[], Awaitable[list[dict[str, Any]]]],
        *,
        hosts: Collection[str] = (),
        token: str | None = None,
        any_host: bool = False,
    ) -> None:
        self._health = health
        self._reloader = reloader
        self._state = state
        self._hosts = _LOOPBACK_NAMES | {*hosts}
        self._any_host = any_host
        self._token = token
        self._pages: Mapping[tuple[str, str], Callable[[bool], Awaitable[Answer]]] = {
            ("GET", "/livez"): self._livez,
            ("GET", "/readyz"): self._readyz,
            ("GET", "/healthz"): self._readyz,
            ("GET", "/startupz"): self._startupz,
            ("GET", "/-/config"): self._config,
            ("GET", "/-/upstreams"): self._upstreams,
            ("POST", "/-/reload"): self._reload,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = await self._answer(scope)
        headers = [
            (b"content-type", answer.media_type),
            (b"content-length", b"%d" % len(answer.content)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-config-digest", self._reloader.loaded.digest[:12].encode()),
            *answer.headers,
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        content = b"" if scope["method"] == "HEAD" else answer.content
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope) -> Answer:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path: str = scope["path"]
        if not self._any_host and path not in _HEALTH and not self._knows(headers.get(b"host", "")):
            return _problem(
                403, "host_refused", "This name is not one of the admin listener's; see server.admin_hosts."
            )
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        page = self._pages.get((method, path))
        if page is None:
            allowed = [each for each, known in self._pages if known == path]
            if not allowed:
                return _problem(
                    404, "not_found", f"There are {', '.join(sorted({known for _, known in self._pages}))}."
                )
            return _problem(405, "method_not_allowed", f"Allowed: {allowed[0]}.", (b"allow", allowed[0].encode()))
        if method == "POST" and _is_of_a_page(headers):
            return _problem(403, "cross_site", "A page in a browser may not do this.")
        if path not in _HEALTH and not self._is_let_in(headers.get(b"authorization", "")):
            challenge = (b"www-authenticate", b"Bearer")
            return _problem(401, "unauthorized", "Send the token: Authorization: Bearer …", challenge)
        return await page(b"verbose" in scope["query_string"])

    def _knows(self, host: str) -> bool:
        # Against names that a page in a browser makes point here (DNS rebinding).
        name = without_port(host.lower())
        return name in self._hosts or _is_loopback(name)

    def _is_let_in(self, authorization: str) -> bool:
        if self._token is None:
            return True
        kind, _, given = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())

    # Health

    async def _livez(self, verbose: bool) -> Answer:
        return _json(200, {"status": "pass"})

    async def _startupz(self, verbose: bool) -> Answer:
        return _status("pass" if self._health.is_started else "fail", {})

    async def _readyz(self, verbose: bool) -> Answer:
        config = self._reloader.loaded.config
        is_up = self._health.is_started and not self._health.is_draining
        accepts = is_up and await self._health.is_serving()
        out = await self._health.unavailable() if accepts else set()
        required = {name for name in out if name in config.upstreams and config.upstreams[name].required}
        checks = {
            "started": "pass" if self._health.is_started else "fail",
            "accepting": "pass" if accepts else "fail",
            "config": "pass" if self._reloader.last.accepted else "warn",
            "upstreams": "fail" if required else "warn" if out else "pass",
        }
        trouble = await self._health.jobs() if accepts else None
        if trouble is not None:
            # Batches that are answered at once need no store.
            checks["jobs"] = "warn" if trouble else "pass"
        worst = next((each for each in ("fail", "warn") if each in checks.values()), "pass")
        return _status(worst, {"checks": checks} if verbose else {})

    # Looking on

    async def _config(self, verbose: bool) -> Answer:
        reloader = self._reloader
        head = "".join(f"# {key} has another value in what was read; it needs a restart\n" for key in reloader.pending)
        text = head + shown(reloader.loaded, held=reloader.pending, start=reloader.start)
        return Answer(200, text.encode(), b"application/yaml")

    async def _upstreams(self, verbose: bool) -> Answer:
        return _json(200, {"generation": self._reloader.number, "workers": await self._state()})

    async def _reload(self, verbose: bool) -> Answer:
        verdict: Verdict = await self._reloader.reload("admin")
        return _json(200 if verdict.accepted else 422, verdict)


def _is_of_a_page(headers: Mapping[bytes, str]) -> bool:
    return b"origin" in headers or headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _status(status: str, more: dict[str, Any]) -> Answer:
    return _json(503 if status == "fail" else 200, {"status": status, **more})


def _json(status: int, document: Any) -> Answer:
    return Answer(status, msgspec.json.encode(document))


def _problem(status: int, code: str, detail: str, *headers: tuple[bytes, bytes]) -> Answer:
    document = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    return Answer(status, msgspec.json.encode(document), b"application/problem+json", headers)
