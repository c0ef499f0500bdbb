"""The Batch API of OpenAI, for whatever API is behind the app: files of lines in, files of lines out.

Knows: `/files` and `/batches` as clients of OpenAI use them, the lines of their files. Must not know: how the store
keeps jobs, how items are run.

    POST   /v1/files                    multipart/form-data: `purpose` is `batch`, `file` has one request on each line
    GET    /v1/files                    the files of whoever asks; one with its id, `/content`, DELETE
    POST   /v1/batches                  {"input_file_id", "endpoint", "completion_window"}
    GET    /v1/batches                  the batches of whoever asks; one with its id
    POST   /v1/batches/{id}/cancel      stops it; what is done is kept

A batch is a job of the store. A worker with the `OpenAIKind` checks its lines, sends them, and writes the two files.
"""

from __future__ import annotations

from .kind import OpenAIKind
from .resources import OpenAIResources
from .settings import OpenAISettings

__all__ = ["OpenAIKind", "OpenAIResources", "OpenAISettings"]
