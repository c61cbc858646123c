"""A version of a table in an open format, as its files: what Delta and Iceberg have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Part", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Part:
    """A Parquet file of a table: which of its columns holds a column of the table, and what all its rows have."""

    file: Path
    columns: Mapping[str, str]
    constants: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a table: the names of its columns, and its files."""

    version: int
    names: tuple[str, ...]
    parts: tuple[Part, ...]
