"""The author's Ibis function compiled once to DuckDB SQL, so that the warehouse and a micro-batch run the same text.

Laws: a transform looks at one row at a time (see `trilane.sources.expression`); what it compiles to names the fields
that the view's features need and no other, so a field that is added to a source changes no view.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trilane.errors import DefinitionError
from trilane.features.entity import Entity
from trilane.sources.event import EventSource
from trilane.sources.expression import INPUT, check_row_wise, input_table, place_of
from trilane.sources.table import TableSource

if TYPE_CHECKING:
    from ibis import Table
    from ibis.expr.datatypes import DataType

__all__ = ["INPUT", "carrying", "compile_transform", "pruned"]

_SQL_TYPES = {"bool": "BOOLEAN", "int64": "BIGINT", "float64": "DOUBLE", "string": "TEXT", "timestamp": "TIMESTAMPTZ"}


def compile_transform(
    function: Callable[..., Any], source: EventSource | TableSource, entity: Entity, *, where: str
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Compiles `function` for events of `source`: the DuckDB SQL over a relation called `events`, and the columns
    (name, type name) that it returns. Raises DefinitionError.
    """
    import ibis

    unbound, place = input_table(source.fields), place_of(function)
    try:
        result = function(unbound)
    except Exception as error:
        raise DefinitionError(
            f"the transform raised {type(error).__name__}: {error}",
            where=where,
            remedy=f"It gets an Ibis table with the columns {', '.join(f.name for f in source.fields)}",
            file=place,
        ) from error
    if not isinstance(result, ibis.Table):
        raise DefinitionError(
            f"the transform returned {type(result).__name__}",
            where=where,
            remedy="Return an Ibis table",
            file=place,
        )
    remedy = "Only filter rows and derive columns here; declare aggregations in features={...}"
    check_row_wise(result, subject="the transform", where=where, place=place, remedy=remedy)
    columns = tuple((name, _type_name(dtype)) for name, dtype in result.schema().items())
    _check_columns(result, dict(columns), source, entity, where, place)
    return str(ibis.to_sql(result, dialect="duckdb", pretty=False)), columns


def pruned(
    sql: str, source: EventSource | TableSource, wanted: Sequence[str], *, where: str
) -> tuple[str, tuple[str, ...]]:
    """The SQL of a transform cut down to the columns `wanted`, and the source's fields that it still reads."""
    from sqlglot.errors import SqlglotError

    types = tuple((field.name, _SQL_TYPES[field.dtype.name]) for field in source.fields)
    try:
        return _pruned(sql, types, tuple(wanted))
    except SqlglotError as error:
        raise DefinitionError(
            f"the transform cannot be cut down to what it reads: {error}", where=where, remedy="Write it more simply"
        ) from error


@functools.lru_cache(maxsize=1_024)  # a process reads the same definitions again whenever something else is applied
def _pruned(sql: str, types: tuple[tuple[str, str], ...], wanted: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    import sqlglot
    from sqlglot import expressions
    from sqlglot.optimizer.pushdown_projections import pushdown_projections
    from sqlglot.optimizer.qualify import qualify

    columns = [expressions.column(name, quoted=True) for name in wanted]
    inner = sqlglot.parse_one(sql, dialect="duckdb")
    outer = expressions.select(*columns).from_(inner.subquery("rows"))  # type: ignore[attr-defined]
    whole = qualify(outer, schema={INPUT: dict(types)}, dialect="duckdb", quote_identifiers=True)
    whole = pushdown_projections(whole)
    named = {column.name for column in whole.find_all(expressions.Column)}
    return whole.sql("duckdb"), tuple(name for name, _ in types if name in named)


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


def carrying(sql: str, columns: Sequence[str]) -> str:
    """A compiled transform that also passes these columns of its input on, row by row."""
    import sqlglot
    from sqlglot import expressions

    tree = sqlglot.parse_one(sql, read="duckdb")
    for select in tree.find_all(expressions.Select):
        if not select.is_star:
            for column in columns:
                select.append("expressions", expressions.column(column, quoted=True))
    return tree.sql(dialect="duckdb")
