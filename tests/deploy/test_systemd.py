"""The systemd units, judged by systemd's own tools, and against the config's defaults."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from batchproxy.server.settings import Server
from tests.deploy.artifacts import DEPLOY
from tests.programs import batchproxy, program, run
from tests.serving import PATIENCE, ask

UNITS = DEPLOY / "systemd"
INSTALLED = "/opt/batchproxy/bin/batchproxy"

CONFIG = """
upstreams:
  api:
    url: http://127.0.0.1:1
"""

# 0 is no exposure, 10 is all; in tenths, as the tool takes it. A unit without any protection has 9.6.
MOST_EXPOSURE = 20


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with a program in their ExecStart that is there: systemd looks whether it is."""
    for path in UNITS.iterdir():
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace(INSTALLED, sys.executable))
    return tmp_path


def settings(unit: str) -> dict[str, list[str]]:
    """The settings of a unit, whatever their sections."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^([A-Za-z]+)=(.*)$", (UNITS / unit).read_text("utf-8")):
        found.setdefault(name, []).append(value)
    return found


def test_systemd_takes_the_units(units: Path) -> None:
    """`systemd-analyze verify` has nothing to say about them."""
    verified = run(program("systemd-analyze"), "verify", *sorted(units.iterdir()))
    assert verified.stdout + verified.stderr == ""


def test_the_example_lines_are_right_as_well(units: Path) -> None:
    """The lines that are there to be uncommented are taken too."""
    service = units / "batchproxy.service"
    text, changed = re.subn(r"(?m)^#([A-Z][A-Za-z]+=)", r"\1", service.read_text("utf-8"))
    assert changed == 3
    service.write_text(text)
    verified = run(program("systemd-analyze"), "verify", *sorted(units.iterdir()))
    assert verified.stdout + verified.stderr == ""


def test_the_service_is_exposed_little(units: Path) -> None:
    """`systemd-analyze security` rates it below 2.0 of 10."""
    run(
        program("systemd-analyze"),
        "security",
        "--offline=true",
        f"--threshold={MOST_EXPOSURE}",
        units / "batchproxy.service",
    )


def test_the_service_listens_at_the_socket() -> None:
    """The descriptor that systemd hands over is the one the proxy is told of, and the address is the usual one."""
    service, listener = settings("batchproxy.service"), settings("batchproxy.socket")
    (start,) = service["ExecStart"]
    assert start == f"{INSTALLED} serve --config /etc/batchproxy/batchproxy.yaml --listen fd:3"
    assert listener["ListenStream"] == [Server().listen]
    assert service["Requires"] == ["batchproxy.socket"]


def test_the_service_is_restarted_but_not_for_a_bad_config() -> None:
    """Reload is SIGHUP; a crash starts it anew, exit code 78 does not."""
    service = settings("batchproxy.service")
    assert service["Type"] == ["notify"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["78"]


def test_the_service_has_time_to_end() -> None:
    """systemd waits longer than the default grace, with room for a drain delay."""
    (most,) = settings("batchproxy.service")["TimeoutStopSec"]
    assert float(most) > Server().drain_delay + Server().grace


def test_the_process_tells_systemd_when_it_is_ready(tmp_path: Path) -> None:
    """As `Type=notify` asks for: READY=1 when requests are answered, STOPPING=1 when the end begins."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(PATIENCE)
        with batchproxy(CONFIG, tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify")) as proxy:
            wait_for(notices, "READY=1")
            assert ask(proxy, "GET", "/batch").status == 200
        wait_for(notices, "STOPPING=1")


def wait_for(notices: socket.socket, notice: str) -> None:
    while notice not in notices.recv(4096).decode().splitlines():
        pass
