"""Versions of Delta tables in folders, by delta-rs.

Laws: a file is read by the names of its columns, and a column of the partition by what the log says of it; deletion
vectors and mapped columns are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from trilane.errors import ContractError
from trilane.stores.offline.snapshot import Part, Snapshot

__all__ = ["read_snapshot"]

_PARTITION = "partition."


def read_snapshot(path: Path, version: int | None, *, where: str) -> Snapshot:
    """The version of the table in folder `path`, or its newest. Raises ContractError."""
    try:
        table = DeltaTable(str(path), version=version)
        has_vectors = pa.table(table.deletion_vectors()).num_rows > 0
    except TableNotFoundError as error:
        raise ContractError(
            f"there is no Delta table in {path}", where=where, remedy="Write it first, or correct the path"
        ) from error
    except DeltaError as error:
        remedy = "Choose a version that is still there, or leave it out" if version is not None else "Mend the table"
        asked = "the newest version" if version is None else f"version {version}"
        raise ContractError(f"{asked} cannot be read: {error}", where=where, remedy=remedy) from error
    _check(table, has_vectors, where)
    added = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    parts = [_part(path, row, where, table.version()) for row in added]
    names = pa.schema(table.schema()).names
    return Snapshot(table.version(), tuple(names), tuple(sorted(parts, key=lambda part: part.file)))


def _check(table: DeltaTable, has_vectors: bool, where: str) -> None:
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise ContractError(
            "the table maps its columns to other names",
            where=where,
            remedy="Write it without delta.columnMapping.mode",
        )
    if has_vectors:
        raise ContractError(
            "rows are deleted by vectors beside the files",
            where=where,
            remedy="Rewrite the files: REORG TABLE ... APPLY (PURGE), then delta.enableDeletionVectors = false",
        )


def _part(path: Path, row: Mapping[str, object], where: str, version: int) -> Part:
    file = path / unquote(str(row["path"]))
    try:
        names = pq.read_schema(file).names
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError(
            f"a file of version {version} cannot be read: {error}",
            where=f"{where}, file {file}",
            remedy="Read a newer version, and vacuum later than a job may take",
        ) from error
    constants = {
        name.removeprefix(_PARTITION): None if value is None else str(value)
        for name, value in row.items()
        if name.startswith(_PARTITION)
    }
    return Part(file, {name: name for name in names}, constants)
