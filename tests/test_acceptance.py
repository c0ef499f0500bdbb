"""An existing client that knows only a part of the protocol, against an app that was not written for batches."""

from collections.abc import Iterator

import pytest
import requests

from examples.shop.batched import app
from tests.serving import Server, serve


@pytest.fixture
def shop() -> Iterator[Server]:
    with serve(app) as server:
        yield server


def existing_client(shop: str) -> None:
    response = requests.post(
        f"{shop}/api/batch",
        json={
            "requests": [
                {"method": "GET", "path": "/items/1"},
                {"method": "POST", "path": "/items", "body": {"name": "NewItem"}},
            ]
        },
    )
    for answer in response.json()["responses"]:
        print(answer["status"], answer["body"]["name"], answer["body"])


def test_an_existing_client_works_unchanged(shop: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The program that only posts `requests` and reads `responses` prints a status and a body for each."""
    existing_client(shop.url)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("200 Notes on the Engine {'id': 1, ")
    assert second.startswith("201 NewItem {'id': 13, ")


def test_what_a_batch_changes_is_seen_by_everybody(shop: Server) -> None:
    """An item of a batch does what the same request does alone: the created thing can be fetched."""
    existing_client(shop.url)
    created = requests.get(f"{shop.url}/api/items/13")
    assert (created.status_code, created.json()["name"]) == (200, "NewItem")
