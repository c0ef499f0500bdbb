"""The circuit breaker: whether an upstream is asked at all.

A state machine; what time it is comes in as an argument.

    CLOSED ── so many failures in a row ──▶ OPEN ── `open_for` later, one is let through ──▶ HALF_OPEN
      ▲                                      ▲                                                 │  │
      └───────── an answer ──────────────────┼─────────────────────────────────────────────────┘  │
                                             └──────────── a failure ─────────────────────────────┘
"""

from __future__ import annotations

from enum import StrEnum

from .settings import CircuitBreaker


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """`enter` before each attempt gives a ticket, to be handed to one of `succeeded`, `failed` and `left`.

    A ticket is good for the state in which it was given: what began before a change decides nothing after it.
    """

    __slots__ = ("_settings", "failures", "is_closed", "opened_at", "state", "ticket")

    def __init__(self, settings: CircuitBreaker) -> None:
        self._settings = settings
        self.state = State.CLOSED
        self.is_closed = True
        self.ticket = 0
        self.failures = 0
        self.opened_at = 0.0

    def __repr__(self) -> str:
        return f"Breaker({self.state}, failures={self.failures})"

    def lets_through(self, now: float) -> bool:
        if self.is_closed:
            return True
        return self.state is State.OPEN and now >= self.opened_at + self._settings.open_for

    def enter(self, now: float) -> int | None:
        """A ticket for one attempt, or None while requests are refused."""
        if self.is_closed:
            return self.ticket
        if not self.lets_through(now):
            return None
        self._become(State.HALF_OPEN)
        return self.ticket

    def succeeded(self, ticket: int) -> None:
        if ticket == self.ticket:
            self.failures = 0
            if not self.is_closed:
                self._become(State.CLOSED)

    def failed(self, ticket: int, now: float) -> bool:
        """Whether requests are refused from now on because of it."""
        if ticket != self.ticket:
            return False
        self.failures += 1
        if self.is_closed and self.failures < self._settings.consecutive_failures:
            return False
        self.opened_at = now
        self._become(State.OPEN)
        return True

    def left(self, ticket: int) -> None:
        """The attempt ended without saying anything about the upstream; the next one may try in its place."""
        if ticket == self.ticket and self.state is State.HALF_OPEN:
            # `opened_at` is as it was, so nobody waits a second time.
            self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self.state = state
        self.is_closed = state is State.CLOSED
        self.ticket += 1
