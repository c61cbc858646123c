"""Tables that somebody else lands as files, checked against their declaration and read as SQL.

Law: nothing is coerced silently. An integer may stand for a float, a narrow number for a wide one; an instant without a
time zone stands for nothing, one in nanoseconds, as pandas writes it, for the nearest microsecond.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trilane.errors import ContractError
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.stores.offline import lake
from trilane.stores.offline.protocol import Connection, quoted
from trilane.stores.offline.sql import SQL_TYPES, text
from trilane.types import Field

__all__ = ["check_columns", "columns_of", "empty_sql", "table_files", "table_sql", "typed"]

_INTEGERS = r"(U?TINYINT|U?SMALLINT|U?INTEGER|BIGINT)"
_FITTING = {
    "bool": r"BOOLEAN",
    "int64": _INTEGERS,
    "float64": rf"(FLOAT|DOUBLE|DECIMAL\(.*\)|{_INTEGERS})",
    "string": r"(VARCHAR|ENUM\(.*\))",
    "timestamp": r"(TIMESTAMP WITH TIME ZONE|TIMESTAMPTZ_NS)",
}


def columns_of(source: EventSource | TableSource) -> tuple[tuple[str, str], ...]:
    """Name and SQL type of each field."""
    return tuple((field.name, SQL_TYPES[field.dtype.name]) for field in source.fields)


def empty_sql(columns: Iterable[tuple[str, str]]) -> str:
    """What to write after FROM for a relation without rows."""
    typed = ", ".join(f"CAST(NULL AS {kind}) AS {quoted([name])}" for name, kind in columns)
    return f"(SELECT {typed} WHERE false)"


def table_sql(source: TableSource, root: Path, connection: Connection) -> str:
    """What to write after FROM to read `source`. Raises ContractError."""
    if source.format:
        return _lake_sql(source, root, connection)
    files = table_files(source, root)
    if not files:
        return empty_sql(columns_of(source))
    for file in files:
        _check(source, file, connection)
    return f"(SELECT {typed(source.fields)} FROM {_read(source, files)})"


def _lake_sql(source: TableSource, root: Path, connection: Connection) -> str:
    raw = lake.raw_sql(source, root)
    if raw is None:
        return empty_sql(columns_of(source))
    check_columns(source.fields, connection.query(f"DESCRIBE {raw}").fetchall(), where=f"table {source.name!r}")
    return f"(SELECT {typed(source.fields)} FROM ({raw}))"


def table_files(source: TableSource, root: Path) -> list[Path]:
    """The files that are there now."""
    path = root / source.path
    if path.is_dir():
        return sorted(path.glob("**/*.parquet"))
    pattern = str(Path(glob.escape(str(root)), source.path))  # the project's own folder is no pattern
    return sorted(Path(found) for found in glob.glob(pattern, recursive=True))  # noqa: PTH207 - any absolute path


def _read(source: TableSource, files: list[Path]) -> str:
    paths = ", ".join(text(str(file)) for file in files)
    if files[0].name.endswith((".csv", ".csv.gz")):
        # A column of digits that is declared as a string must not lose its leading zeros to the sniffer.
        strings = [f"{text(f.name)}: 'VARCHAR'" for f in source.fields if f.dtype.name == "string"]
        types = f", types = {{{', '.join(strings)}}}" if strings else ""
        return f"read_csv([{paths}], header = true, union_by_name = true{types})"
    return f"read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"


def _check(source: TableSource, file: Path, connection: Connection) -> None:
    where = f"table {source.name!r}, file {file}"
    if not file.name.endswith((".csv", ".csv.gz", ".parquet")):
        raise ContractError("the file is neither Parquet nor CSV", where=where, remedy="Name it *.parquet or *.csv")
    try:
        described = connection.query(f"DESCRIBE SELECT * FROM {_plain(file)}").fetchall()
    except ContractError as error:
        raise ContractError(f"the file cannot be read: {error.what}", where=where, remedy="Write it again") from error
    check_columns(source.fields, described, where=where, any_text=not file.name.endswith(".parquet"))


def check_columns(
    fields: Sequence[Field], described: Sequence[tuple[object, ...]], *, where: str, any_text: bool = False
) -> None:
    """Raises ContractError unless the rows of a DESCRIBE fit `fields`; `any_text`: all may be read as strings."""
    found = {str(name): str(kind) for name, kind, *_ in described}
    for field in fields:
        kind = found.get(field.name)
        expected = f"{field.dtype.name} ({SQL_TYPES[field.dtype.name]})"
        if kind is None:
            raise ContractError(
                f"column {field.name!r} is missing, expected {expected}",
                where=where,
                remedy=f"Add it; there are {', '.join(found)}",
                column=field.name,
            )
        if any_text and field.dtype.name == "string":
            continue
        if not re.fullmatch(_FITTING[field.dtype.name], kind):
            zone = " with a time zone" if field.dtype.name == "timestamp" else ""
            raise ContractError(
                f"column {field.name!r} is {kind}, expected {expected}",
                where=where,
                remedy=f"Write it as {field.dtype.name}{zone}, or change the schema of the source",
                column=field.name,
            )


def typed(fields: Sequence[Field]) -> str:
    """The fields as SQL columns of the declared types."""
    return ", ".join(f"CAST({quoted([f.name])} AS {SQL_TYPES[f.dtype.name]}) AS {quoted([f.name])}" for f in fields)


def _plain(file: Path) -> str:
    if file.name.endswith(".parquet"):
        return f"read_parquet({text(str(file))}, hive_partitioning = false)"
    return f"read_csv({text(str(file))}, header = true)"
