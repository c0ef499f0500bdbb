"""The official SDK for Node, unmodified, as it is in the registry of npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import programs

from .process import running
from .site import Site, chat, lines

CLIENT = Path(__file__).with_name("client.mjs")
VERSION = "6"


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script, where it finds the SDK. Without that the test is skipped, or fails where all has to be there."""
    programs.program("node")
    folder = tmp_path_factory.mktemp("node")
    npm = shutil.which("npm")
    # From its cache, if it is there: the registry is asked once on a machine, not by each process that runs tests.
    options = ["--prefer-offline", "--no-audit", "--no-fund", "--prefix", str(folder)]
    command = [npm or "npm", "install", *options, f"openai@{VERSION}"]
    if npm is None or subprocess.run(command, capture_output=True, check=False, timeout=100).returncode != 0:
        if os.environ.get("CI"):
            pytest.fail("the SDK cannot be installed with npm")
        pytest.skip("the SDK cannot be installed with npm")
    return Path(shutil.copy(CLIENT, folder))


def test_everything_with_node(shared: Site, client: Path, tmp_path: Path) -> None:
    """Upload as a stream, create, poll, read both files, page through lists, cancel, be refused."""
    everything(client, f"{shared.server.url}/v1", tmp_path)


def test_everything_with_node_through_the_process(client: Path, tmp_path: Path) -> None:
    """The same, in front of another server."""
    with running(tmp_path) as (process, _):
        everything(client, f"{process.server.url}/v1", tmp_path)


def everything(client: Path, url: str, folder: Path) -> None:
    file = folder / "in.jsonl"
    file.write_bytes(lines(chat("a"), chat("b", "fail"), chat("ü")))
    saw = json.loads(programs.run("node", client, url, file).stdout)
    done = saw["done"]
    assert done["status"] == "completed"
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert [line["custom_id"] for line in saw["output"]] == ["a", "ü"]
    assert [line["response"]["status_code"] for line in saw["output"]] == [200, 200]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in saw["error"]] == [("b", 400)]
    assert saw["invalid"]["status"] == "failed"
    assert [(each["code"], each["line"]) for each in saw["invalid"]["errors"]["data"]] == [("invalid_json_line", 1)]
    # It sends the fields of the form behind the file.
    assert saw["short"]["expires_at"] - saw["short"]["created_at"] == 3600
    assert saw["cancelled"] in ("cancelled", "completed")
    assert len(saw["batches"]) == 3
    assert len(set(saw["files"])) == len(saw["files"]) >= 6
    assert saw["deleted"] == {"id": saw["short"]["id"], "object": "file", "deleted": True}
    assert saw["refusals"] == [
        ["NotFoundError", 404, "not_found", "id", "invalid_request_error"],
        ["NotFoundError", 404, "not_found", "id", "invalid_request_error"],
        ["NotFoundError", 404, "not_found", "id", "invalid_request_error"],
        ["BadRequestError", 400, "file_not_found", "input_file_id", "invalid_request_error"],
        ["BadRequestError", 400, "invalid_value", "purpose", "invalid_request_error"],
    ]
