"""What a data format says about the keys of its rows, and the checks at the door that all formats share.

A row belongs to a format by its exact keys: all that are required, and none that the format does not know. Keys that
only label a row (`LABELS`) are taken off before, so that they need not be listed by every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from thinkling.core.errors import DataError

# Keys that say where a row comes from or what it is about. They are never trained on and never change what is.
LABELS = frozenset(
    {
        "id",
        "idx",
        "index",
        "source",
        "category",
        "task",
        "level",
        "language",
        "lang",
        "timestamp",
        "url",
        "metadata",
        "meta",
    }
)


@dataclass(frozen=True)
class Keys:
    """The keys of one shape of row, each with its meaning."""

    required: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)

    def match(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has all required keys and no unknown one."""
        return self.required.keys() <= row.keys() <= self.required.keys() | self.optional.keys()

    def missing(self, row: Mapping[str, Any]) -> list[str]:
        """Required keys that the row lacks."""
        return sorted(self.required.keys() - row.keys())

    def unknown(self, row: Mapping[str, Any]) -> list[str]:
        """Keys of the row that are neither required nor optional."""
        return sorted(row.keys() - self.required.keys() - self.optional.keys())

    def __str__(self) -> str:
        also = f" (and if you like {', '.join(self.optional)})" if self.optional else ""
        return ", ".join(self.required) + also


def text(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text under `key`.

    Raises:
        DataError: It is missing or no text.
    """
    value = row.get(key)
    if not isinstance(value, str):
        found = "missing" if key not in row else f"{type(value).__name__}, not text"
        raise DataError(f"'{key}' is {found}", where=where, fix=f"write '{key}' as a string")
    return value


def optional_text(row: Mapping[str, Any], key: str, where: str) -> str | None:
    """The text under `key`, or None where it is absent, null or empty.

    Raises:
        DataError: It is something else than text.
    """
    return None if row.get(key) in (None, "") else text(row, key, where)


def items(row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """The list under `key`, with at least one item.

    Raises:
        DataError: It is no list, or empty.
    """
    value = row.get(key)
    if not isinstance(value, list) or not value:
        found = "an empty list" if value == [] else f"{type(value).__name__}, not a list"
        raise DataError(f"'{key}' is {found}", where=where, fix=f"write '{key}' as a list with at least one item")
    return value
