"""Writes what follows from the settings classes: config/full.yaml, the JSON Schema, and the tables of keys.

With `--check` nothing is written; it fails if something is not up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from batchproxy.server.config import schema
from batchproxy.server.configuration import reference

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "configuration.md"
MARK = "<!-- From here on written by scripts/configuration_docs.py -->\n"


def written() -> dict[Path, str]:
    """Each file, with what should be in it."""
    by_hand, mark, _ = DOCUMENT.read_text("utf-8").partition(MARK)
    return {
        ROOT / "config" / "full.yaml": reference.full(),
        ROOT / "config" / "batchproxy.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        DOCUMENT: f"{by_hand}{mark or MARK}\n{reference.tables()}",
    }


def stale() -> list[str]:
    """The files that are not up to date."""
    return [
        path.relative_to(ROOT).as_posix()
        for path, text in written().items()
        if not path.exists() or path.read_text("utf-8") != text
    ]


def main() -> None:
    if "--check" in sys.argv[1:]:
        sys.exit(f"not up to date: {', '.join(found)}; run {sys.argv[0]}" if (found := stale()) else 0)
    for path, text in written().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
