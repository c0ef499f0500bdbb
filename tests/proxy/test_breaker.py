"""`Breaker`: a state machine that is told what time it is."""

from __future__ import annotations

from hypothesis import given, strategies as st

from batchproxy.proxy.breaker import Breaker, State
from batchproxy.proxy.settings import CircuitBreaker

SETTINGS = CircuitBreaker(consecutive_failures=3, open_for=5)


def entered(breaker: Breaker, now: float = 0.0) -> int:
    ticket = breaker.enter(now)
    assert ticket is not None
    return ticket


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        breaker.failed(entered(breaker), at)
    assert breaker.state is State.OPEN
    return breaker


def test_it_opens_after_so_many_failures_in_a_row() -> None:
    """Only the last of `consecutive_failures` opens it."""
    breaker = Breaker(SETTINGS)
    assert [breaker.failed(entered(breaker), 0.0) for _ in range(3)] == [False, False, True]
    assert breaker.enter(0.0) is None
    assert repr(breaker) == "Breaker(open, failures=3)"


def test_an_answer_between_begins_anew() -> None:
    """Failures count only in a row."""
    breaker = Breaker(SETTINGS)
    for _ in range(5):
        breaker.failed(entered(breaker), 0.0)
        breaker.failed(entered(breaker), 0.0)
        breaker.succeeded(entered(breaker))
    assert breaker.state is State.CLOSED


def test_after_a_while_one_is_let_through() -> None:
    """`open_for` later one attempt may be made, and no second as long as it runs."""
    breaker = opened()
    assert breaker.enter(4.9) is None
    assert breaker.enter(5.0) is not None
    assert breaker.state is State.HALF_OPEN
    assert breaker.enter(99.0) is None


def test_the_one_that_was_let_through_decides() -> None:
    """Its answer closes the breaker; its failure opens it for as long again."""
    breaker = opened()
    breaker.succeeded(entered(breaker, 5.0))
    assert breaker.state is State.CLOSED
    breaker = opened()
    assert breaker.failed(entered(breaker, 5.0), 6.0)
    assert breaker.enter(10.9) is None
    assert breaker.enter(11.0) is not None


def test_one_that_ends_without_a_word_leaves_its_turn_to_the_next() -> None:
    """A cancelled attempt does not keep the breaker half-open for ever, and nobody waits a second time."""
    breaker = opened()
    breaker.left(entered(breaker, 5.0))
    assert breaker.enter(5.0) is not None


def test_what_began_before_a_change_decides_nothing() -> None:
    """Answers and failures of attempts from before the breaker opened do not count after it."""
    breaker = Breaker(SETTINGS)
    old = entered(breaker)
    for _ in range(3):
        breaker.failed(entered(breaker), 0.0)
    breaker.succeeded(old)
    assert breaker.enter(0.0) is None
    probe = entered(breaker, 5.0)
    assert not breaker.failed(old, 5.0)
    breaker.left(old)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(probe)
    assert not breaker.failed(old, 5.0)
    assert (breaker.state, breaker.failures) == (State.CLOSED, 0)


@given(st.lists(st.tuples(st.sampled_from(["enter", "ok", "bad", "left", "wait"]), st.integers(0, 5))))
def test_it_never_stays_shut_for_ever(steps: list[tuple[str, int]]) -> None:
    """Whatever has happened, once all attempts have ended and `open_for` has passed, one is let through."""
    breaker, now, running = Breaker(SETTINGS), 0.0, list[int]()
    for step, number in steps:
        if step == "wait":
            now += number
        elif step == "enter":
            ticket = breaker.enter(now)
            if ticket is not None:
                running.append(ticket)
        elif running:
            ticket = running.pop(number % len(running))
            if step == "ok":
                breaker.succeeded(ticket)
            elif step == "bad":
                breaker.failed(ticket, now)
            else:
                breaker.left(ticket)
    for ticket in running:
        breaker.left(ticket)
    assert breaker.lets_through(now + SETTINGS.open_for)
    assert breaker.enter(now + SETTINGS.open_for) is not None
