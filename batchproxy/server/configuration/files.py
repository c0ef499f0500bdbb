"""The files that settings name: readable, and what they should be."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

from .located import Report
from .node import Node


def check_files(files: Sequence[tuple[str, Path, Node]], report: Report) -> None:
    """`files` are by the pointers of their keys. Of a file that cannot be read, nothing further is said."""
    readable: dict[str, tuple[Path, Node]] = {}
    for pointer, path, node in files:
        try:
            with path.open("rb") as file:
                file.read(1)
        except (OSError, ValueError) as fault:
            why = getattr(fault, "strerror", None) or str(fault)
            at = "" if node.secret else f"; it is {path}"
            report.error(node.origin, f"{node.shown} cannot be read: {why}{at}")
        else:
            readable[pointer] = (path, node)
    for pointer, (path, node) in readable.items():
        folder, _, name = pointer.rpartition("/")
        if name == "ca":
            _check_bundle(path, node, report)
        elif name in ("certificate", "tls_certificate"):
            key = readable.get(f"{folder}/{name.replace('certificate', 'key')}")
            if key is not None:
                _check_pair(path, node, key[0], report)
            elif not any(each.startswith(f"{folder}/") and each.endswith("key") for each, _, _ in files):
                # The key may well be in the same file.
                _check_pair(path, node, path, report)


def _check_bundle(path: Path, node: Node, report: Report) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as fault:
        report.error(node.origin, f"{node.shown} cannot be used, expected certificates in PEM: {_why(fault)}")


def _check_pair(certificate: Path, node: Node, key: Path, report: Report) -> None:
    try:
        # A key with a password would make OpenSSL ask for it on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: b"")
    except (OSError, ValueError) as fault:
        expected = "expected a certificate and its key in PEM, without a password"
        report.error(node.origin, f"{node.shown} cannot be used, {expected}: {_why(fault)}")


def _why(fault: Exception) -> str:
    return str(getattr(fault, "reason", None) or fault)
