"""What errors of drivers, databases and files mean: one of the store's own errors, or None for a mistake of ours."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, TimeoutError as PoolTimeout

from .errors import (
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreReadOnly,
    StoreUnreachable,
)

_BUSY = "The store is locked by somebody else; try again."
_FULL = "No space is left for the store; free some, and it goes on by itself."
_READ_ONLY = "The store may not be written; check the owner and the mode of its file and folder, and how it is mounted."
_CORRUPT = "The store is not a database, or it is damaged; restore a copy: nothing was changed or made anew."
_MISSING = "The store's folder is not there, or may not be entered; make it, and give it to the user of this process."
_UNREACHABLE = "The store cannot be reached or read now."
_POOLER = "The store is behind a pooler that gives out connections for one transaction; set `pooler`."

# The lowest byte is the primary code (https://sqlite.org/rescode.html).
_SQLITE: Mapping[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, _BUSY),
    sqlite3.SQLITE_LOCKED: (StoreBusy, _BUSY),
    sqlite3.SQLITE_FULL: (StoreFull, _FULL),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, _READ_ONLY),
    sqlite3.SQLITE_PERM: (StoreReadOnly, _READ_ONLY),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, _CORRUPT),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, _CORRUPT),
    sqlite3.SQLITE_CANTOPEN: (StoreMissing, _MISSING),
    sqlite3.SQLITE_IOERR: (StoreUnreachable, _UNREACHABLE),
    sqlite3.SQLITE_PROTOCOL: (StoreBusy, _BUSY),
}

# A whole SQLSTATE, or its class of two characters.
_POSTGRESQL: Mapping[str, tuple[type[StoreError], str]] = {
    "55P03": (StoreBusy, _BUSY),
    "57014": (StoreBusy, _BUSY),
    "40001": (StoreBusy, _BUSY),
    "40P01": (StoreBusy, _BUSY),
    "25P03": (StoreUnreachable, _UNREACHABLE),
    "25P04": (StoreUnreachable, _UNREACHABLE),
    "53100": (StoreFull, _FULL),
    "53": (StoreUnreachable, _UNREACHABLE),
    "26000": (StoreUnreachable, _POOLER),  # a prepared statement is not there, for it is on another server
    "42P05": (StoreUnreachable, _POOLER),  # one of somebody else has its name
    "25006": (StoreReadOnly, _READ_ONLY),
    "42501": (StoreReadOnly, "The user of the database may not do this; give it the rights on the store's tables."),
    "XX": (StoreCorrupt, _CORRUPT),
    "08": (StoreUnreachable, _UNREACHABLE),
    "57": (StoreUnreachable, _UNREACHABLE),
    "28": (StoreUnreachable, "The database does not let this user in; check name, password and host in the URL."),
    "42704": (StoreMissing, "The URL has an option that neither the driver nor the server knows; correct the URL."),
    "3D": (StoreMissing, "There is no such database; make it, or correct the URL."),
}
AGAIN = frozenset({"40001", "40P01"})
"""The database ended one of several transactions that stood in each other's way: the same one may work at once."""

_FILES: Mapping[int, tuple[type[StoreError], str]] = {
    errno.ENOSPC: (StoreFull, _FULL),
    errno.EDQUOT: (StoreFull, _FULL),
    errno.EFBIG: (StoreFull, _FULL),
    errno.EROFS: (StoreReadOnly, _READ_ONLY),
    errno.EACCES: (StoreReadOnly, _READ_ONLY),
    errno.EPERM: (StoreReadOnly, _READ_ONLY),
    errno.ENOENT: (StoreMissing, _MISSING),
    errno.ENOTDIR: (StoreMissing, _MISSING),
}


@contextmanager
def translated(*, of_server: bool = False) -> Iterator[None]:
    """Raises the store's own errors for those of the block; an `OSError` may be one `of_server`'s socket."""
    try:
        yield
    except (DBAPIError, PoolTimeout, sqlite3.Error, OSError) as error:
        is_socket = of_server and isinstance(error, OSError)
        meaning = _made((StoreUnreachable, _UNREACHABLE), error) if is_socket else meant(error)
        if meaning is None:
            raise
        raise meaning from error


def meant(error: BaseException) -> StoreError | None:
    if isinstance(error, DBAPIError):
        return _of_driver(error)
    if isinstance(error, PoolTimeout):
        return StoreBusy("All connections to the store are in use; try again.")
    if isinstance(error, sqlite3.Error):
        return _of_sqlite(error)
    if isinstance(error, OSError):
        return _made(_FILES.get(error.errno or 0, (StoreUnreachable, _UNREACHABLE)), error)
    return None


def sqlstate(error: BaseException) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _of_driver(error: DBAPIError) -> StoreError | None:
    origin = error.orig
    if isinstance(origin, sqlite3.Error):
        return _of_sqlite(origin)
    state = sqlstate(error)
    found = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    if found is None and (error.connection_invalidated or (not state and isinstance(error, InterfaceError))):
        found = (StoreUnreachable, _UNREACHABLE)
    return None if found is None else _made(found, origin or error)


def _of_sqlite(error: sqlite3.Error) -> StoreError | None:
    found = _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return None if found is None else _made(found, error)


def _made(found: tuple[type[StoreError], str], error: BaseException) -> StoreError:
    kind, text = found
    return kind(f"{text} ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
