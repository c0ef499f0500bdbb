"""On what a run was made: the machine, and the versions of what takes part.

Knows: where Linux and programs tell that. A version that nobody can tell is left out.
"""

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import STDOUT, SubprocessError, check_output

PACKAGES: Sequence[str] = (
    "batchproxy",
    "msgspec",
    "uvloop",
    "httptools",
    "uvicorn",
    "starlette",
    "fastapi",
    "orjson",
    "httpx",
    "aiohttp",
    "granian",
    "hypercorn",
    "sqlalchemy",
    "aiosqlite",
    "asyncpg",
)
PROGRAMS: Mapping[str, Sequence[str]] = {
    "nginx": ("nginx", "-v"),
    "node": ("node", "--version"),
    "haproxy": ("haproxy", "-v"),
    "caddy": ("caddy", "version"),
    "valgrind": ("valgrind", "--version"),
    "PostgreSQL": ("psql", "--version"),
}
VERSION = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, str]:
    """What somebody needs to know who compares with another machine."""
    return {
        "CPU": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
    }


def _cpu_model() -> str:
    try:
        told = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        told = None
    return told[1] if told else platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


def versions() -> dict[str, str]:
    """By name: Python, packages, programs."""
    found = {"Python": f"{platform.python_version()} ({platform.python_compiler()})", "SQLite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"
    for name, (program, *arguments) in PROGRAMS.items():
        if (place := shutil.which(program, path=path)) and (told := _told([place, *arguments])):
            found[name] = told
    return found


def _told(command: Sequence[str]) -> str:
    try:
        said = check_output(command, stderr=STDOUT, text=True, timeout=20)
    except (OSError, SubprocessError):
        return ""
    number = VERSION.search(said)
    return number[0] if number else ""
