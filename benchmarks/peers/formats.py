"""What a batch of GET /item/0 up to GET /item/{N - 1} looks like to each peer, and how its answer is read.

Knows: the peers' wire formats, and where they put things. Must not know: servers, or what is measured.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.apps import JSON
from benchmarks.client import get, post


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One peer's requests, as they go over the wire, and the bodies of the items that were answered 200."""

    write: Callable[[list[str]], JSON]
    read: Callable[[JSON], list[JSON]]
    prefix: str = ""

    def batch(self, size: int, port: int) -> bytes:
        """One request with so many items."""
        body = json.dumps(self.write([f"{self.prefix}/item/{number}" for number in range(size)])).encode()
        return self._addressed(post(body), port)

    def single(self, number: int, port: int) -> bytes:
        """The request for one item alone."""
        return self._addressed(get(number), port)

    def bodies(self, answer: bytes) -> list[JSON]:
        """The items in the answer to a batch, decoded."""
        return self.read(body_of(answer))

    def _addressed(self, request: bytes, port: int) -> bytes:
        """Below the prefix; and with the port, since one of them asks whatever the Host header names."""
        return request.replace(b" /", b" %b/" % self.prefix.encode(), 1).replace(
            b"host: 127.0.0.1\r\n", b"host: 127.0.0.1:%d\r\n" % port, 1
        )


def body_of(answer: bytes) -> JSON:
    """The JSON in an HTTP answer."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def _entries(answer: JSON) -> list[JSON]:
    return [entry["body"] for entry in answer["responses"] if entry["status"] == 200]


NATIVE = Format(write=lambda paths: {"requests": [{"method": "GET", "path": path} for path in paths]}, read=_entries)
KINTO = Format(prefix="/v1", write=NATIVE.write, read=_entries)
BASSMASTER = Format(
    write=lambda paths: {"requests": [{"method": "get", "path": path} for path in paths]},
    read=list,  # bodies and nothing else: neither status nor headers
)
DRF_BATCH_REQUESTS = Format(
    write=lambda paths: {"batch": [{"method": "GET", "relative_url": path} for path in paths]},
    read=lambda answer: [json.loads(entry["body"]) for entry in answer if entry["code"] == 200],
)
EXPRESS_BATCH_REQUESTS = Format(
    write=lambda paths: {"batch": [{"method": "GET", "url": path} for path in paths]},
    read=lambda answer: [json.loads(each["response"]["body"]) for each in answer if each["response"]["code"] == 200],
)
