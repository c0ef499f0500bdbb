"""Section 1, "Browsers": cross-site requests, preflights, CORS headers."""

from __future__ import annotations

import pytest

from batchproxy import BatchMiddleware

from .api import Api, answer
from .exchange import HOST, HeaderMap, Reply, ask, send_batch

TRUSTED = "https://app.example"
OTHER = "https://evil.example"
CORS = {"access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers"}


def cors_headers(reply: Reply) -> set[str]:
    return {name.lower() for name, _ in reply.headers if name.lower().startswith("access-control-")}


async def preflight(app: BatchMiddleware, origin: str, path: str = "/batch", **more: str) -> Reply:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
        "Sec-Fetch-Site": "cross-site",
    }
    return await ask(app, method="OPTIONS", path=path, headers={**asked, **more})


# Cross-site requests


@pytest.mark.parametrize(
    "media_type",
    [
        None,
        "",
        "text/plain",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonx",
        "application/x+jsonp",
        "text/json-not",
    ],
)
@pytest.mark.parametrize("site", [None, "same-origin", "cross-site"])
async def test_what_a_form_can_send_runs_nothing(media_type: str | None, site: str | None) -> None:
    """The JSON content type forces a preflight, which is the first defence: no other type is read."""
    api = Api()
    reply = await send_batch(
        BatchMiddleware(api), [{"path": "/a"}], headers={"content-type": media_type, "sec-fetch-site": site}
    )
    assert reply.refusal[:2] in [(415, "unsupported_media_type"), (403, "cross_site")]
    assert site == "cross-site" or reply.status == 415
    assert api.arrived == []


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        # with the header, it decides
        ({"Sec-Fetch-Site": "same-origin", "Origin": f"https://{HOST}"}, True),
        ({"Sec-Fetch-Site": "same-site", "Origin": f"http://{HOST}"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": OTHER}, False),
        # without it, the origin is compared with the host
        ({"Origin": f"http://{HOST}"}, True),
        ({"Origin": f"https://{HOST}"}, True),
        ({"Origin": f"http://{HOST}:8000", "Host": f"{HOST}:8000"}, True),
        ({"Origin": f"http://{HOST}:8000"}, False),
        ({"Origin": f"http://{HOST}.evil.example"}, False),
        ({"Origin": f"http://x.{HOST}"}, False),
        ({"Origin": OTHER}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
    ],
)
async def test_a_cross_site_request_is_refused(headers: HeaderMap, allowed: bool) -> None:
    """`Sec-Fetch-Site: cross-site` or `same-site`, or without it an `Origin` that differs from `Host`: 403."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers=headers)
    if allowed:
        assert reply.only["status"] == 200
    else:
        assert reply.refusal[:2] == (403, "cross_site")
        assert api.arrived == []
    assert cors_headers(reply) == set()


@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
async def test_a_trusted_origin_is_not_refused(site: str | None) -> None:
    """A cross-site request is refused unless its origin is in `trusted_origins`."""
    headers = {"Origin": TRUSTED, "Sec-Fetch-Site": site}
    app = BatchMiddleware(Api(), trusted_origins=["https://another.example", TRUSTED])
    assert (await send_batch(app, [{"path": "/a"}], headers=headers)).only["status"] == 200


@pytest.mark.parametrize(
    "origin", [OTHER, "http://app.example", "https://app.example:8443", "https://x.app.example", "null", None]
)
async def test_trust_is_exact(origin: str | None) -> None:
    """`trusted_origins` is a list of origins: another scheme, port or subdomain is another origin."""
    api = Api()
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    app = BatchMiddleware(api, trusted_origins=[TRUSTED])
    assert (await send_batch(app, [{"path": "/a"}], headers=headers)).refusal[:2] == (403, "cross_site")
    assert api.arrived == []


# CORS


async def test_answers_to_a_trusted_origin_have_the_cors_headers() -> None:
    """The endpoint puts the CORS headers on its answers to a trusted origin, on refusals as well."""
    app = BatchMiddleware(Api(), trusted_origins=[TRUSTED])
    headers = {"Origin": TRUSTED, "Sec-Fetch-Site": "cross-site"}
    good = await send_batch(app, [{"path": "/a"}], headers=headers)
    streamed = await send_batch(app, [{"path": "/a"}], headers={**headers, "Accept": "application/x-ndjson"})
    invalid = await send_batch(app, [{}], headers=headers)
    not_json = await send_batch(app, b"{", headers=headers)
    wrong_type = await send_batch(app, [], headers={**headers, "Content-Type": "text/plain"})
    assert [each.status for each in (good, streamed, invalid, not_json, wrong_type)] == [200, 200, 400, 400, 415]
    for reply in (good, streamed, invalid, not_json, wrong_type):
        assert reply.header("access-control-allow-origin") == TRUSTED


async def test_other_answers_have_no_cors_headers() -> None:
    """Only a trusted origin is given the CORS headers."""
    app = BatchMiddleware(Api(), trusted_origins=[TRUSTED])
    assert cors_headers(await send_batch(app, [{"path": "/a"}])) == set()
    assert cors_headers(await send_batch(app, [{"path": "/a"}], headers={"Origin": f"http://{HOST}"})) == set()
    refused = await send_batch(app, [{"path": "/a"}], headers={"Origin": OTHER})
    assert (refused.status, cors_headers(refused)) == (403, set())


async def test_cors_headers_of_an_item_stay_inside() -> None:
    """CORS is decided for the endpoint itself: an item's `Access-Control-*` have no effect on the outer answer."""
    fields = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Origin")]
    api = Api({"/a": answer(headers=fields)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "/a", "method": "OPTIONS"}])
    assert [entry["headers"]["access-control-allow-origin"] for entry in reply.responses] == ["*", "*"]
    assert cors_headers(reply) == set()


# Preflights


async def test_the_preflight_of_a_trusted_origin_is_answered() -> None:
    """The endpoint answers the preflight of a trusted origin."""
    api = Api()
    reply = await preflight(BatchMiddleware(api, trusted_origins=[TRUSTED]), TRUSTED)
    assert reply.status in (200, 204)
    assert reply.header("access-control-allow-origin") == TRUSTED
    assert "POST" in (reply.header("access-control-allow-methods") or "")
    assert "content-type" in (reply.header("access-control-allow-headers") or "").lower()
    assert api.arrived == []


@pytest.mark.parametrize("describe", [True, False])
async def test_a_trusted_preflight_is_answered_whether_described_or_not(describe: bool) -> None:
    """The endpoint answers the preflight of a trusted origin, also where `describe` is off."""
    api = Api()
    reply = await preflight(BatchMiddleware(api, trusted_origins=[TRUSTED], describe=describe), TRUSTED)
    assert reply.header("access-control-allow-origin") == TRUSTED
    assert api.arrived == []


@pytest.mark.parametrize("trusted", [[], [TRUSTED]])
async def test_any_other_preflight_goes_to_the_app(trusted: list[str]) -> None:
    """Any other preflight goes to the wrapped app, whose own rules may know the origin."""
    api = Api({"/batch": answer(status=299, headers=[("Access-Control-Allow-Origin", OTHER)])})
    reply = await preflight(BatchMiddleware(api, trusted_origins=trusted), OTHER)
    assert (reply.status, reply.header("access-control-allow-origin")) == (299, OTHER)
    assert api.only.method == "OPTIONS"


async def test_preflights_of_other_paths_go_to_the_app() -> None:
    """Any other preflight goes to the wrapped app, from a trusted origin too."""
    api = Api({"/a": answer(status=299)})
    reply = await preflight(BatchMiddleware(api, trusted_origins=[TRUSTED]), TRUSTED, path="/a")
    assert (reply.status, len(api.arrived)) == (299, 1)
