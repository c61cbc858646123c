"""Snapshots of Iceberg tables on this machine's disks, by pyiceberg.

Laws: a column is found in a file by its id, so renamed columns keep their values; deletes that lie beside the files are
refused. A version is the id of a snapshot; 0 stands for a table that has none yet.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.exceptions import ValidationError
from pyiceberg.table import FileScanTask, StaticTable

from trilane.errors import ContractError
from trilane.stores.offline.snapshot import Part, Snapshot

__all__ = ["part_of", "read_snapshot"]

_METADATA = re.compile(r"v?(\d+)(-[0-9a-f-]+)?(\.gz)?\.metadata\.json")


def read_snapshot(path: Path, version: int | None, *, where: str) -> Snapshot:
    """The snapshot of the table in folder `path` (or of that metadata file), or its newest. Raises ContractError."""
    file = _metadata_file(path, where)
    try:
        table = StaticTable.from_metadata(str(file))
    except (OSError, ValueError, ValidationError) as error:
        raise ContractError(
            f"the metadata cannot be read: {error}", where=f"{where}, file {file}", remedy="Mend the table"
        ) from error
    current = table.current_snapshot()
    wanted = version if version is not None else (current.snapshot_id if current else 0)
    if wanted == 0:
        return Snapshot(0, tuple(field.name for field in table.schema().fields), ())
    if table.snapshot_by_id(wanted) is None:
        known = ", ".join(str(snapshot.snapshot_id) for snapshot in table.snapshots()[-5:]) or "none"
        raise ContractError(
            f"there is no snapshot {wanted}", where=where, remedy=f"Choose one that was not expired: {known}"
        )
    scan = table.scan(snapshot_id=wanted)
    schema = scan.projection()
    ids = {field.field_id: field.name for field in schema.fields}
    parts = [part_of(task, ids, where, wanted) for task in scan.plan_files()]
    names = tuple(field.name for field in schema.fields)
    return Snapshot(wanted, names, tuple(sorted(parts, key=lambda part: part.file)))


def _metadata_file(path: Path, where: str) -> Path:
    if path.name.endswith(".metadata.json"):
        found = [path] if path.exists() else []
    else:
        numbered = {f: int(m[1]) for f in (path / "metadata").glob("*.json") if (m := _METADATA.fullmatch(f.name))}
        found = [file for file, number in numbered.items() if number == max(numbered.values())]
    if not found:
        raise ContractError(
            f"there is no Iceberg table in {path}", where=where, remedy="Write it first, or correct the path"
        )
    if len(found) > 1:  # of two commits at once one has won, which the catalog alone knows
        raise ContractError(
            f"{len(found)} metadata files have the same number: {', '.join(sorted(f.name for f in found))}",
            where=where,
            remedy="Give the path of the one that the catalog names",
        )
    return found[0]


def part_of(task: FileScanTask, ids: dict[int, str], where: str, version: int) -> Part:
    """A file of a scan; `ids`: the table's columns by their ids. Raises ContractError if it cannot be read alone."""
    if task.delete_files:
        raise ContractError(
            "rows are deleted by files beside the rows",
            where=where,
            remedy="Rewrite the files: rewrite_data_files with delete-file-threshold = 1",
        )
    place = urlparse(task.file.file_path)
    if place.scheme not in ("", "file") or not task.file.file_path.endswith(".parquet"):
        raise ContractError(
            f"{task.file.file_path} is no Parquet file of this machine", where=where, remedy="Copy the table to a disk"
        )
    file = Path(unquote(place.path) if place.scheme and not Path(place.path).exists() else place.path)
    try:
        fields = list(pq.read_schema(file))
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError(
            f"a file of snapshot {version} cannot be read: {error}",
            where=f"{where}, file {file}",
            remedy="Read a newer snapshot, and expire snapshots later than a job may take",
        ) from error
    columns = {}
    for field in fields:
        number = (field.metadata or {}).get(b"PARQUET:field_id")
        if number is None:
            raise ContractError(
                f"column {field.name!r} has no field id",
                where=f"{where}, file {file}",
                remedy="Write the file with Iceberg, or use a table source without format=",
            )
        if int(number) in ids:
            columns[ids[int(number)]] = field.name
    return Part(file, columns, {})
