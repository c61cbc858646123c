"""Feast's value types, and the columns of a source's files, in the words of Trilane.

Law: what the file holds counts more than what was declared, for Feast may declare an int32 that the file has as int64,
and no type at all for a join key.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from trilane.apps.feast_import.facts import FieldFacts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["NAIVE", "TYPES", "declared", "file_columns", "kind_of"]

TYPES = {
    "bool": "tl.Bool",
    "float64": "tl.Float64",
    "int64": "tl.Int64",
    "string": "tl.String",
    "timestamp": "tl.Timestamp",
}
NAIVE = "timestamp without a time zone"
_KINDS = {
    **dict.fromkeys(("Bool", "BOOL"), "bool"),
    **dict.fromkeys(("Float32", "Float64", "FLOAT", "DOUBLE", "Decimal", "DECIMAL"), "float64"),
    **dict.fromkeys(("Int32", "Int64", "INT32", "INT64"), "int64"),
    **dict.fromkeys(("String", "STRING"), "string"),
    **dict.fromkeys(("UnixTimestamp", "UNIX_TIMESTAMP"), "timestamp"),
}


def kind_of(feast: str) -> str | None:
    """The name of the type, or None where there is no counterpart."""
    return _KINDS.get(feast)


def declared(fields: Iterable[FieldFacts]) -> dict[str, str]:
    """The types of declared fields; those without a counterpart by Feast's name."""
    return {field.name: kind_of(field.type) or field.type for field in fields}


def file_columns(path: Path) -> dict[str, str] | None:
    """The types of a Parquet file's columns; of a folder, those of its first file. None if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    try:
        schema = pq.read_schema(files[0])
    except (OSError, IndexError, pa.ArrowInvalid):
        return None
    return {field.name: _arrow_kind(field.type) for field in schema}


def _arrow_kind(kind: pa.DataType) -> str:
    import pyarrow.types as at

    if at.is_timestamp(kind):
        return "timestamp" if kind.tz else NAIVE
    if at.is_floating(kind) or at.is_decimal(kind):
        return "float64"
    if at.is_string(kind) or at.is_large_string(kind):
        return "string"
    if at.is_boolean(kind):
        return "bool"
    return "int64" if at.is_integer(kind) else str(kind)
