"""Signatures are those of the reference library; secrets come from where the settings say, and are never shown."""

from __future__ import annotations

import base64
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from batchproxy.engine.errors import SettingError
from batchproxy.jobs.webhooks import WebhookSettings
from batchproxy.jobs.webhooks.signing import Secrets, signature

from .sending import OTHER, SECRET, VARIABLE

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
SIZES = st.integers(24, 64).flatmap(lambda size: st.binary(min_size=size, max_size=size))


def headers(signed: str, timestamp: int, message_id: str = "msg_1") -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signed}


@given(
    secret=SIZES,
    message_id=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    text=st.text(st.characters(codec="utf-8")),
)
def test_signatures_are_those_of_the_reference_library(secret: bytes, message_id: str, text: str) -> None:
    """For secrets of every length it computes the same, and believes ours."""
    timestamp, body = int(time.time()), text.encode("utf-8")
    signed = signature([secret], message_id, timestamp, body)
    reference = Webhook(secret)
    assert signed == reference.sign(message_id, datetime.fromtimestamp(timestamp, UTC), body.decode())
    reference.verify(body, headers(signed, timestamp, message_id), json_parse=False)


def test_each_secret_of_a_rotation_is_believed() -> None:
    """Who has the new or the old one verifies; who has a third one does not."""
    keys = [bytes([n]) * 24 for n in range(3)]
    timestamp = int(time.time())
    said = headers(signature(keys[:2], "msg_1", timestamp, b"{}"), timestamp)
    assert said["webhook-signature"].count("v1,") == 2
    for key in keys[:2]:
        Webhook(key).verify(b"{}", said)
    with pytest.raises(WebhookVerificationError):
        Webhook(keys[2]).verify(b"{}", said)


def test_whatever_is_changed_is_not_believed() -> None:
    """Id, time and body are all signed."""
    now = int(time.time())
    signed = signature([b"k" * 24], "msg_1", now, b"{}")
    reference = Webhook(b"k" * 24)
    reference.verify(b"{}", headers(signed, now))
    for body, said in (
        (b"[]", headers(signed, now)),
        (b"{}", headers(signed, now + 1)),
        (b"{}", headers(signed, now, "msg_2")),
    ):
        with pytest.raises(WebhookVerificationError):
            reference.verify(body, said)


def test_secrets_come_from_the_environment_and_from_files(tmp_path: Path) -> None:
    """In their order; a file may have several, and is read again each time."""
    file = tmp_path / "secrets"
    file.write_text(f"{OTHER}\n")
    secrets = Secrets(WebhookSettings(secrets={"a": [f"env:{VARIABLE}", f"file:{file}"], "b": [f"file:{file}"]}))
    assert secrets.of("a") == [bytes(range(32)), bytes(range(1, 65))]
    file.write_text(f"{SECRET}\n{OTHER}\n")
    assert secrets.of("b") == [bytes(range(32)), bytes(range(1, 65))]
    with pytest.raises(SettingError, match="secrets='c'"):
        secrets.of("c")


def test_a_secret_may_lack_its_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference library has it."""
    monkeypatch.setenv(VARIABLE, SECRET.rstrip("="))
    assert Secrets(WebhookSettings(secrets={"a": [f"env:{VARIABLE}"]})).of("a") == [bytes(range(32))]


def encoded(size: int) -> str:
    return "whsec_" + base64.b64encode(b"s" * size).decode()


@pytest.mark.parametrize(
    "text",
    [
        encoded(23),
        encoded(65),
        encoded(32).removeprefix("whsec_"),
        "whsec_" + "!" * 40,
        "whsec_" + "ü" * 40,
        "whsk_" + encoded(32).removeprefix("whsec_"),
        "",
        " ".join([encoded(32)] * 9),
    ],
    ids=["short", "long", "prefix", "base64", "letters", "other kind", "empty", "many"],
)
def test_a_wrong_secret_is_refused_and_not_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was wrong is told without it."""
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(SettingError) as refused:
        Secrets(WebhookSettings(secrets={"a": [f"env:{VARIABLE}"]}))
    assert "secrets.a" in str(refused.value)
    for part in text.split():
        assert part not in str(refused.value)


@pytest.mark.parametrize("reference", ["env:BATCHPROXY_TEST_NOT_THERE", "file:/nonexistent/secret", "file:/"])
def test_a_secret_that_is_not_there_is_refused(reference: str) -> None:
    with pytest.raises(SettingError, match=r"secrets\.a"):
        Secrets(WebhookSettings(secrets={"a": [reference]}))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(SettingError, match=f"a file with secrets, whsec_…; it is {re.escape(str(file))}"):
        Secrets(WebhookSettings(secrets={"a": [f"file:{file}"]}))


def test_the_path_that_was_tried_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole: a relative one alone says nothing about where it was looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=f"No such file or directory; it is {re.escape(str(tmp_path))}/secret"):
        Secrets(WebhookSettings(secrets={"a": ["file:secret"]}))
