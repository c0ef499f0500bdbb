"""What can be said of jobs before they begin: the place of the store, the key, the secrets of webhooks.

Nothing is made, and no database is asked. It needs all that jobs need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from ..engine.errors import SettingError
from ..jobs.resources import box_of
from ..jobs.store import StoreError
from ..jobs.store.places import NETWORK, check_place, file_system
from ..jobs.webhooks.signing import Secrets
from .job_settings import KEY_VARIABLE, SECRET, Jobs


def faults(jobs: Jobs) -> Iterator[tuple[tuple[str, ...], str]]:
    """The key below `jobs` that is at fault, and what is wrong."""
    yield from _of_place(jobs)
    try:
        if jobs.key_file is None or os.access(jobs.key_file, os.R_OK):  # else that is told already
            box_of(jobs.key_file)
    except SettingError as fault:
        what = "`key_file`" if jobs.key_file is not None else f"variable `{KEY_VARIABLE}`"
        yield ("key_file",), f"{what} cannot be used, {fault.expected}"
    if jobs.webhooks is not None:
        try:
            Secrets(jobs.webhooks.made())
        except SettingError as fault:
            key = "signing" if fault.setting == f"secrets.{SECRET}" else "callbacks"
            yield ("webhooks", key), f"`{key}` cannot be used, {fault.expected}"


def _of_place(jobs: Jobs) -> Iterator[tuple[tuple[str, ...], str]]:
    settings = jobs.store.made()
    if settings.bucket is not None and find_spec("botocore") is None:
        yield ("store", "blobs"), "`blobs` cannot be used, expected batchproxy[s3] to be installed"
    if settings.is_postgresql:
        if find_spec("asyncpg") is None:
            yield ("store", "url"), "`url` cannot be used, expected batchproxy[postgres] to be installed"
        return
    try:
        if jobs.store.url is not None:
            check_place(settings.file)
        elif (kind := file_system(settings.file.parent)) in NETWORK:
            # The folder is made at the start.
            yield ("store",), f"{settings.file} is on {kind}, where SQLite loses data, expected another `url`"
    except SettingError as fault:
        yield ("store", "url"), f"`url` is not right here, {fault.expected}"
    except StoreError as fault:
        yield ("store", "url"), f"`url` cannot be used: {fault}"
