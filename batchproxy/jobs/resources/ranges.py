"""Parts of a content, as `Range` and `If-Range` ask for them (RFC 9110, section 14).

Knows: ranges of bytes. Must not know: what the bytes are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.IGNORECASE)


class Range(NamedTuple):
    """From `first` to `last`, both inclusive; without `first` the last so many bytes, without `last` to the end."""

    first: int | None
    last: int | None

    def within(self, size: int) -> range | None:
        """What there is of it; None if that is nothing."""
        if self.first is None:
            found = range(max(size - (self.last or 0), 0), size)
        else:
            found = range(self.first, size if self.last is None else min(self.last + 1, size))
        return found or None


def asked_range(headers: Mapping[bytes, bytes], etag: str) -> Range | None:
    """None where the whole content is to be sent: also for another version, another unit, several ranges at once, and
    for what is no range."""
    found = _RANGE.fullmatch(headers.get(b"range", b"").decode("latin-1"))
    if found is None or found[0].rstrip().endswith("=-"):
        return None
    # The comparison is a strong one; a date is no version of what has none.
    if headers.get(b"if-range", etag.encode("ascii")).decode("latin-1").strip() != etag or etag.startswith("W/"):
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return Range(first, last)
