"""The spine: the rows that ask, checked and numbered in the engine.

Laws: rows keep the order of their files; a row without an event time, or without an input that a request view needs, is
refused, for serving would refuse it too; a null key is no fault, it asks for an entity that nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from trilane.errors import ContractError, DefinitionError
from trilane.features.plan import FeaturePlan
from trilane.sources.table import TableSource
from trilane.stores.offline.protocol import Connection, Warehouse, instant_sql, quoted
from trilane.stores.offline.quality import check_table
from trilane.stores.offline.tables import check_columns, typed
from trilane.types import Field, Timestamp, as_field

__all__ = ["ROW", "SPINE", "TIME", "number_asks", "number_spine"]

SPINE, ROW, TIME = "spine", "_row", "_time"


def number_spine(
    connection: Connection,
    plan: FeaturePlan,
    spine: TableSource,
    *,
    warehouse: Warehouse,
    root: Path,
    label: str,
    since: int | None = None,
    until: int | None = None,
) -> int:
    """Makes the engine's table `spine` of the labelled rows from `since` to before `until`; how many there are."""
    where = f"spine {spine.name!r}"
    declared = {field.name: field.dtype for field in spine.fields}
    for field in plan.inputs:
        if declared.get(field.name) != field.dtype:
            raise DefinitionError(
                f"it lacks {field.name!r} as {field.dtype.name}", where=where, remedy="Add it to the schema"
            )
    if label not in declared:
        raise DefinitionError(f"it lacks the label {label!r}", where=where, remedy="Add it to the schema")
    moment = quoted([spine.event_time])
    check_table(connection, warehouse.table_sql(spine, root, all_rows=True), spine, before=until)
    relation = warehouse.table_sql(spine, root)
    _check_nulls(connection, relation, [spine.event_time], where)
    conditions = [f"{quoted([label])} IS NOT NULL"]
    conditions += [f"{moment} >= {instant_sql(since)}"] if since is not None else []
    conditions += [f"{moment} < {instant_sql(until)}"] if until is not None else []
    return _number(connection, plan, f"{relation} WHERE {' AND '.join(conditions)}", spine.event_time, where)


def number_asks(connection: Connection, plan: FeaturePlan, asks: pa.Table, *, event_time: str) -> int:
    """Makes the engine's table `spine` of the rows of `asks`, in their order; how many there are."""
    where = "asks"
    fields = {field.name: field for field in plan.inputs}
    fields.setdefault(event_time, as_field(event_time, Timestamp))
    connection.register("asks", asks)
    check_columns(list(fields.values()), connection.query("DESCRIBE SELECT * FROM asks").fetchall(), where=where)
    _check_nulls(connection, "asks", [event_time], where)
    return _number(connection, plan, f"(SELECT {typed(list(fields.values()))} FROM asks)", event_time, where)


def _number(connection: Connection, plan: FeaturePlan, rows: str, event_time: str, where: str) -> int:
    connection.run(
        f"CREATE TABLE {SPINE} AS SELECT row_number() OVER () - 1 AS {ROW}, "
        f"epoch_us({quoted([event_time])}) AS {TIME}, * FROM {rows}"
    )
    _check_nulls(connection, SPINE, [field.name for field in _needed(plan)], where)
    [(count,)] = connection.query(f"SELECT count(*) FROM {SPINE}").fetchall()
    return int(str(count))


def _needed(plan: FeaturePlan) -> list[Field]:
    return [field for view in plan.views for field in view.inputs if not field.nullable]


def _check_nulls(connection: Connection, relation: str, names: Sequence[str], where: str) -> None:
    for name in names:
        [(nulls,)] = connection.query(f"SELECT count(*) FROM {relation} WHERE {quoted([name])} IS NULL").fetchall()
        if nulls:
            raise ContractError(
                f"{nulls} rows have no {name!r}",
                where=where,
                remedy=f"Leave these rows out, or declare {name!r} with `| None` where it is an input",
                column=name,
            )
