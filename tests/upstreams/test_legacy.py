"""The older example shop as the upstream, in a process: pages, cookies, forms and JSON of a WSGI app."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from examples.shop.client import Client, Place
from examples.shop.tour import LINKED
from tests.equivalence.comparing import NDJSON, PARALLEL, Case, json, text
from tests.programs import serving
from tests.serving import Server, ask
from tests.upstreams.thrice import FRONTS, differences

FORM = {"content-type": "application/x-www-form-urlencoded"}
TOKEN = (("[A-Za-z0-9_-]{32}", "token"),)
NUMBER = (('(?<="id": )[0-9]+|(?<=/items/)[0-9]+', "number"),)
TOTAL = (('"total": [0-9]+', "total"),)  # each new item adds to it

CASES = [
    Case("a page that counts visits", "GET", "/?q=a", headers={"cookie": "visits=41"}),
    Case("a list", "GET", "/items?size=3&page=2", masks=TOTAL),
    Case("an item", "GET", "/items/1"),
    Case("its page", "GET", "/items/1", headers={"accept": "text/html"}),
    Case("only its head", "HEAD", "/items/1"),
    Case("its picture", "GET", "/items/8/image"),
    Case("no such item", "GET", "/items/999", 404),
    Case("no such number", "GET", "/items?size=many", 422),
    Case("a method that is not for this", "DELETE", "/items/1", 405),
    Case("a log-in by a form", "POST", "/login", body=text("name=ada&password=lovelace"), headers=FORM, masks=TOKEN),
    Case("a log-in by JSON", "POST", "/login", body=json('{"name": "ada", "password": "lovelace"}'), masks=TOKEN),
    Case("a wrong password", "POST", "/login", 401, body=json('{"name": "ada", "password": "byron"}')),
    Case("who is this", "GET", "/users/me", 401),
    Case("a new item", "POST", "/items", 201, body=json('{"name": "Kite"}'), masks=NUMBER),
    Case("not JSON", "POST", "/items", 400, body=text("{")),
    Case("a body that is too large", "POST", "/items", 413, body=text("x" * 70_000)),
    Case("a slow report", "GET", "/reports/sales"),
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    command = [sys.executable, "-m", "examples.legacy"]
    with serving(lambda listener: [*command, f"fd:{listener.fileno()}"]) as server:
        yield server


@pytest.fixture(scope="module", params=FRONTS)
def proxy(request: pytest.FixtureRequest, upstream: Server) -> Iterator[Server]:
    with FRONTS[request.param](upstream) as server:
        yield server


def test_three_ways_give_one_answer(upstream: Server, proxy: Server) -> None:
    """Directly, alone through the proxy and in a batch, the older shop's answers are the same."""
    assert differences(upstream, proxy, CASES, ways=(PARALLEL, NDJSON)) == []


def test_a_cookie_of_the_batch_logs_its_items_in(proxy: Server) -> None:
    """The cookie that the shop has set at the log-in, sent with the batch, is what its items are known by."""
    answer = ask(proxy, "POST", "/login", [("Content-Type", FORM["content-type"])], b"name=ada&password=lovelace")
    cookie = str(answer.header("set-cookie")).partition(";")[0]
    headers = [("Content-Type", "application/json"), ("Cookie", cookie)]
    batch = ask(proxy, "POST", "/batch", headers, b'{"requests": [{"path": "/users/me"}]}').json()
    assert batch["responses"][0]["body"] == {"id": 1, "name": "ada"}


def test_linked_requests_work_as_with_the_middleware(proxy: Server) -> None:
    """Values out of the older shop's answers, its Location among them, are put into later items."""
    with Client(Place(proxy.host, proxy.port, api="", batch="/batch")) as client:
        statuses = [response["status"] for response in client.batch(LINKED)["responses"]]
    assert statuses == [200, 201, 200, 201, 200, 404, 424]
