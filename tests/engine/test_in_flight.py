"""`InFlight`: places for running items, fair between batches, bounded, and all given back at the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from batchproxy import InFlight, Overloaded, SettingError
from batchproxy.engine.in_flight import Share


@dataclass(eq=False)
class Member:
    """One batch's share, and how often it was told that a place is there."""

    share: Share = field(init=False)
    told: int = 0

    def tell(self) -> None:
        self.told += 1


def joined(pool: InFlight, places: int) -> Member:
    member = Member()
    member.share = pool.join(places, member.tell)
    return member


def take(member: Member, count: int) -> None:
    for _ in range(count):
        assert member.share.take()


def take_all(member: Member) -> int:
    """How many places there are for this one now; afterwards it waits for another."""
    count = 0
    while member.share.take():
        count += 1
    return count


# Places


def test_places_are_taken_up_to_the_limit() -> None:
    """A share takes the places that are free; the next attempt queues it."""
    pool = InFlight(3, queue=9)
    member = joined(pool, 9)
    assert take_all(member) == 3
    assert repr(pool) == "InFlight(3, queue=9, used=3, waiting=1)"
    assert member.told == 0


def test_who_waits_is_told_of_a_place() -> None:
    """A place that is given back goes to the one who waits, is kept for it, and is counted as used meanwhile."""
    pool = InFlight(1, queue=9)
    first, second = joined(pool, 1), joined(pool, 1)
    assert (first.share.take(), second.share.take()) == (True, False)
    first.share.give_back()
    assert (second.told, pool.used) == (1, 1)
    assert not first.share.take()
    assert second.share.take()
    assert pool.used == 1


def test_nobody_overtakes_who_waits() -> None:
    """A place that has become free is not for a share that comes by while another waits for it."""
    pool = InFlight(2, queue=9)
    first, second, third = (joined(pool, 2) for _ in range(3))
    take(first, 2)
    assert not second.share.take()
    first.share.give_back()
    assert not third.share.take()
    assert second.share.take()


def test_places_go_round_between_those_who_wait() -> None:
    """Each freed place goes to the next one in turn: a batch with many items gets no more than one with few."""
    pool = InFlight(2, queue=99)
    holder = joined(pool, 2)
    take(holder, 2)
    others = [joined(pool, 20), joined(pool, 2), joined(pool, 2)]
    for other in others:
        assert not other.share.take()
    order: list[int] = []
    holders = [holder, holder]
    for _ in range(6):
        holders.pop(0).share.give_back()
        (index,) = (index for index, other in enumerate(others) if other.share.take())
        order.append(index)
        holders.append(others[index])
        # It has more to start, and waits again, behind the others.
        assert not others[index].share.take()
    assert order == [0, 1, 2, 0, 1, 2]


def test_asking_twice_is_waiting_once() -> None:
    """A share stands in the queue once, however often it asks."""
    pool = InFlight(1, queue=9)
    first, second, third = (joined(pool, 3) for _ in range(3))
    first.share.take()
    for _ in range(5):
        assert not second.share.take()
    assert not third.share.take()
    assert repr(pool) == "InFlight(1, queue=9, used=1, waiting=2)"
    first.share.give_back()
    assert second.share.take()
    second.share.give_back()
    assert (second.told, third.told) == (1, 1)


# What is not used


def test_an_unused_place_goes_to_the_next() -> None:
    """A place that was granted to one who has nothing to start any more is passed on."""
    pool = InFlight(1, queue=9)
    first, second, third = (joined(pool, 1) for _ in range(3))
    first.share.take()
    assert not second.share.take()
    assert not third.share.take()
    first.share.give_back()
    second.share.give_back_unused()
    assert (second.told, third.told, pool.used) == (1, 1, 1)
    assert third.share.take()


def test_giving_back_unused_without_any_is_nothing() -> None:
    """Without a granted place there is none to give back; what is held stays."""
    pool = InFlight(2)
    member = joined(pool, 2)
    take(member, 2)
    member.share.give_back_unused()
    assert pool.used == 2


def test_who_leaves_gives_everything_back() -> None:
    """Held places, a granted one, the wish for more and the turn in the queue: nothing of them is left."""
    pool = InFlight(2, queue=9)
    first, second, third = (joined(pool, 2) for _ in range(3))
    take(first, 2)
    assert not second.share.take()
    assert not third.share.take()
    first.share.give_back()
    assert second.told == 1
    second.share.leave()
    assert third.told == 1
    first.share.leave()
    third.share.leave()
    third.share.leave()
    assert (pool.used, pool.wanted) == (0, 0)
    assert repr(pool) == "InFlight(2, queue=9, used=0, waiting=0)"


def test_who_leaves_the_queue_is_not_told() -> None:
    """A share that has left gets no place that becomes free later; the one behind it does."""
    pool = InFlight(1, queue=9)
    first, second, third = (joined(pool, 1) for _ in range(3))
    first.share.take()
    assert not second.share.take()
    assert not third.share.take()
    second.share.leave()
    first.share.give_back()
    assert (second.told, third.told) == (0, 1)


# Who may come


@pytest.mark.parametrize(("queue", "accepted"), [(0, 1), (1, 1), (2, 2), (5, 3)])
def test_the_queue_is_bounded(queue: int, accepted: int) -> None:
    """As many places may be asked for as there are, and as the queue has: a batch that would exceed it is refused."""
    pool = InFlight(2, queue=queue)
    for _ in range(accepted):
        joined(pool, 2)
    with pytest.raises(Overloaded) as caught:
        joined(pool, 2)
    assert (caught.value.status, dict(caught.value.headers)) == (503, {b"retry-after": b"1"})
    assert pool.wanted == 2 * accepted


def test_a_batch_asks_for_no_more_than_there_is() -> None:
    """A batch of any size may come to an idle pool, whatever the queue."""
    pool = InFlight(2, queue=0)
    assert take_all(joined(pool, 1000)) == 2
    with pytest.raises(Overloaded):
        pool.check()


def test_looking_takes_nothing() -> None:
    """`check` refuses what `join` would refuse, and asks for nothing."""
    pool = InFlight(2, queue=1)
    joined(pool, 2)
    pool.check(1)
    pool.check(1)
    with pytest.raises(Overloaded):
        pool.check(2)
    assert pool.wanted == 2


def test_who_wants_no_more_makes_room_for_others() -> None:
    """When its items have ended, a batch counts only for the places that it still holds."""
    pool = InFlight(4, queue=0)
    member = joined(pool, 4)
    member.share.take()
    with pytest.raises(Overloaded):
        pool.check()
    member.share.want_no_more()
    pool.check(3)
    with pytest.raises(Overloaded):
        pool.check(4)
    member.share.give_back()
    member.share.leave()
    assert (pool.used, pool.wanted) == (0, 0)


@pytest.mark.parametrize(("limit", "queue"), [(0, 1), (-1, 1), (True, 1), (1, -1), (1, False), (1.5, 1)])
def test_a_pool_has_places(limit: int, queue: int) -> None:
    """A limit below one, a queue below none, and what is no integer is refused."""
    with pytest.raises(SettingError, match=r"in_flight\."):
        InFlight(limit, queue=queue)


# Against a model


class Places(RuleBasedStateMachine):
    """Batches come, take, give back and leave in any order; a list of who holds what tells how it has to be."""

    members = Bundle("members")

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 6))
    def begin(self, limit: int, queue: int) -> None:
        self.pool = InFlight(limit, queue=queue)
        self.held: dict[Member, int] = {}
        self.granted: dict[Member, int] = {}
        self.wanted: dict[Member, int] = {}
        self.most: dict[Member, int] = {}
        self.waiting: deque[Member] = deque()

    @property
    def used(self) -> int:
        return sum(self.held.values()) + sum(self.granted.values())

    def hand_out(self) -> None:
        """What the pool has to do whenever a place has become free."""
        while self.waiting and self.used < self.pool.limit:
            member = self.waiting.popleft()
            self.granted[member] += 1
            if self.held[member] + self.granted[member] < self.most[member]:
                self.waiting.append(member)

    @rule(target=members, places=st.integers(1, 6))
    def join(self, places: int) -> Member:
        member = Member()
        asked = min(places, self.pool.limit)
        if sum(self.wanted.values()) + asked > self.pool.limit + self.pool.queue:
            with pytest.raises(Overloaded):
                self.pool.join(places, member.tell)
            # It is as if it had come and gone.
            member.share = InFlight().join(1, member.tell)
            member.share.leave()
            return member
        member.share = self.pool.join(places, member.tell)
        self.held[member], self.granted[member], self.wanted[member] = 0, 0, asked
        self.most[member] = asked
        return member

    @rule(member=members)
    def take(self, member: Member) -> None:
        if member not in self.held:
            return
        if self.granted[member]:
            self.granted[member] -= 1
            expected = True
        else:
            expected = self.used < self.pool.limit and not self.waiting
        assert member.share.take() is expected
        if expected:
            self.held[member] += 1
        elif member not in self.waiting:
            self.waiting.append(member)

    @rule(member=members)
    def give_back(self, member: Member) -> None:
        if self.held.get(member):
            self.held[member] -= 1
            member.share.give_back()
            self.hand_out()

    @rule(member=members)
    def give_back_unused(self, member: Member) -> None:
        if member in self.held:
            if self.granted[member] and member in self.waiting:
                self.waiting.remove(member)
            self.granted[member] = 0
            member.share.give_back_unused()
            self.hand_out()

    @rule(member=members)
    def want_no_more(self, member: Member) -> None:
        if member in self.held:
            member.share.want_no_more()
            self.wanted[member] = self.held[member]

    @rule(member=consumes(members))
    def leave(self, member: Member) -> None:
        self.forget(member)

    def forget(self, member: Member) -> None:
        if member in self.held:
            if member in self.waiting:
                self.waiting.remove(member)
            del self.held[member], self.granted[member], self.wanted[member]
            self.hand_out()
        member.share.leave()

    @invariant()
    def the_pool_counts_right(self) -> None:
        pool = self.pool
        assert pool.used == self.used <= pool.limit
        assert pool.wanted == sum(self.wanted.values())
        assert repr(pool).endswith(f"waiting={len(self.waiting)})")

    @invariant()
    def no_place_is_idle_while_someone_waits(self) -> None:
        assert not self.waiting or self.pool.used == self.pool.limit

    @invariant()
    def who_was_granted_a_place_has_been_told(self) -> None:
        for member, granted in self.granted.items():
            assert member.share.reserved == granted <= member.told

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for member in list(self.held):
            self.forget(member)
        assert (self.pool.used, self.pool.wanted) == (0, 0)
        assert repr(self.pool).endswith("used=0, waiting=0)")


Places.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPlaces = Places.TestCase
