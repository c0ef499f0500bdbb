"""The merged configuration as `check --print` shows it."""

from __future__ import annotations

import re
from pathlib import Path

from batchproxy.server.config import load, shown

from .configured import UPSTREAM, loaded


def test_each_value_is_shown_with_its_origin(tmp_path: Path) -> None:
    """Every line with a value says where it came from."""
    found = loaded(tmp_path, UPSTREAM + "server: {grace: 1m}\n", environment={"BATCHPROXY_SERVER__WORKERS": "2"})
    lines = shown(found).splitlines()
    assert f"  grace: 1m  # {tmp_path}/batchproxy.yaml:2:17" in lines
    assert "  workers: 2  # environment BATCHPROXY_SERVER__WORKERS" in lines
    assert "  watch: true  # default" in lines
    assert [line for line in lines if not re.search(r":$|  # (default|environment |/)", line)] == []


def test_secrets_are_masked(tmp_path: Path) -> None:
    """Secret keys, secret headers, and whatever came from a file are not shown."""
    (tmp_path / "secret").write_text("hunter2", "utf-8")
    text = """
    server: {admin_token: hunter2, name: '${file:secret}', allowed_hosts: ['${file:secret}']}
    upstreams: {a: {url: 'http://127.0.0.1:9000'}}
    routes:
      - {upstream: a, add_headers: {Authorization: Bearer hunter2, X-Api-Key: hunter2, X-Name: '${file:secret}'}}
    """
    printed = shown(loaded(tmp_path, text))
    assert "hunter2" not in printed
    assert printed.count('"***"') == 6


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """Without secrets, the printed configuration is a config file of the same digest."""
    text = """
    server: {name: '$${x}', log: {level: debug}}
    upstreams:
      "1": {url: 'http://127.0.0.1:9000', tls: {min_version: 1.2}, health_check: {interval: 90s}}
    routes:
      - upstream: "1"
        add_headers: {X-A: 'true', X-B: ': #', X-C: '1e3', X-D: 'ü "x" \\ $$', X-E: '', X-F: "~", X-G: "- a"}
        allow: ["GET /a/*", /b]
        timeout: 1.5s
    endpoints:
      - {path: /v1.0/$batch, max_per_batch: {"POST /login": 1}, execution: ordered_writes}
    """.replace("name: '$${x}', ", "")
    first = loaded(tmp_path, text)
    again = tmp_path / "again.yaml"
    again.write_text(shown(first), "utf-8")
    assert load(again, environment={}).digest == first.digest
