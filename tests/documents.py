"""Reads Markdown documents: their fenced blocks, and the tables and links between them.

Knows: Markdown as this repository writes it. Must not know: what a block means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block; `kind` is its language and what it is, without options."""

    line: int
    kind: str
    options: Mapping[str, str]
    text: str


def blocks(markdown: str) -> Iterator[Block]:
    for fence in re.finditer(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        words = fence["info"].split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        kind = " ".join(word for word in words if "=" not in word)
        line = markdown.count("\n", 0, fence.start()) + 1
        yield Block(line=line, kind=kind, options=options, text=fence["text"])


def section(markdown: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n", markdown, re.MULTILINE)
    assert found is not None, f"there is no heading {heading!r}"
    text = markdown[found.end() :]
    following = re.search(rf"^#{{1,{len(found[1])}}} ", text, re.MULTILINE)
    return text if following is None else text[: following.start()]


def tables(markdown: str) -> list[list[list[str]]]:
    """Each table as its rows of cells, without the line below its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    lines = [[line for line in table.splitlines() if not re.fullmatch(r"[|-]+", line)] for table in found]
    return [[[cell.strip() for cell in line[1:-1].split("|")] for line in table] for table in lines]


def names(cell: str) -> list[str]:
    """What a cell has between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def broken_links(document: Path) -> list[str]:
    """The links to other files and headings that lead nowhere."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^()\s]+)\)", prose) if "://" not in link]
    return [link for link in links if not _leads_somewhere(document, *link.partition("#")[::2])]


def _leads_somewhere(document: Path, path: str, anchor: str) -> bool:
    target = (document.parent / path).resolve() if path else document
    return target.exists() and (not anchor or anchor in _anchors(target.read_text("utf-8")))


def _anchors(markdown: str) -> list[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings: list[str] = re.findall(r"^#+ (.*)$", markdown, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
