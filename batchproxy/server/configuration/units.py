"""Durations such as `5s`, and sizes such as `2MiB`."""

from __future__ import annotations

import re

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

DURATION_PATTERN = r"[0-9]{1,12}(\.[0-9]{1,9})? ?(ms|s|m|h|d)?"
SIZE_PATTERN = r"[0-9]{1,15}(\.[0-9]{1,9})? ?(B|[kKMG]B|[KMG]iB)?"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_UNIT = re.compile(r"[A-Za-z]+$")


def duration(text: str) -> float | None:
    """Seconds; None if this is no duration."""
    if _DURATION.fullmatch(text) is None:
        return None
    number, unit = _parts(text)
    seconds = float(number) * SECONDS[unit or "s"]
    return round(seconds, 9)


def size(text: str) -> int | None:
    """Bytes; None if this is no whole number of them."""
    if _SIZE.fullmatch(text) is None:
        return None
    number, unit = _parts(text)
    found = float(number) * BYTES[unit or "B"] if "." in number else int(number) * BYTES[unit or "B"]
    return int(found) if found == int(found) else None


def whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def decimal(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text) else None


def _parts(text: str) -> tuple[str, str]:
    unit = _UNIT.search(text)
    return (text[: unit.start()].rstrip(), unit[0]) if unit else (text, "")


def shown_duration(seconds: float) -> str:
    """As a file would say it: `250ms`, `30s`, `5m`."""
    for unit in ("h", "m"):
        if seconds >= SECONDS[unit] and seconds % SECONDS[unit] == 0:
            return f"{int(seconds // SECONDS[unit])}{unit}"
    if 0 < seconds < 1 and round(seconds * 1000, 6) == int(round(seconds * 1000, 6)):
        return f"{int(round(seconds * 1000, 6))}ms"
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{_plain(seconds)}s"


def _plain(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def shown_size(count: int) -> str:
    """As a file would say it: `64KiB`, `2MiB`, `1000`."""
    for unit in ("GiB", "MiB", "KiB"):
        if count and count % BYTES[unit] == 0:
            return f"{count // BYTES[unit]}{unit}"
    return str(count)
