"""Rounds of `python -m benchmarks.chaos` in processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.chaos.drawing import SQLITE, drawn
from benchmarks.chaos.lane import packed, unpacked
from benchmarks.chaos.running import Report
from benchmarks.chaos.site import ROOT
from tests.jobs.working.lines import until

PATIENCE = 60


def test_a_report_comes_over() -> None:
    """As it was."""
    report = Report(round=drawn(5, 17), wrong=["…"])
    line = packed(report)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert unpacked(line) == report


def test_an_interrupted_one_leaves_nothing(tmp_path: Path) -> None:
    """Neither processes nor folders; it tells what it has, and which exit code says so."""
    words = [sys.executable, "-m", "benchmarks.chaos", "--database", SQLITE, "--rounds", "3", "--at-once", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            asyncio.run(until(lambda: list(tmp_path.glob("chaos-0-*/web.*.log"))))
            assert _with(tmp_path)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted, after 0 of 3 rounds" in said
    assert list(tmp_path.iterdir()) == []
    assert _with(tmp_path) == []


def _with(folder: Path) -> list[int]:
    """The processes that were started with it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass  # it has ended meanwhile
    return found
