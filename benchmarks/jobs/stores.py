"""Stores on both databases, each as durable as in production, in folders that are gone with the block.

Knows: where databases are. Must not know: what is measured.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.jobs.postgresql import binaries, cluster

NewUrl = Callable[[], str]
"""Gives the URL of an empty store."""


@contextmanager
def sqlite() -> Iterator[NewUrl]:
    """Files on the disk of this machine."""
    numbers = count()
    with TemporaryDirectory(prefix="batchproxy-jobs-") as folder:
        yield lambda: f"sqlite:///{Path(folder, f'{next(numbers)}.db')}"


@contextmanager
def postgresql() -> Iterator[NewUrl]:
    """Databases of a private server, which forgets nothing that was committed."""
    if binaries() is None:
        raise FileNotFoundError("PostgreSQL is needed")
    with cluster(settings=()) as made:
        yield made.new_url


DATABASES: Mapping[str, Callable[[], AbstractContextManager[NewUrl]]] = {"SQLite": sqlite, "PostgreSQL": postgresql}
