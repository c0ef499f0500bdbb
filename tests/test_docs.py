"""What the documents say is so: snippets run, and tables are held against the code."""

from __future__ import annotations

import asyncio
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from batchproxy import Batch, Caller, Endpoint, Failure, InFlight, Item, Options, Refusal
from batchproxy.engine import headers
from batchproxy.engine.errors import WHOLE_BATCH
from batchproxy.engine.model import METHODS, Message
from batchproxy.engine.settings import KiB, MiB
from batchproxy.proxy import uploads
from tests.documents import DOCS, ROOT, broken_links, names, section, tables
from tests.snippets import works

DOCUMENTS = [pytest.param(path, id=path.stem) for path in sorted(DOCS.glob("*.md"))]


def text(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_snippet_works(document: Path) -> None:
    """Each snippet runs, and gives what is shown behind it."""
    works(document)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: Path) -> None:
    """Links to files and headings of the repository lead to one that is there."""
    assert broken_links(document) == []


# The proxy


def test_an_early_burst_buys_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages say it of `min_upload_rate` in the same words: a body that drips lasts for the credit, and its burst."""
    said = (
        "a mean since the body began, with `timeouts.idle` of credit: a lot at the start buys time for dripping later"
    )
    assert all(said in text(page) for page in ("proxy.md", "security.md"))
    now = [0.0]
    monkeypatch.setattr(uploads, "monotonic", lambda: now[0])

    async def drip() -> Message:
        now[0] += 1
        return {"type": "http.request", "body": b"s", "more_body": True}

    async def lasting(burst: int) -> float:
        began = now[0]
        upload = uploads.Upload(drip, b"s" * burst, most=None, least=100, patience=5, ended=lambda: None)
        with pytest.raises(uploads.BodyTimeout):
            async for _ in upload:
                pass
        return now[0] - began

    assert asyncio.run(lasting(1)) == 6
    assert asyncio.run(lasting(1000)) == 16


# Settings


def shown_defaults() -> dict[str, str]:
    """The settings of an endpoint, and their defaults as the documents write them."""
    defaults = {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(Endpoint)
    }
    return {name: _shown(name, default) for name, default in defaults.items()}


def _shown(name: str, default: Any) -> str:
    if name == "methods":
        return "all seven"
    if name.endswith("_bytes"):
        return f"{default // MiB} MiB" if default % MiB == 0 else f"{default // KiB} KiB"
    if name.endswith("_timeout"):
        return f"{default:g} s"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, int) and not isinstance(default, bool):
        return str(default)
    return f"`{default!r}`"


def test_every_setting_is_there_with_its_default() -> None:
    """The tables of settings hold each setting of an endpoint once, with its default."""
    rows = [row for table in tables(text("settings.md")) if table[0][0] == "setting" for row in table[1:]]
    listed = [(names(setting)[0], default) for setting, default, _ in rows]
    assert sorted(listed) == sorted(shown_defaults().items())


def test_the_defaults_that_need_words_are_right() -> None:
    """The seven methods are those of the code, and so is the `InFlight` that a middleware makes itself."""
    meaning = {names(row[0])[0]: row[2] for table in tables(text("settings.md")) for row in table[1:] if len(row) == 3}
    assert set(names(meaning["methods"])) == METHODS
    assert len(METHODS) == 7
    own = InFlight()
    assert f"InFlight({own.limit}, queue={own.queue})" in names(meaning["in_flight"])


# The protocol


def codes(heading: str) -> dict[str, int]:
    [table] = tables(section(text("protocol.md"), heading))
    return {names(code)[0]: int(status) for code, status, _ in table[1:]}


def test_every_code_of_an_item_is_there() -> None:
    """The protocol lists each failure of an item with its status, and no other."""
    assert codes("Of one item") == {failure.value: failure.status for failure in Failure}


def test_every_code_of_a_batch_is_there() -> None:
    """The protocol lists each error of the whole batch with its status, and no other."""
    assert codes("Of the whole batch") == {code: status for code, (status, _) in WHOLE_BATCH.items()}


@pytest.mark.parametrize(
    ("heading", "place"),
    [("Sending a batch", ("options",)), ("Items", ("requests", "items"))],
    ids=["options", "items"],
)
def test_every_member_is_there(heading: str, place: tuple[str, ...]) -> None:
    """The protocol lists each member of the schema, and no other."""
    endpoint = Endpoint()
    schema: dict[str, Any] = endpoint.spoken.schema(endpoint)["request"]
    for step in place:
        schema = schema["items"] if step == "items" else schema["properties"][step]
    table = tables(section(text("protocol.md"), heading))[-1]
    assert {names(row[0])[0] for row in table[1:]} == set(schema["properties"])


# Guards, security and design


@pytest.mark.parametrize("record", [Batch, Item, Caller, Options], ids=lambda record: record.__name__)
def test_every_field_that_a_guard_sees_is_there(record: type[Batch | Item | Caller | Options]) -> None:
    """The records that guards get are listed with all their fields, and no other."""
    [table] = [table for table in tables(text("guards.md")) if table[0][0] == f"`{record.__name__}`"]
    listed = [name for row in table[1:] for name in names(row[0])]
    assert sorted(listed) == sorted(record.__struct_fields__)


def refused_names() -> list[str]:
    [table, *_] = tables(section(text("security.md"), "Headers that an item may not set"))
    return [name for row in table[1:] if row[0] not in ("from a browser page", "yours") for name in names(row[1])]


@pytest.mark.parametrize("name", refused_names())
def test_headers_said_to_be_refused_are(name: str) -> None:
    """An item that sets a header of the list is refused, also with underscores."""
    example = name.replace("*", "Example")
    for spelling in (example, example.upper().replace("-", "_")):
        refusal = headers.own({spelling: "x"})
        assert isinstance(refusal, Refusal)
        assert refusal.failure is Failure.HEADER_REFUSED


def test_every_refused_header_is_there() -> None:
    """The list has each header that the code refuses."""
    patterns = [name.lower() for name in refused_names()]
    refused = {*headers._NEVER_SET, *(f"{prefix}x" for prefix in headers._NEVER_SET_PREFIXES)}
    refused |= {name.decode() for name in headers.HOP_BY_HOP}
    assert [name for name in sorted(refused) if not any(fnmatchcase(name, pattern) for pattern in patterns)] == []


def test_headers_said_not_to_be_inherited_are_not() -> None:
    """No header of the list reaches an item from the batch request, and others do."""
    [table] = tables(section(text("security.md"), "Headers that an item inherits"))
    listed = [name.lower().replace("*", "example").encode() for row in table[1:-1] for name in names(row[1])]
    kept = (b"authorization", b"cookie", b"x-forwarded-for", b"x-request-id")
    assert [name for name, _ in headers.inherited([(name, b"x") for name in (*listed, *kept)])] == list(kept)


def test_every_module_is_on_the_map() -> None:
    """The map for contributors lists each module of the package, and no other."""
    package = ROOT / "batchproxy"
    [table] = tables(section(text("design.md"), "The modules"))
    assert sorted(names(row[0])[0] for row in table[1:]) == sorted(
        path.relative_to(package).as_posix() for path in package.rglob("*.py")
    )


def test_the_map_leads_to_files_that_are_there() -> None:
    """Files and tests that the map names for a change exist."""
    [table] = tables(section(text("design.md"), "Which file for which change"))
    named = [name for row in table[1:] for cell in row[1:] for name in names(cell)]
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "batchproxy" / name).exists()] == []
