"""What can be said of jobs before they begin: the place of the store, the key, the secrets of webhooks.

Nothing is made, and no database is asked. It needs all that jobs need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec

from ..engine.errors import BatchError, SettingError
from ..engine.headers import inherited
from ..jobs.resources import Vault, box_of
from ..jobs.resources.principal import CREDENTIALS
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


def warnings(jobs: Jobs) -> Iterator[str]:
    """What works, but hardly as it was meant."""
    try:
        if jobs.anonymous or box_of(jobs.key_file) is not None:
            return
    except SettingError:
        return  # there is a key, which is at fault
    # Whatever header says whose a job is, is in every request that can be taken, and its items inherit it.
    names = _naming(jobs.principal)
    vault = Vault(None, jobs.plain_headers)
    if all(_is_refused(vault, name) for name in names):
        told = " or ".join(f"`{name}`" for name in names)
        key = f"a key for credentials (`key_file`, or variable `{KEY_VARIABLE}`)"
        yield f"no job can be taken: its owner is known by {told}, which a job may only keep with {key}"


def _naming(principal: str) -> list[str]:
    """The headers of which one has to be there, so that a job has an owner."""
    how, _, name = principal.partition(":")
    if how == "credential":
        return [each.decode("ascii") for each in CREDENTIALS]
    return [name.lower() if how == "header" else "cookie"]


def _is_refused(vault: Vault, name: str) -> bool:
    try:
        vault.new_secret(inherited([(name.encode("ascii"), b"x")]))
    except BatchError:
        return True
    return False


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
