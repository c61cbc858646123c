"""An author's Ibis expression over the fields of a source, and the check that it looks at one row at a time.

Law: what depends on other rows (aggregates, joins, sorting, limits, window functions) or on the moment it runs would
mean one thing on a micro-batch and another on the warehouse; it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trilane.errors import DefinitionError
from trilane.types import Field

if TYPE_CHECKING:
    from ibis import Table

__all__ = ["INPUT", "check_row_wise", "condition_sql", "input_table", "place_of"]

INPUT = "events"  # the name of the input relation in compiled SQL
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


def input_table(fields: Sequence[Field]) -> Table:
    """An unbound Ibis table of the fields."""
    import ibis

    return ibis.table({f.name: _ibis_type(f) for f in fields}, name=INPUT)


def check_row_wise(expression: Table, *, subject: str, where: str, place: str, remedy: str) -> None:
    """Raises DefinitionError if the expression depends on more than one row, or on the clock."""
    from ibis.expr import operations as ops

    for node in expression.op().find(ops.Node):
        names = {cls.__name__ for cls in type(node).__mro__}
        if names.intersection(_FORBIDDEN):
            raise DefinitionError(
                f"{subject} uses {type(node).__name__}, which depends on more than one row or on the clock",
                where=where,
                remedy=remedy,
                file=place,
            )


def condition_sql(condition: Callable[[Any], Any], fields: Sequence[Field], *, where: str) -> str:
    """DuckDB's SQL of a boolean expression over the columns of one row; it is null where it cannot be computed.

    Raises DefinitionError.
    """
    import ibis
    import sqlglot
    from sqlglot import expressions

    table, place = input_table(fields), place_of(condition)
    remedy = f"It gets an Ibis table with the columns {', '.join(f.name for f in fields)}, and returns a condition"
    try:
        found = condition(table)
    except Exception as error:
        what = f"the rule raised {type(error).__name__}: {error}"
        raise DefinitionError(what, where=where, remedy=remedy, file=place) from error
    if not isinstance(found, ibis.expr.types.BooleanValue):
        what = f"the rule returned {type(found).__name__}, which is no condition"
        raise DefinitionError(what, where=where, remedy=remedy, file=place)
    rows = table.select(holds=found)
    check_row_wise(rows, subject="the rule", where=where, place=place, remedy="Compare the fields of one row")
    whole = sqlglot.parse_one(str(ibis.to_sql(rows, dialect="duckdb")), dialect="duckdb")
    inner = whole.selects[0].this if isinstance(whole, expressions.Select) else None
    if inner is None or len(list(whole.find_all(expressions.Select))) != 1:
        raise DefinitionError("the rule is no expression of one row", where=where, remedy=remedy, file=place)
    for column in inner.find_all(expressions.Column):
        column.set("table", None)
    # TRY: one value that cannot be computed must not stop the rows beside it.
    return f"TRY({inner.sql('duckdb')})"


def place_of(function: Callable[..., Any]) -> str:
    """File and line of the author's function."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def _ibis_type(field: Field) -> str:
    name = "timestamp('UTC', 6)" if field.dtype.name == "timestamp" else field.dtype.name
    return name if field.nullable else f"!{name}"
