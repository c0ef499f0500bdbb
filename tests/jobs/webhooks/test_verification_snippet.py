"""What the documentation tells receivers to do: its snippets believe what is sent, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from batchproxy.jobs.webhooks import WebhookSender
from batchproxy.jobs.webhooks.schedule import DELAYS
from batchproxy.jobs.webhooks.signing import signature
from tests.documents import DOCS, blocks, section, tables
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .sending import OTHER, SECRET, receiving, settings, tell

TEXT = section((DOCS / "jobs.md").read_text("utf-8"), "Webhooks")
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 65))
BODY = '{"type":"batch.job.completed","data":"ü"}'.encode()

Case = tuple[dict[str, str], bytes, str]
Verify = Callable[[list[Case]], list[bool]]


def in_python(cases: list[Case]) -> list[bool]:
    [block] = [each for each in blocks(TEXT) if each.options.get("name") == "verifying"]
    names: dict[str, Any] = {}
    exec(block.text, names)
    return [names["verified"](*case) for case in cases]


def in_node(cases: list[Case]) -> list[bool]:
    if shutil.which("node") is None:
        if os.environ.get("CI"):
            pytest.fail("node is not on this machine")
        pytest.skip("node is not on this machine")
    found = re.search(r"^~~~js\n(.*?)^~~~$", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    asked = [[headers, base64.b64encode(body).decode(), secret] for headers, body, secret in cases]
    judge = (
        f"{found[1]}\nconst cases = {json.dumps(asked)};\n"
        'const said = cases.map(([h, b, s]) => verified(h, Buffer.from(b, "base64"), s));\n'
        "console.log(JSON.stringify(said));\n"
    )
    command = ["node", "--input-type=module", "-"]
    done = subprocess.run(command, input=judge, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: list[bool] = json.loads(done.stdout)
    return said


def said(signed: str, timestamp: object, message_id: str = "msg_1") -> dict[str, str]:
    return {"webhook-id": message_id, "webhook-timestamp": str(timestamp), "webhook-signature": signed}


def without(headers: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: value for each, value in headers.items() if each != name}


@pytest.mark.parametrize("verify", [in_python, in_node])
def test_the_snippets_believe_what_is_sent_and_nothing_else(verify: Verify) -> None:
    """Also while a secret is rotated; not what was changed, is too old or too new, or is not there."""
    now = int(time.time())
    right = signature([KEY], "msg_1", now, BODY)
    both = signature([OTHER_KEY, KEY], "msg_1", now, BODY)
    believed: list[Case] = [
        (said(right, now), BODY, SECRET),
        (said(both, now), BODY, SECRET),
        (said(both, now), BODY, OTHER),
        (said("v1a,AAAA " + right, now), BODY, SECRET),
    ]
    old, new = now - 400, now + 400
    refused: list[Case] = [
        (said(right, now), BODY, OTHER),
        (said(right, now), BODY + b" ", SECRET),
        (said(right, now + 1), BODY, SECRET),
        (said(right, now, "msg_2"), BODY, SECRET),
        (said(signature([KEY], "msg_1", old, BODY), old), BODY, SECRET),
        (said(signature([KEY], "msg_1", new, BODY), new), BODY, SECRET),
        (said(right, "1e9"), BODY, SECRET),
        (said(right, ""), BODY, SECRET),
        (said(right, "9" * 5000), BODY, SECRET),
        (said("", now), BODY, SECRET),
        (said("v1,", now), BODY, SECRET),
        (said("v1", now), BODY, SECRET),
        (said("ü", now), BODY, SECRET),
        (said(right.replace("v1,", "v2,"), now), BODY, SECRET),
        (said(right[:-2], now), BODY, SECRET),
        *((without(said(right, now), name), BODY, SECRET) for name in said(right, now)),
        ({}, BODY, SECRET),
    ]
    assert verify(believed) == [True] * len(believed)
    assert verify(refused) == [False] * len(refused)


@pytest.mark.parametrize("verify", [in_python, in_node])
@on_a_loop
async def test_the_snippets_believe_what_a_sender_sends(verify: Verify, sqlite: Place) -> None:
    async with sqlite.opened() as store, receiving() as receiver, WebhookSender(store, settings(receiver.port)):
        await tell(store, receiver.url)
        [request] = await receiver.got(1)
    assert verify([(dict(request.headers), request.body, SECRET)]) == [True]


def test_the_schedule_is_documented() -> None:
    units = {"s": 1, "min": 60, "h": 3600}
    [[_, *tries], [_, *delays]] = next(table for table in tables(TEXT) if table[0][0] == "failed tries")
    assert tries == [str(failed) for failed in range(1, len(DELAYS) + 2)]
    *written, last = delays
    assert [int(each.split()[0]) * units[each.split()[1]] for each in written] == list(DELAYS)
    assert last == "given up"
