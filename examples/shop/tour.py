"""Three batches as a client of a shop would send them, shown with their answers and timings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from examples.shop import terminal
from examples.shop.client import JSON, Answer, Client, Place, answer

CONNECTIONS = 6  # as many as a browser opens
ROUNDS = 15

# What the start page of a shop asks for: some of it is not there, or not for everybody.
START_PAGE = [
    "/categories",
    "/items?size=3",
    "/items?q=tea",
    "/items?category=garden",
    "/items/1",
    "/items/2",
    "/items/3",
    "/items/4",
    "/items/8",
    "/items/8/image",
    "/items/999",
    "/users/me",
]

SLOW_FIRST = ["/reports/sales", "/items/1", "/items/2", "/categories"]

LINKED: list[JSON] = [
    {"id": "login", "method": "POST", "path": "/login", "body": {"name": "ada", "password": "lovelace"}},
    {
        "id": "order",
        "method": "POST",
        "path": "/orders",
        "vars": {"token": "login#/body/token"},
        "headers": {"authorization": "Bearer {token}"},
        "body": {"lines": [{"item_id": 8, "quantity": 2}]},
    },
    {"id": "stock", "path": "/items/8", "depends_on": ["order"]},
    {"id": "create", "method": "POST", "path": "/items", "body": {"name": "Kite", "price": 1500}},
    {"id": "created", "path": "{where}", "vars": {"where": "create#/headers/location"}},
    {"id": "missing", "path": "/items/999"},
    {"id": "skipped", "path": "/items/1", "depends_on": ["missing"]},
]


def tour(place: Place) -> None:
    with Client(place) as client:
        _one_for_many(client, place)
        _streamed(client, place)
        _linked(client, place)


def _one_for_many(client: Client, place: Place) -> None:
    """The same requests one after another, over several connections, and in a batch."""
    batch = [{"path": path} for path in START_PAGE]
    terminal.heading(f"One batch instead of {len(batch)} requests")
    _show_request(batch, place)

    with ExitStack() as opened, ThreadPoolExecutor(CONNECTIONS) as threads:
        crowd = [opened.enter_context(Client(place)) for _ in range(CONNECTIONS)]
        seconds = _medians(
            lambda: _alone(client, START_PAGE),
            lambda: list(
                threads.map(_alone, crowd, (START_PAGE[number::CONNECTIONS] for number in range(CONNECTIONS)))
            ),
            lambda: client.batch(batch),
        )
    answered = client.batch(batch)
    _show_answer(batch, answered)
    if [answer(response) for response in answered["responses"]] != _alone(client, START_PAGE):
        raise AssertionError("an answer in the batch differs from the one given alone")

    terminal.line(f"Each status and body is the same as alone. The median of {ROUNDS} rounds:")
    terminal.line()
    terminal.timing(seconds[0], f"{len(batch)} requests, one after another over one connection")
    terminal.timing(seconds[1], f"{len(batch)} requests over {CONNECTIONS} connections")
    terminal.timing(seconds[2], "1 batch")
    terminal.line()
    terminal.line("Client and server share this machine. Over a network, each request saved is a round trip saved.")


def _streamed(client: Client, place: Place) -> None:
    terminal.heading("Streamed (Accept: application/x-ndjson): each answer as soon as it is there, the slow one last")
    batch = [{"path": path} for path in SLOW_FIRST]
    _show_request(batch, place)
    began = time.perf_counter()
    for record in client.stream(batch):
        terminal.timing(time.perf_counter() - began, json.dumps(record))


def _linked(client: Client, place: Place) -> None:
    terminal.heading("Linked: requests that wait for others, and use what those answered")
    _show_request(LINKED, place)
    _show_answer(LINKED, client.batch(LINKED))


def _alone(client: Client, paths: list[str]) -> list[Answer]:
    return [client.get(path) for path in paths]


def _medians(*ways: Callable[[], object]) -> list[float]:
    """The seconds that each way takes; they take turns, so that a slow moment of the machine hits all of them."""
    rounds = [[_seconds(way) for way in ways] for _ in range(ROUNDS)]
    return [median(times) for times in zip(*rounds, strict=True)]


def _seconds(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def _show_request(batch: list[JSON], place: Place) -> None:
    terminal.line(f"POST {place.batch}")
    terminal.line('{"requests": [')
    for number, request in enumerate(batch, 1):
        terminal.line(f"  {json.dumps(request)}{',' if number < len(batch) else ''}", whole=True)
    terminal.line("]}")
    terminal.line()


def _show_answer(batch: list[JSON], answered: JSON) -> None:
    for request, response in zip(batch, answered["responses"], strict=True):
        asked = f"{request.get('method', 'GET'):4} {request['path']:22}"
        name = f"{request['id']:8}" if "id" in request else ""
        terminal.answer(response["status"], name + asked, json.dumps(response.get("body")))
    terminal.line(json.dumps(answered["summary"]))
    terminal.line()
