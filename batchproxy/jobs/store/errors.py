"""What the store raises. Each error has a stable code; what an HTTP answer makes of it is decided elsewhere.

Exception
└── JobsError
    ├── StoreError              the store cannot do it now, whatever is asked of it
    │   ├── StoreBusy           store_busy         somebody else holds the lock for too long
    │   ├── StoreFull           store_full         no space is left
    │   ├── StoreReadOnly       store_read_only    it may not be written
    │   ├── StoreCorrupt        store_corrupt      not a database, or a damaged one
    │   ├── StoreMissing        store_missing      the folder is not there, or may not be entered
    │   ├── StoreUnreachable    store_unreachable  the database server does not answer, or reading the disk failed
    │   ├── SchemaNewer         schema_newer       made by a newer version of batchproxy
    │   └── SchemaForeign       schema_foreign     a database of something else
    ├── NotFound                not_found          there is none, or it belongs to somebody else
    │   └── Gone                gone               there was one, and its time is over
    ├── KeyBusy                 key_busy           a job with this idempotency key is being stored
    ├── KeyConflict             key_conflict       a job with this idempotency key has another content
    ├── QuotaExceeded           quota_exceeded     the owner has too much already
    ├── WrongState              wrong_state        the job is not in a state for it
    ├── LeaseLost               lease_lost         somebody else has the work now
    └── BadCursor               bad_cursor         not a cursor that the store gave out
"""

from __future__ import annotations

from typing import ClassVar


class JobsError(Exception):
    """The root of all that the store raises, besides `SettingError`."""

    code: ClassVar[str]


class StoreError(JobsError):
    """The store cannot do it now; `passing` tells whether the same may work later without anybody's help."""

    passing: ClassVar[bool] = False


class StoreBusy(StoreError):
    code = "store_busy"
    passing = True


class StoreFull(StoreError):
    code = "store_full"
    passing = True


class StoreReadOnly(StoreError):
    code = "store_read_only"


class StoreCorrupt(StoreError):
    code = "store_corrupt"


class StoreMissing(StoreError):
    code = "store_missing"


class StoreUnreachable(StoreError):
    code = "store_unreachable"
    passing = True


class SchemaNewer(StoreError):
    code = "schema_newer"


class SchemaForeign(StoreError):
    code = "schema_foreign"


class NotFound(JobsError):
    code = "not_found"


class Gone(NotFound):
    code = "gone"


class KeyBusy(JobsError):
    code = "key_busy"


class KeyConflict(JobsError):
    code = "key_conflict"


class QuotaExceeded(JobsError):
    """`quota` is the name of the setting that is exhausted."""

    code = "quota_exceeded"

    def __init__(self, quota: str, limit: int) -> None:
        super().__init__(f"The owner has reached {quota}, which is {limit}.")
        self.quota = quota
        self.limit = limit


class WrongState(JobsError):
    code = "wrong_state"


class LeaseLost(JobsError):
    code = "lease_lost"


class BadCursor(JobsError):
    code = "bad_cursor"
