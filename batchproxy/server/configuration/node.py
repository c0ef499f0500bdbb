"""The tree that a document becomes: values, and where they stand.

Knows: places, and what is secret. Must not know: YAML, settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from .located import Origin, brief

Value: TypeAlias = Any

REPORTED: Value = object()
"""The value of a node of which an error has been reported, so that nothing further is said of it."""


@dataclass(slots=True)
class Node:
    """A value and where it stands; in a mapping also where its key does.

    `value` is a scalar, a list of nodes, or a dict of them. Text that is `loose` came from a variable or a flag and may
    stand for a number; what is `secret` is never shown.
    """

    value: Value
    origin: Origin
    key: Origin | None = None
    loose: bool = False
    secret: bool = False

    @property
    def holds_secret(self) -> bool:
        """Whether it, or anything below it, is secret."""
        below = self.value.values() if isinstance(self.value, dict) else self.value
        return self.secret or (isinstance(self.value, dict | list) and any(each.holds_secret for each in below))

    @property
    def shown(self) -> str:
        """The value as an error shows it."""
        return "the value" if self.secret else brief(self.value)

    @property
    def place(self) -> Origin:
        """Where an error about the thing as a whole belongs: at its key."""
        return self.key or self.origin

    @property
    def place_of_value(self) -> Origin:
        """Where an error about the value belongs: a missing one is where its key is, and so is a long one."""
        return self.origin if isinstance(self.value, str | int | float) else self.place
