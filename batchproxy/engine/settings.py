"""What all settings share: they are frozen, checked when they are made, and say what was expected.

`Seconds` and `Bytes` mark the unit of a number; a config file may write such a value as `5s` or `2MiB`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeAlias

from .errors import SettingError

KiB, MiB = 1024, 1024 * 1024

Seconds: TypeAlias = Annotated[float, "seconds"]
Bytes: TypeAlias = Annotated[int, "bytes"]

_MOST_SECONDS = 1e9


def count(default: int, *, least: int = 1) -> Any:
    """A field that holds a whole number, of items or of bytes."""
    return field(default=default, metadata={"type": int, "least": least, "unit": "an integer"})


def optional_count(*, least: int = 1) -> Any:
    """A field that holds a whole number, or None for no limit."""
    return field(default=None, metadata={"type": int, "least": least, "unit": "an integer", "optional": True})


def seconds(default: float | None, *, least: float = 0.001) -> Any:
    """A field that holds a time; one whose default is None may be None."""
    metadata = {"type": (int, float), "least": least, "unit": "a number of seconds", "optional": default is None}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """Checks its numbers when it is made. Raises `SettingError`."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if "least" in each.metadata:
                self._check_number(each.name, each.metadata)

    def _check_number(self, name: str, metadata: Mapping[str, Any]) -> None:
        value, least, unit = getattr(self, name), metadata["least"], metadata["unit"]
        if value is None and metadata.get("optional"):
            return
        is_number = isinstance(value, metadata["type"]) and not isinstance(value, bool)
        if not is_number or value < least or (metadata["type"] is not int and not value <= _MOST_SECONDS):
            raise SettingError(name, value, f"expected {unit} of at least {least}")


def strings(setting: str, value: object) -> Iterator[str]:
    """The members of a setting that is a collection of strings. Raises `SettingError` for anything else."""
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        raise SettingError(setting, value, "expected a list of strings")
    for each in value:
        if not isinstance(each, str):
            raise SettingError(setting, value, "expected a list of strings")
        yield each
