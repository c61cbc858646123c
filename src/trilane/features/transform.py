"""The author's Ibis function compiled once to DuckDB SQL, so that the warehouse and a micro-batch run the same text.

Law: a transform looks at one row at a time. What depends on other rows (aggregates, joins, sorting, limits, window
functions) or on the moment it runs would mean one thing on a micro-batch and another on the warehouse; it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trilane.errors import DefinitionError
from trilane.features.entity import Entity
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.types import Field

if TYPE_CHECKING:
    from ibis import Table
    from ibis.expr.datatypes import DataType

__all__ = ["INPUT", "compile_transform"]

INPUT = "events"  # the name of the input relation in the compiled SQL
_FORBIDDEN = (
    "Aggregate",
    "Distinct",
    "JoinChain",
    "JoinReference",
    "Limit",
    "TimestampNow",
    "DateNow",
    "RowID",
    "Subquery",
    "RandomScalar",
    "RandomUUID",
    "Sample",
    "Sort",
    "TableUnnest",
    "WindowFunction",
    "CountStar",
    "Reduction",
)


def compile_transform(
    function: Callable[..., Any], source: EventSource | TableSource, entity: Entity, *, where: str
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Compiles `function` for events of `source`: the DuckDB SQL over a relation called `events`, and the columns
    (name, type name) that it returns. Raises DefinitionError.
    """
    import ibis

    unbound = ibis.table({f.name: _ibis_type(f) for f in source.fields}, name=INPUT)
    try:
        result = function(unbound)
    except Exception as error:
        raise DefinitionError(
            f"the transform raised {type(error).__name__}: {error}",
            where=where,
            remedy=f"It gets an Ibis table with the columns {', '.join(f.name for f in source.fields)}",
            file=_place(function),
        ) from error
    if not isinstance(result, ibis.Table):
        raise DefinitionError(
            f"the transform returned {type(result).__name__}",
            where=where,
            remedy="Return an Ibis table",
            file=_place(function),
        )
    _check_row_wise(result, where, _place(function))
    columns = tuple((name, _type_name(dtype)) for name, dtype in result.schema().items())
    _check_columns(result, dict(columns), source, entity, where, _place(function))
    return str(ibis.to_sql(result, dialect="duckdb", pretty=False)), columns


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def _ibis_type(field: Field) -> str:
    name = "timestamp('UTC', 6)" if field.dtype.name == "timestamp" else field.dtype.name
    return name if field.nullable else f"!{name}"


def _type_name(dtype: DataType) -> str:
    if dtype.is_timestamp():
        return "timestamp"
    if dtype.is_integer():
        return "int64"
    if dtype.is_floating() or dtype.is_decimal():
        return "float64"
    if dtype.is_boolean():
        return "bool"
    return "string" if dtype.is_string() else str(dtype)


def _check_row_wise(table: Table, where: str, place: str) -> None:
    from ibis.expr import operations as ops

    for node in table.op().find(ops.Node):
        names = {cls.__name__ for cls in type(node).__mro__}
        found = names.intersection(_FORBIDDEN)
        if found:
            raise DefinitionError(
                f"the transform uses {type(node).__name__}, which depends on more than one row or on the clock",
                where=where,
                remedy="Only filter rows and derive columns here; declare aggregations in features={...}",
                file=place,
            )


def _is_untouched(table: Table, name: str) -> bool:
    """Whether column `name` is the input's own: rows are chosen by it before the transform runs."""
    from ibis.expr import operations as ops

    node: Any = table.op()
    while not isinstance(node, ops.UnboundTable):
        if isinstance(node, ops.Project):
            value = node.values.get(name)
            if not isinstance(value, ops.Field):
                return False
            node, name = value.rel, value.name
        else:
            node = node.parent
    return True


def _check_columns(
    table: Table, columns: dict[str, str], source: EventSource | TableSource, entity: Entity, where: str, place: str
) -> None:
    for field in entity.keys:
        if columns.get(field.name) != field.dtype.name:
            raise DefinitionError(
                f"the transform gives {columns.get(field.name, 'no column')} for the key {field.name!r}",
                where=where,
                remedy=f"Return a {field.dtype.name} column {field.name!r} for entity {entity.name!r}",
                file=place,
            )
    if source.event_time not in columns or not _is_untouched(table, source.event_time):
        raise DefinitionError(
            f"the transform drops or changes the event time {source.event_time!r}",
            where=where,
            remedy=f"Keep the column {source.event_time!r} as it is",
            file=place,
        )
