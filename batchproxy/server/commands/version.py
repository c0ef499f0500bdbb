"""`batchproxy version`."""

from __future__ import annotations

import platform
import ssl
from importlib.metadata import PackageNotFoundError, version as installed
from typing import Annotated

import typer

from .speaking import data

_STACK = (
    "msgspec", "uvicorn", "httptools", "uvloop", "websockets", "httpx", "h2", "ruamel.yaml", "watchfiles",
    "typer", "rich",
)  # fmt: skip


def version(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Of everything below, too: for bug reports.")
    ] = False,
) -> None:
    """Print the version.

    \b
    Examples:
      batchproxy version
      batchproxy version --verbose
    """
    data(f"batchproxy {_of('batchproxy')}")
    if verbose:
        data(f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}")
        data(ssl.OPENSSL_VERSION)
        for name in _STACK:
            data(f"{name} {_of(name)}")


def _of(name: str) -> str:
    try:
        return installed(name)
    except PackageNotFoundError:
        return "is not installed"
