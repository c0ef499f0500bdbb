"""Completion in real shells: what the key TAB makes of a word."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from .terminals import session

TAB, CLEAR, ENTER = b"\t", b"\x15", b"\r"
# As the documents say. What a shell reads before is none of ours: it starts bare.
SET_UP = 'eval "$(batchproxy --show-completion)"'
SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), SET_UP),
    "zsh": (("zsh", "-f", "-i"), f"autoload -Uz compinit; compinit -u; {SET_UP}"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes(shell: str, tmp_path: Path) -> None:
    """Verbs, options, words that an option may have, and files."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not on this machine")
    command, set_up = SHELLS[shell]
    (tmp_path / "api-of-mine.yaml").touch()
    ours = tmp_path / "bin" / "batchproxy"
    ours.parent.mkdir()
    ours.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchproxy "$@"\n', "utf-8")
    ours.chmod(0o755)
    variables = {
        **{"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "INPUTRC": os.devnull, "PS1": "$ ", "TERM": "dumb"},
        "PATH": f"{ours.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    with session(*command, columns=200, variables=variables) as running:
        running.type(f"cd '{tmp_path}'; {set_up}; echo 'is' 'ready'".encode() + ENTER)
        running.until(rb"\nis ready")
        for typed, completed in (
            (b"batchproxy vers", b"batchproxy version "),
            (b"batchproxy serve --log-f", b"batchproxy serve --log-format "),
            (b"batchproxy --no-color check --format gi", b"--format github "),
            (b"batchproxy check -c api-", b"check -c api-of-mine.yaml "),
            (b"batchproxy send ./api-", b"send ./api-of-mine.yaml "),
        ):
            running.type(typed + TAB)
            running.until(completed)
            running.type(CLEAR)
        running.type(b"batchproxy s" + TAB + TAB)
        running.until(rb"schema[^$]+send[^$]+serve")
        running.type(CLEAR + b"batchproxy vers" + TAB + ENTER)
        running.until(rb"\nbatchproxy [0-9]+\.")
        running.type(b"exit" + ENTER)
        assert running.end() == 0
