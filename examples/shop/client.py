"""A client of a shop with a batch endpoint, on the standard library alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from types import TracebackType
from typing import Any, TypeAlias

JSON: TypeAlias = Any
Answer: TypeAlias = tuple[int, JSON | bytes]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shop is, what stands before the paths of its API, and the path of its batch endpoint."""

    host: str
    port: int
    api: str = field(kw_only=True)
    batch: str = field(kw_only=True)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Client:
    """One connection to a shop, which stays open."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._connection = HTTPConnection(place.host, place.port, timeout=60)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        """Send one request alone."""
        self._connection.request("GET", f"{self._place.api}{path}")
        response = self._connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if response.headers.get_content_subtype() == "json" else data

    def batch(self, requests: list[JSON]) -> JSON:
        """Send many in one, and wait for all the answers."""
        return json.load(self._post(requests, accept="application/json"))

    def stream(self, requests: list[JSON]) -> Iterator[JSON]:
        """Send many in one, and take each answer as it comes."""
        return map(json.loads, self._post(requests, accept="application/x-ndjson"))

    def submit(self, lines: list[str]) -> tuple[int, JSON]:
        """Send many as a job, which is done whether or not somebody waits."""
        headers = {"Content-Type": "application/x-ndjson", "Prefer": "respond-async"}
        self._connection.request("POST", self._place.batch, "".join(f"{line}\n" for line in lines), headers)
        response = self._connection.getresponse()
        return response.status, json.load(response)

    def _post(self, requests: list[JSON], *, accept: str) -> HTTPResponse:
        headers = {"Content-Type": "application/json", "Accept": accept}
        self._connection.request("POST", self._place.batch, json.dumps({"requests": requests}), headers)
        response = self._connection.getresponse()
        if response.status != 200:
            raise ValueError(f"{response.status}: {response.read().decode()}")
        return response


def answer(response: JSON) -> Answer:
    """One of the responses of a batch, in the form in which `Client.get` returns it."""
    body = response.get("body")
    return response["status"], base64.b64decode(body) if response.get("body_encoding") == "base64" else body
