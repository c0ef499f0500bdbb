"""Durable jobs: batches that outlive their connection.

`store` keeps them, `working` works on them, `resources` shows them over HTTP, `webhooks` tells others of their end, and
`openai` serves the Batch API of OpenAI with them. None is imported here: each is asked for by its own name.
"""

from __future__ import annotations

from importlib.util import find_spec

# Asked for, not imported: not every process needs all of them.
for _name in ("sqlalchemy", "alembic", "aiosqlite"):
    if find_spec(_name) is None:
        _told = f"No module named {_name!r}: jobs need more packages; to install: pip install 'batchproxy[jobs]'"
        raise ModuleNotFoundError(_told, name=_name)
