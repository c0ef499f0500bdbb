"""What happens in a round, drawn from a seed: nothing here runs anything.

Knows: faults, and how many items each may cost. Must not know: processes, databases.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SQLITE, POSTGRESQL = "sqlite", "postgresql"
DATABASES = (SQLITE, POSTGRESQL)
AT_MOST_ONCE, AT_LEAST_ONCE = "at_most_once", "at_least_once"


WRONG_CLOCK = "wrong clock"
"""Of a worker, from its start to its end."""


class Kind(StrEnum):
    KILL_WORKER = "kill worker"
    FREEZE_WORKER = "freeze worker"
    """For longer than its leases, when it is not in the midst of a transaction."""
    FREEZE_ANYWHERE = "freeze worker anywhere"
    """Perhaps in the midst of one, so that all others wait for its locks."""
    RESTART_WORKER = "restart worker"
    """In an orderly way: it hands over what it has."""
    KILL_SUBMITTER = "kill submitter"
    """The process that takes the job, while it is being submitted: at 1, between the commit and the answer."""
    STOP_DATABASE = "stop database"
    FILL_DISK = "fill disk"
    LIMIT_FILES = "limit files"
    """Files of the processes may not grow any more: as a full disk, for those who may not mount one."""


_ANYWHERE = (
    Kind.KILL_WORKER,
    Kind.KILL_WORKER,
    Kind.FREEZE_WORKER,
    Kind.FREEZE_WORKER,
    Kind.FREEZE_ANYWHERE,
    Kind.RESTART_WORKER,
    Kind.KILL_SUBMITTER,
)
_ONLY: dict[str, Sequence[Kind]] = {
    SQLITE: (Kind.FILL_DISK, Kind.LIMIT_FILES),
    POSTGRESQL: (Kind.STOP_DATABASE, Kind.STOP_DATABASE),
}
_OF_ONE = frozenset({Kind.KILL_WORKER, Kind.FREEZE_WORKER})
"""These cost what one worker has in flight."""
_OF_NONE = frozenset({Kind.RESTART_WORKER, Kind.KILL_SUBMITTER})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`at` which part of the items that have arrived; for how many `seconds`, if it passes; `whom` of the workers."""

    kind: Kind
    at: float
    seconds: float = 0.0
    whom: int = 0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} at {self.at:.0%}{lasting}"


@dataclass(frozen=True, kw_only=True)
class Round:
    """`jobs` are the numbers of their items, `places` those of each worker, `skew` the error of one worker's clock.

    Workers that are `blind` do not see by their clock that they were frozen for longer than their leases.
    """

    number: int
    seed: int
    database: str
    delivery: str
    jobs: Sequence[int]
    workers: int
    places: int
    lease: float
    skew: float
    slowest: float
    faults: Sequence[Fault]
    blind: bool = False

    @property
    def total(self) -> int:
        return sum(self.jobs)

    @property
    def at_risk(self) -> int:
        """How many items may be in flight with those who are lost; so many may be sent twice, or end unknown."""
        return sum(self._cost(fault.kind) for fault in self.faults)

    def _cost(self, kind: Kind) -> int:
        if kind in _OF_ONE:
            return self.places
        if kind in _OF_NONE:
            # Who hands over needs a store that takes it.
            is_calm = all(fault.kind in _OF_ONE | _OF_NONE for fault in self.faults)
            return 0 if is_calm or kind is Kind.KILL_SUBMITTER else self.places
        return self.places * self.workers


def drawn(
    seed: int, number: int, databases: Sequence[str] = DATABASES, *, items: tuple[int, int] = (300, 1200)
) -> Round:
    """The databases come in turn; all else is drawn."""
    chance = random.Random(f"{seed}/{number}")
    database = databases[number % len(databases)]
    lease = 3.0
    kinds = chance.sample([*_ANYWHERE, *_ONLY[database]], chance.randint(1, 4))
    workers = chance.randint(2, 3)
    delivery = chance.choice([AT_MOST_ONCE, AT_LEAST_ONCE])
    return Round(
        number=number,
        seed=seed,
        database=database,
        delivery=delivery,
        jobs=[chance.randint(*items) for _ in range(chance.randint(1, 2))],
        workers=workers,
        places=chance.choice([4, 8, 16]),
        lease=lease,
        # A file of SQLite has one machine, and that has one clock.
        skew=chance.choice([0.0, 600.0, -600.0]) if database == POSTGRESQL else 0.0,
        slowest=chance.choice([0.01, 0.05, 0.1]),
        faults=sorted((_fault(kind, chance, lease, workers) for kind in kinds), key=lambda fault: fault.at),
        # The others may begin an item of each chunk that they have lost before they are told so.
        blind=delivery == AT_MOST_ONCE and not random.Random(f"{seed}/{number}/blind").randrange(3),
    )


def _fault(kind: Kind, chance: random.Random, lease: float, workers: int) -> Fault:
    at = chance.choice([chance.random(), 1.0]) if kind is Kind.KILL_SUBMITTER else chance.uniform(0.02, 0.95)
    seconds = 0.0
    if kind in (Kind.FREEZE_WORKER, Kind.FREEZE_ANYWHERE):
        seconds = lease * chance.uniform(1.2, 2.0)
    elif kind in (Kind.STOP_DATABASE, Kind.FILL_DISK, Kind.LIMIT_FILES):
        seconds = lease * chance.uniform(0.1, 1.5)
    return Fault(kind=kind, at=at, seconds=seconds, whom=chance.randrange(workers))
