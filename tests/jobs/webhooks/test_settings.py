"""Settings of webhooks that cannot work are refused, each with what was expected."""

from __future__ import annotations

from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.webhooks import WebhookSettings

from .sending import SECRET


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"secrets": ["env:X"]}, "secrets="),
        ({"secrets": {"a b": ["env:X"]}}, "a name of letters"),
        ({"secrets": {"a": []}}, "at least one"),
        ({"secrets": {"a": "env:X"}}, "a list of strings"),
        ({"secrets": {"a": [SECRET]}}, "not the secret itself"),
        ({"secrets": {"a": ["env:"]}}, "not the secret itself"),
        ({"http": "yes"}, "true or false"),
        ({"ports": "443"}, "a list of ports"),
        ({"ports": [0]}, "a port from 1 to 65535"),
        ({"ports": [True]}, "a port from 1 to 65535"),
        ({"ports": ["443"]}, "a port from 1 to 65535"),
        ({"allow": "10.0.0.0/8"}, "a list of strings"),
        ({"allow": ["10.0.0.1/8"]}, "a CIDR, or the name"),
        ({"allow": ["*.example.com"]}, "a CIDR, or the name"),
        ({"allow": ["Hooks.example.com"]}, "lower-case"),
        ({"timeout": 0}, "a number of seconds"),
        ({"concurrency": 0}, "an integer"),
        ({"per_host": None}, "an integer"),
    ],
)
def test_what_cannot_work_is_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told) as refused:
        WebhookSettings(**said)
    assert SECRET not in str(refused.value)


def test_allowed_are_networks_and_names() -> None:
    """An address alone is the network of it."""
    settings = WebhookSettings(allow=["10.0.0.0/8", "fd00::/8", "192.168.1.7", "hooks.internal", "localhost"])
    assert [str(each) for each in settings.allowed_networks] == ["10.0.0.0/8", "fd00::/8", "192.168.1.7/32"]
    assert settings.allowed_hosts == {"hooks.internal", "localhost"}
