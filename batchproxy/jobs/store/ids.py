"""Identifiers that sort by the time of their making: UUIDs of version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import secrets
import time
from uuid import UUID


def new_id() -> str:
    """48 bits of milliseconds, then 74 bits that nobody can guess."""
    value = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(UUID(int=value))
