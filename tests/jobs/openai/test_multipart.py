"""Forms as clients write them, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from batchproxy.engine.errors import Unsupported
from batchproxy.jobs.openai.multipart import FormReader, Part, boundary
from batchproxy.jobs.openai.problems import ApiError


def parts(pieces: Iterable[bytes], delimiter: bytes = b"b") -> list[tuple[Part, bytes]]:
    reader = FormReader(delimiter)
    found: list[tuple[Part, bytes]] = []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, Part):
                found.append((event, b""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + event)
    reader.close()
    return found


def form(*contents: tuple[str, bytes]) -> bytes:
    written = b"".join(
        b"--b\r\nContent-Disposition: form-data; " + about.encode() + b"\r\n\r\n" + content + b"\r\n"
        for about, content in contents
    )
    return written + b"--b--\r\n"


TRICKY = b"\r\n--\r\n-b\r\n--\r\n\r--b\n--b \r\n-\r\n--a"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("before", [b"", b"a preamble\r\n", b"\r\n"])
def test_parts_in_pieces(size: int, before: bytes) -> None:
    """What looks like a delimiter and is none belongs to the content; a content may be empty."""
    whole = before + form(('name="purpose"', b"batch"), ('name="e"', b""), ('name="file"; filename="a.b"', TRICKY))
    found = parts(whole[start : start + size] for start in range(0, len(whole), size))
    assert found == [(Part("purpose", None), b"batch"), (Part("e", None), b""), (Part("file", "a.b"), TRICKY)]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"a b.c"', "a b.c"),
        ("a.b", "a.b"),
        ('"a %22b%22"', 'a "b"'),
        (r'"a \"b\""', 'a "b"'),
        ('"grüße"', "grüße"),
        ('""', ""),
        (r'"a\b"', r"a\b"),
        ('"a;name=x"', "a;name=x"),
    ],
)
def test_names_of_files(written: str, name: str) -> None:
    """As browsers, curl and the libraries for HTTP write them."""
    assert parts([form((f'name="file"; filename={written}', b""))]) == [(Part("file", name), b"")]


def test_other_headers_and_cases_are_of_no_matter() -> None:
    whole = b"--b \t\r\nX: y\r\ncontent-DISPOSITION:form-data;NAME=f\r\nContent-Type: a/b\r\n\r\n1\r\n--b--trailing"
    assert parts([whole]) == [(Part("f", None), b"1")]


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"--b",
        b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
        b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--b",
        b"--bx\r\n\r\n",
        b"--b\r\n\r\n1\r\n--b--",
        b"--b\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--b--",
        b"--b\r\n" + b"x" * 10_000,
    ],
)
def test_forms_that_cannot_be_read(whole: bytes) -> None:
    """They end too early, have parts without a name, or a header without an end."""
    with pytest.raises(ApiError) as refused:
        parts([whole])
    assert refused.value.code == "invalid_form"


@pytest.mark.parametrize(
    ("content_type", "found"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"; x=y', b"a b"),
        (b"multipart/form-data;boundary=----x", b"----x"),
    ],
)
def test_boundaries(content_type: bytes, found: bytes) -> None:
    assert boundary(content_type) == found


@pytest.mark.parametrize(
    "content_type", [b"", b"multipart/form-data", b"application/json", b"multipart/mixed; boundary=a"]
)
def test_what_is_no_form(content_type: bytes) -> None:
    with pytest.raises(Unsupported):
        boundary(content_type)
