"""Tables of an open format (Delta, Iceberg): one version, as the Parquet files that DuckDB and Spark read themselves.

Laws: a pinned table reads the same rows for ever, whatever is committed meanwhile; a version whose rows are deleted by
something beside its files is refused, never read wrong. Columns and row groups that a query does not need are not read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from trilane.errors import ContractError, SetupError
from trilane.features.plan import FeaturePlan
from trilane.features.view import View
from trilane.sources.table import TableSource
from trilane.stores.offline.protocol import quoted
from trilane.stores.offline.snapshot import Part, Snapshot
from trilane.stores.offline.sql import SQL_TYPES, text

__all__ = ["pinned", "pinned_plan", "pinned_view", "plain_files", "raw_sql", "snapshot_of", "versions_of"]


def snapshot_of(source: TableSource, root: Path) -> Snapshot:
    """The pinned version, or the newest. Raises ContractError if the table or the version is not there or not readable,
    SetupError if the package that reads the format is missing.
    """
    try:
        if source.format == "delta":
            from trilane.stores.offline.delta import read_snapshot
        else:
            from trilane.stores.offline.iceberg import read_snapshot
    except ImportError as error:
        raise SetupError(
            f"{error.name} is not installed, which reads {source.format} tables",
            where=f"table {source.name!r}",
            remedy=f"Install it: `pip install 'trilane[{source.format}]'`",
        ) from error
    return read_snapshot(root / source.path, source.version, where=f"table {source.name!r}")


def pinned(source: TableSource, root: Path) -> TableSource:
    """The table at its newest version, unless it names one; files without versions stay as they are."""
    if source.format is None or source.version is not None:
        return source
    twin = copy.copy(source)
    object.__setattr__(twin, "version", snapshot_of(source, root).version)
    return twin


def pinned_view(view: View, root: Path) -> View:
    """The view over its pinned table; it has the same version, for that is of definitions."""
    source = view.source
    return replace(view, source=pinned(source, root)) if isinstance(source, TableSource) and source.format else view


def pinned_plan(plan: FeaturePlan, root: Path) -> FeaturePlan:
    """The plan with its views over tables pinned now, each table once."""
    tables = {v.source: pinned(v.source, root) for v in plan.views if isinstance(v.source, TableSource)}
    if all(source is twin for source, twin in tables.items()):
        return plan
    views = {
        view.name: replace(view, source=tables[view.source]) if isinstance(view.source, TableSource) else view
        for view in plan.views
    }
    columns = tuple(column._replace(view=views[column.view.name]) for column in plan.columns)
    return replace(plan, views=tuple(views.values()), columns=columns)


def versions_of(plan: FeaturePlan, spine: TableSource) -> dict[str, int]:
    """The version of each pinned table that is read."""
    sources = [spine, *(view.source for view in plan.views if isinstance(view.source, TableSource))]
    return {source.name: source.version for source in sources if source.version is not None}


def plain_files(source: TableSource, root: Path) -> list[Path] | None:
    """The files, if they hold the declared columns under their own names; else None."""
    parts = snapshot_of(source, root).parts
    wanted = {field.name for field in source.fields}
    plain = all(part.columns.get(name) == name for part in parts for name in wanted)
    return [part.file for part in parts] if plain else None


def raw_sql(source: TableSource, root: Path) -> str | None:
    """A query for the declared columns as the files have them; None if there is no file."""
    snapshot = snapshot_of(source, root)
    for field in source.fields:
        if field.name not in snapshot.names:
            raise ContractError(
                f"column {field.name!r} is missing",
                where=f"table {source.name!r}, version {snapshot.version}",
                remedy=f"Add it, or correct the schema; there are {', '.join(snapshot.names)}",
                column=field.name,
            )
    groups: dict[str, list[Path]] = {}
    for part in snapshot.parts:
        groups.setdefault(", ".join(_expressions(source, part)), []).append(part.file)
    queries = [f"SELECT {columns} FROM {_read(files)}" for columns, files in groups.items()]
    return " UNION ALL ".join(queries) or None


def _expressions(source: TableSource, part: Part) -> Iterator[str]:
    for field in source.fields:
        name, kind = quoted([field.name]), SQL_TYPES[field.dtype.name]
        if field.name in part.columns:
            yield f"{quoted([part.columns[field.name]])} AS {name}"
        else:
            value = part.constants.get(field.name)
            yield f"CAST({'NULL' if value is None else text(value)} AS {kind}) AS {name}"


def _read(files: list[Path]) -> str:
    return f"read_parquet([{', '.join(text(str(f)) for f in files)}], union_by_name = true, hive_partitioning = false)"
