"""Where a file of SQLite may lie: in a folder that is there, on a disk of this machine.

Locks over a network are not reliable, and shared memory between machines does not exist: a store there is lost sooner
or later, so it is refused.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from ...engine.errors import SettingError
from .errors import StoreMissing, StoreReadOnly

MOUNTS = Path("/proc/self/mountinfo")

NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
        "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs",
        "fuse.ceph", "fuse.cephfs", "fuse.davfs", "fuse.gcsfuse", "fuse.geesefs", "fuse.glusterfs", "fuse.goofys",
        "fuse.juicefs", "fuse.mount-s3", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "fuse.vmhgfs-fuse",
    }
)  # fmt: skip


def check_place(file: Path, mounts: Path = MOUNTS) -> None:
    """Raises `SettingError` if the file would lie on a network file system, `StoreMissing` if its folder is missing,
    and `StoreReadOnly` if it or its folder may not be written."""
    folder = file.parent
    if not folder.is_dir():
        raise StoreMissing(
            f"There is no folder {folder} for the store; make it, and give it to the user of this process."
        )
    kind = file_system(folder, mounts)
    if kind in NETWORK:
        raise SettingError(
            "url",
            str(file),
            f"expected a disk of this machine; {folder} is on {kind}, where SQLite loses data: use postgresql://",
        )
    # SQLite writes its log beside the file, so that the folder counts too.
    for place in (folder, file):
        if place.exists() and not os.access(place, os.W_OK):
            raise StoreReadOnly(f"{place} may not be written by the user of this process; the store needs that.")


def make_private(file: Path) -> None:
    """A new store is for the user of this process alone; SQLite gives the files beside it the same mode."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass


def file_system(place: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of file system that a folder is on; None where the machine does not tell."""
    try:
        lines = mounts.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    path = place.resolve()
    found, depth = None, -1
    for line in lines:
        # See proc(5): … … … root mount-point options [tags] - type source options
        mount, _, described = line.partition(" - ")
        point = Path(_unescaped(mount.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = described.split()[0], len(point.parts)
    return found


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name)
