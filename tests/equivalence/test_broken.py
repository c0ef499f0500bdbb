"""Apps that break off or bend the rules: what a client alone sees as a broken connection, a batch names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount

from batchproxy import BatchMiddleware
from tests.equivalence.comparing import NDJSON, PARALLEL, WAYS, Case, Way, alone, compared, in_batch
from tests.equivalence.echo_app import HEADER, Answer, echo
from tests.serving import Malformed, Server, ask, serve

DECLARED = [("content-type", "text/plain"), ("content-length", "10")]
WHOLE = Case("a whole answer", "GET", "/whole")


@pytest.fixture(scope="module", params=["h11", "httptools"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serve(BatchMiddleware(echo), http=request.param, access_log=False) as running:
        yield running


def told(answer: Answer) -> Case:
    return Case("told", "GET", "/told", headers={HEADER: answer.written()})


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(raises="between", chunks=[b"half", b"other half"]), id="raises between two chunks"),
        pytest.param(Answer(raises="between", headers=DECLARED, chunks=[b"half"]), id="raises after the start"),
        pytest.param(Answer(headers=DECLARED, chunks=[b"short"]), id="sends less than declared"),
    ],
)
def test_an_answer_cut_off_alone_is_truncated_in_a_batch(server: Server, answer: Answer, way: Way) -> None:
    """An answer that a client alone gets in part is never shown as whole, and the other items are."""
    with pytest.raises(Malformed):
        alone(server, told(answer))
    expected = alone(server, WHOLE)
    first, broken, last = in_batch(server, way, [WHOLE, told(answer), WHOLE])
    assert (broken.status, broken.error) == (502, "truncated")
    assert [line for entry in (first, last) for line in compared(WHOLE, way, expected, entry)] == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(raises="before"), id="raises before the start"),
        pytest.param(Answer(silent=True), id="returns without a word"),
    ],
)
def test_no_answer_alone_is_an_app_error_in_a_batch(server: Server, answer: Answer, way: Way) -> None:
    """Where the server answers 500 in the app's place, the item is 500 `app_error`, the others are answered."""
    expected = alone(server, WHOLE)
    first, broken, last = in_batch(server, way, [WHOLE, told(answer), WHOLE])
    assert alone(server, told(answer)).status == broken.status == 500
    assert broken.error == "app_error"
    assert [line for entry in (first, last) for line in compared(WHOLE, way, expected, entry)] == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_an_answer_that_is_complete_stands(server: Server, way: Way) -> None:
    """An app that raises after the end of its answer has answered, alone and in a batch."""
    case = told(Answer(raises="after", chunks=[b"a", b"b"]))
    [entry] = in_batch(server, way, [case])
    assert list(compared(case, way, alone(server, case), entry)) == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_blanks_around_a_header_are_no_part_of_it(way: Way) -> None:
    """A client alone never sees the blanks around a value (RFC 9110, section 5.5), so an entry does not show them."""
    case = told(Answer(headers=[("x-before", "  a"), ("x-after", "a \t"), ("x-within", "a  b"), ("x-blank", " ")]))
    with serve(BatchMiddleware(echo), http="httptools", access_log=False) as server:
        [entry] = in_batch(server, way, [case])
        assert list(compared(case, way, alone(server, case), entry)) == []


class Interfering(BaseHTTPMiddleware):
    """Calls the app, and then does not send on what it answered."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        await call_next(request)
        if "raise" in request.query_params:
            raise ValueError("after the app has answered")
        return PlainTextResponse("another answer", 418)


@pytest.mark.parametrize(("query", "status"), [("?raise", 500), ("?replace", 418)])
@pytest.mark.parametrize("way", [PARALLEL, NDJSON], ids=lambda way: way.name)
def test_a_middleware_outside_may_throw_a_batch_away(query: str, status: int, way: Way) -> None:
    """A middleware outside of ours that fails after the answer, or replaces it, answers a batch as any request."""
    app = Starlette(routes=[Mount("/", echo)])
    app.add_middleware(BatchMiddleware)
    app.add_middleware(Interfering)
    headers = [("Content-Type", "application/json"), ("Accept", way.accept)]
    with serve(app, access_log=False) as server:
        assert ask(server, "GET", f"/whole{query}").status == status
        answer = ask(server, "POST", f"/batch{query}", headers, b'{"requests": [{"path": "/whole?a"}]}')
        assert answer.status == status
