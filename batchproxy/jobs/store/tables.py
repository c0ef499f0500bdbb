"""The tables. Migrations make them; a test holds that what they make is what is written here.

Times are seconds of the epoch. A chunk is one piece of work:

    due_at is null      done, or not to be claimed
    holder is null      free, and may be claimed from due_at on
    holder is set       leased to that worker, until due_at
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

PREFIX = "batchproxy_"
"""A database may be shared with others."""

VERSION_TABLE = f"{PREFIX}schema"
"""Holds the version of the schema, and is none of `metadata`."""

metadata = MetaData(
    naming_convention={"pk": "%(table_name)s_pk", "ix": "%(table_name)s_%(column_0_N_name)s", "uq": "%(table_name)s_uq"}
)

job = Table(
    f"{PREFIX}job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("ending", Text),
    Column("version", Integer, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("idempotency_key", Text),
    Column("fingerprint", LargeBinary),
    Column("options", LargeBinary, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("secret", LargeBinary),
    Column("priority", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finalizing_at", Double),
    Column("cancel_requested_at", Double),
    Column("finished_at", Double),
    Column("expires_at", Double),
    Column("keep", Double, nullable=False),
    Column("purge_at", Double),  # while it is storing: when the submission counts as dead
    Column("input_file", Text),
    Column("output_file", Text),
    Column("error_file", Text),
    Column("error", LargeBinary),
    Column("retry_of", Text),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("counts", LargeBinary),  # of a terminal job; those of an open one are the sums over its chunks
    Column("gone", Text),  # deleted or purged: nobody sees it any more
    Column("cleared", Boolean, nullable=False),  # nothing but this row is left of it
    UniqueConstraint("owner", "idempotency_key"),
)
Index(None, job.c.owner, job.c.id)
Index(None, job.c.state, job.c.expires_at)
Index(None, job.c.purge_at)

chunk = Table(
    f"{PREFIX}chunk",
    metadata,
    Column("job", Text, primary_key=True),
    Column("no", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("first_seq", Integer, nullable=False),
    Column("span", Integer, nullable=False),  # how many items it had at first
    Column("n", Integer, nullable=False),  # how many it has to settle: fewer once it was split
    Column("due_at", Double),
    Column("holder", Text),
    Column("epoch", Integer, nullable=False),
    Column("lost", Integer, nullable=False),
    Column("done_n", Integer, nullable=False),
    Column("failed_n", Integer, nullable=False),
    Column("cancelled_n", Integer, nullable=False),
    Column("expired_n", Integer, nullable=False),
    Column("unknown_n", Integer, nullable=False),
    Column("parked_n", Integer, nullable=False),
    Column("has_intents", Boolean, nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    Column("input_no", Integer, nullable=False),  # whose input holds its items: its own, or that of the one split
    Column("input_skip", Integer, nullable=False),  # how many items of that input come before its first
    Column("blob", Text),  # where the input lies, if not in the table of inputs
    Column("blob_start", BigInteger),
    Column("blob_length", BigInteger),
    postgresql_with={"fillfactor": "70"},
)
Index(None, chunk.c.job, chunk.c.due_at)
Index(None, chunk.c.holder)

# Apart from the chunk, whose row changes with every checkpoint.
chunk_input = Table(
    f"{PREFIX}input",
    metadata,
    Column("job", Text, primary_key=True),
    Column("no", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)

result = Table(
    f"{PREFIX}result",
    metadata,
    Column("job", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("chunk", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),  # its place in the order in which the chunk's results were committed
    Column("epoch", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("custom_id", Text),
    Column("failure", Text),
    Column("detail", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    Column("blob", Text),
    Column("blob_start", BigInteger),
    Column("blob_length", BigInteger),
    Column("body", LargeBinary),
)

retry = Table(
    f"{PREFIX}retry",
    metadata,
    Column("job", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("chunk", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("detail", Text, nullable=False),
)

intent = Table(
    f"{PREFIX}intent",
    metadata,
    Column("job", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("chunk", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
)

file = Table(
    f"{PREFIX}file",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),  # while it is being stored: when the upload counts as dead
    Column("blob", Text, nullable=False),
    Column("ready", Boolean, nullable=False),
    Column("gone", Boolean, nullable=False),
)
Index(None, file.c.owner, file.c.id)
Index(None, file.c.expires_at)

outbox = Table(
    f"{PREFIX}outbox",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("target", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double),  # null: given up
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("detail", Text, nullable=False),
)
Index(None, outbox.c.due_at)

worker = Table(
    f"{PREFIX}worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
    Column("draining", Boolean, nullable=False),
)

limiter = Table(
    f"{PREFIX}limiter",
    metadata,
    Column("upstream", Text, primary_key=True),
    Column("tokens", Double, nullable=False),
    Column("refilled_at", Double, nullable=False),
    Column("share", Double, nullable=False),  # of the places: 1 unless the upstream was overloaded
    Column("blocked_until", Double, nullable=False),
)

slot = Table(
    f"{PREFIX}slot",
    metadata,
    Column("upstream", Text, primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
)

blob_piece = Table(
    f"{PREFIX}blob",
    metadata,
    Column("place", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("no", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
