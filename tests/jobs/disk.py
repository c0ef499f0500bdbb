"""A disk that can be filled: a file system of its own, of a certain size, for those who may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """Of so many bytes. Who may not mount one skips the test."""
    folder = Path(os.path.realpath(os.environ.get("TMPDIR", "/tmp"))) / f"batchproxy-disk-{os.getpid()}"
    folder.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("file systems are mounted by root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


def fill(file: Path) -> None:
    """Takes all the space that is left, until the file is removed."""
    with file.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
