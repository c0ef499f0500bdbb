"""An upstream at work: which address a request goes to, when, and what is tried again.

Knows: places, the queue, the breaker, ejection, retries, health. Must not know: routes, clients, bytes on the wire.

What to do next is decided by `Places`, `Balancer`, `Breaker` and `Retrying`, none of which awaits while it decides;
here are the awaits between, and whatever was taken is given back on each way out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

from .addresses import Location, host_for, located
from .balancing import Address, Balancer
from .breaker import Breaker
from .health import Health, HealthChecks
from .passage import Passage
from .places import Places
from .retrying import Retrying
from .settings import HealthCheck, Upstream
from .transports import (
    FIRST_BYTE_TIMEOUT,
    NO_HEALTHY,
    OVERLOADED,
    Answer,
    Begun,
    Outgoing,
    Sent,
    Transport,
    UpstreamError,
    Whole,
)
from .transports.choice import make

logger = logging.getLogger("batchproxy")


class LiveUpstream:
    """An `Upstream` with its connections; made inside a running loop. Raises `SettingError`.

    `start` begins the health checks; `aclose` comes after the last exchange has ended.
    """

    def __init__(
        self, name: str, settings: Upstream, *, make: Callable[[Upstream, Location], Transport] = make
    ) -> None:
        self.name = name
        self.settings = settings
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._places = Places(settings.max_in_flight, settings.max_queue)
        self._breaker = Breaker(settings.circuit_breaker)
        self._retrying = Retrying(settings.retry)
        self._total = settings.timeouts.total
        self._per_try = settings.retry.per_try_timeout
        urls = [settings.url] if settings.url is not None else settings.addresses
        # Each address has a transport of its own, made for this upstream alone: what a connection has proved (a
        # client certificate, NTLM) is never of use to another upstream.
        self._balancer = Balancer([self._address(located(url)) for url in urls], settings.outlier_detection)
        self._checks = self._health_checks()
        # With one address that nobody checks there is nothing to choose.
        self._sole = self.addresses[0] if len(urls) == 1 and self._checks is None else None

    def __repr__(self) -> str:
        return f"LiveUpstream({self.name}, {self._places!r}, {self._breaker!r})"

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._balancer.addresses

    @property
    def is_available(self) -> bool:
        """Whether there is a healthy address."""
        return any(each.health.is_good for each in self.addresses)

    def start(self) -> None:
        """Begins the health checks, if there are any."""
        if self._checks is not None:
            self._checks.start()

    def drain(self) -> None:
        """A newer generation took over: what runs goes on, nothing is kept for later."""
        if self._checks is not None:
            self._checks.stop()
        for address in self.addresses:
            address.transport.expire()

    async def aclose(self) -> None:
        """Ends the health checks and closes all connections."""
        try:
            if self._checks is not None:
                await self._checks.aclose()
        finally:
            await asyncio.gather(*(each.transport.aclose() for each in self.addresses))

    # One request

    async def send(self, request: Outgoing, *, notes: dict[str, Any] | None = None) -> Passage:
        """The passage, once it has the head of the answer of some address. Raises `UpstreamError`.

        The address's prefix is put before the request's target, and `Host` is set by the policy; header names are in
        lower case, as ASGI has them. `notes` gets `upstream`, `address`, `attempts`, and of failures `flags` (Envoy's,
        with commas between) and the last `detail`. A deadline of the request is taken for a setting's: whoever does
        not keep it has failed. A client's own deadline is kept by cancelling this call, which blames nobody.
        """
        passage = Passage(self, request, {} if notes is None else notes)
        if self._total is not None:
            passage.deadline = self._sooner(request.deadline)
        if not self._places.take():
            await self._wait(passage)
        return await self._pursue(passage, None)

    def begin(self, passage: Passage, now: float) -> bool:
        """Sends a request at once, if it has neither to wait for anything nor to be watched; False if it is for `send`.

        The passage is told by `arrived`, unless `give_up` was before; then `take_whole`, or `follow` if that is None.
        """
        if self._per_try is not None or not self._breaker.is_closed or not self._places.take():
            return False
        if self._total is not None:
            passage.deadline = self._sooner(passage.deadline)
        try:
            address, outgoing = self._begin(passage, now)
        except UpstreamError:
            self._places.give_back()
            return False
        except BaseException:
            self._places.give_back()
            raise
        try:
            passage.answer = address.transport.begin(outgoing, passage)
        except BaseException:
            self.give_up(passage)
            raise
        if passage.answer is None:
            self.give_up(passage)
            return False
        return True

    def take_whole(self, passage: Passage) -> Whole | None:
        """What a passage that was begun has brought, if its answer has arrived whole and plain. That was its end."""
        answer: Begun = passage.answer  # type: ignore[assignment]
        whole = answer.whole
        if whole is None:
            return None
        passage.answer, passage.status = None, whole[0]
        if passage.status >= 500 or not self._breaker.is_closed:
            assert passage.address is not None
            self._weigh(passage, passage.address)
        self.ended(passage, None)
        return whole

    async def follow(self, passage: Passage) -> Passage:
        """Goes on with a passage that was begun, as `send` does. Raises `UpstreamError`."""
        begun, passage.answer = passage.answer, None
        return await self._pursue(passage, cast("Begun", begun))

    def give_up(self, passage: Passage) -> None:
        """Nobody wants the answer of a passage that was begun any more, or it was not."""
        answer, address = passage.answer, passage.address
        assert address is not None
        passage.answer = None
        if answer is not None:
            answer.close()
        self._breaker.left(passage.ticket)
        address.in_flight -= 1
        self._places.give_back()

    async def _pursue(self, passage: Passage, begun: Begun | None) -> Passage:
        """Makes one attempt after another, `begun` being the first; the place is given back if none succeeds."""
        try:
            while True:
                try:
                    if begun is None:
                        address, outgoing = self._begin(passage, self._loop.time())
                        await self._attempt(passage, address, self._sent(address, outgoing))
                    else:
                        first, begun = begun, None
                        assert passage.address is not None
                        await self._attempt(passage, passage.address, first.head())
                except UpstreamError as fault:
                    pause = self._pause(passage, fault)
                    if pause is None:
                        raise
                    fault.forget()
                else:
                    return passage
                await asyncio.sleep(pause)
        except BaseException:
            self._retrying.done(passage.retries)
            self._places.give_back()
            raise

    async def _attempt(self, passage: Passage, address: Address, sending: Awaitable[Answer]) -> None:
        try:
            answer = await sending
        except BaseException as fault:
            self._judge(passage, address, fault)
            address.in_flight -= 1
            raise
        self._has_head(passage, address, answer)

    def _has_head(self, passage: Passage, address: Address, answer: Answer) -> None:
        """From now on the place is held until the end of the answer."""
        passage.answer, passage.status, passage.headers = answer, answer.status, answer.headers
        if answer.status >= 500 or not self._breaker.is_closed:
            self._weigh(passage, address)

    def _sooner(self, deadline: float | None) -> float | None:
        assert self._total is not None
        ours = self._loop.time() + self._total
        return ours if deadline is None or ours < deadline else deadline

    async def _wait(self, passage: Passage) -> None:
        since = self._loop.time()
        try:
            await self._places.wait(passage.deadline)
        except UpstreamError as fault:
            passage.failed(fault)
            raise
        passage.waited = self._loop.time() - since

    def _pause(self, passage: Passage, fault: UpstreamError) -> float | None:
        """How long to wait before the next attempt; None if there will be none."""
        passage.failed(fault)
        now = self._loop.time()
        if not self._breaker.lets_through(now) or not self.is_available:
            return None
        pause = self._retrying.pause(passage.request, fault, passage.attempts, self._places.used)
        if pause is None:
            return None
        passage.retries += 1
        return pause if passage.deadline is None or now + pause < passage.deadline else None

    def _begin(self, passage: Passage, now: float) -> tuple[Address, Outgoing]:
        """Where the next attempt goes, and as what; it has been counted. Raises `UpstreamError`."""
        address = self._sole or self._balancer.pick(now, passage.tried)
        if address is None:
            raise UpstreamError(NO_HEALTHY, f"{self.name}: no address is healthy")
        # First, for it may raise, and a ticket has to be handed back.
        request = passage.request
        headers = request.headers
        changes = headers is not address.unchanged and address.headers(headers) is not headers
        if changes or address.prefix or self._total is not None:
            request = self._outgoing(passage, address)
        ticket = self._breaker.ticket if self._breaker.is_closed else self._breaker.enter(now)
        if ticket is None:
            raise UpstreamError(OVERLOADED, f"{self.name}: the circuit breaker is open")
        passage.address, passage.ticket, passage.began = address, ticket, now
        passage.attempts += 1
        passage.notes["address"], passage.notes["attempts"] = address.url, passage.attempts
        address.in_flight += 1
        return address, request

    def _weigh(self, passage: Passage, address: Address) -> None:
        """What the head of an answer says of its address, and of an upstream that is on trial."""
        breaker = self._breaker
        if not breaker.is_closed and passage.ticket == breaker.ticket:
            # The one that was let through has an answer, and its body may go on for hours.
            breaker.succeeded(passage.ticket)
            passage.ticket = breaker.ticket
        if passage.status >= 500:
            self._count_against(address)

    async def _sent(self, address: Address, outgoing: Outgoing) -> Answer:
        if self._per_try is None:
            return await address.transport.send(outgoing)
        # Only the head has to be there in time.
        limit = self._loop.time() + self._per_try
        if outgoing.deadline is not None and outgoing.deadline <= limit:
            return await address.transport.send(outgoing)
        try:
            async with asyncio.timeout_at(limit):
                return await address.transport.send(outgoing)
        except TimeoutError:
            detail = f"{address.url}: no answer within per_try_timeout"
            raise UpstreamError(FIRST_BYTE_TIMEOUT, detail, sent=Sent.ALL) from None

    def _outgoing(self, passage: Passage, address: Address) -> Outgoing:
        """The request as it goes to this address."""
        request, prefix = passage.request, address.prefix
        headers, target = address.headers(request.headers), request.target
        if prefix:
            if target[:1] != b"/":
                # It would be glued to the prefix's last segment, and lead beside it.
                raise ValueError("A target begins with a slash.")
            target = prefix + target
        return Outgoing(request.method, target, headers, request.body, request.length, passage.deadline)

    def ended(self, passage: Passage, fault: UpstreamError | None) -> None:
        """The answer has been read to its end or closed, or has failed on the way."""
        address = passage.address
        assert address is not None
        if fault is None:
            breaker = self._breaker
            if breaker.failures or not breaker.is_closed:
                breaker.succeeded(passage.ticket)
            if passage.status < 500:
                address.streak = 0
        else:
            passage.failed(fault)
            self._judge(passage, address, fault)
        address.in_flight -= 1
        if passage.retries:
            self._retrying.done(passage.retries)
        self._places.give_back()

    # What an attempt says about its address

    def _judge(self, passage: Passage, address: Address, fault: BaseException) -> None:
        if isinstance(fault, UpstreamError) and passage.blames(fault, self._loop.time()):
            if self._breaker.failed(passage.ticket, self._loop.time()):
                logger.warning("upstream.refusing: upstream=%s The circuit breaker opened after %s", self.name, fault)
            self._count_against(address)
        else:
            self._breaker.left(passage.ticket)

    def _count_against(self, address: Address) -> None:
        if self._balancer.failed(address, self._loop.time()):
            logger.warning("upstream.ejected: upstream=%s address=%s", self.name, address.url)

    # For websockets and for who watches

    def address_for_websocket(self) -> Address:
        """The next healthy address. Raises `UpstreamError`."""
        address = self._balancer.pick(self._loop.time())
        if address is None:
            raise UpstreamError(NO_HEALTHY, f"{self.name}: no address is healthy")
        return address

    def state(self) -> dict[str, Any]:
        """For the admin view."""
        now = self._loop.time()
        return {
            "name": self.name,
            "available": self.is_available,
            "required": self.settings.required,
            "breaker": str(self._breaker.state),
            "failures": self._breaker.failures,
            "in_flight": self._places.used,
            "max_in_flight": self._places.limit,
            "queued": self._places.waiting,
            "retries": self._retrying.total,
            "retries_refused": self._retrying.refused,
            "addresses": [each.state(now) for each in self.addresses],
        }

    # Making

    def _address(self, location: Location) -> Address:
        settings, check, context = self.settings, self.settings.health_check, None
        if location.scheme == "https":
            from .transports.tls import tls_context

            context = tls_context(settings.tls)
        return Address(
            location,
            self._make(settings, location),
            host=host_for(settings.host, location),
            health=Health(check.healthy, check.unhealthy) if check is not None else None,
            ssl_context=context,
        )

    def _health_checks(self) -> HealthChecks | None:
        check = self.settings.health_check
        if check is None:
            return None
        return HealthChecks(check, [partial(self._probe, each, check) for each in self.addresses])

    async def _probe(self, address: Address, check: HealthCheck) -> None:
        passed = await is_well(address, check.path, self._loop.time() + check.timeout)
        if not address.health.note(passed):
            return
        if passed:
            self._balancer.recovered(address)
            logger.info("upstream.healthy: upstream=%s address=%s", self.name, address.url)
        else:
            logger.warning("upstream.unhealthy: upstream=%s address=%s", self.name, address.url)


async def is_well(address: Address, path: str, deadline: float) -> bool:
    """One health check."""
    host = address.location.authority if address.host is None else address.host
    headers = [(b"host", host), (b"user-agent", b"batchproxy")]
    try:
        answer = await address.transport.send(Outgoing("GET", path.encode("ascii"), headers, deadline=deadline))
        try:
            # To its end, so that the connection can be used again.
            while await answer.read():
                pass
        finally:
            answer.close()
    except UpstreamError:
        return False
    return 200 <= answer.status <= 399
