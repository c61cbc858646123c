"""Whether a landed table keeps what its source promises: nullability, constraints, rules, uniqueness and volume.

Laws: the verdict depends on the rows before an instant alone; constraints mean what they mean for events; a table that
breaks a promise which rejects is refused whole, for its rows belong together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trilane.clock import format_instant
from trilane.errors import ContractError
from trilane.sources.expectation import judge_volume
from trilane.sources.table import TableSource
from trilane.stores.offline.protocol import Connection, instant_sql, quoted
from trilane.types import Field

__all__ = ["check_table"]

_SIGNS = {"ge": "<", "gt": "<=", "le": ">", "lt": ">="}


def check_table(
    connection: Connection, relation: str, source: TableSource, *, before: int | None = None
) -> dict[str, int]:
    """How many rows break each rule that does not reject; raises ContractError for what does.

    `relation`: all rows of the table; only those whose event time lies before `before` are looked at.
    """
    moment = quoted([source.event_time])
    where = "" if before is None else f" WHERE {moment} < {instant_sql(before)} OR {moment} IS NULL"
    rows = f"(SELECT * FROM {relation}{where})"
    promises = [*_promises(connection, rows, source)]
    columns = ", ".join(f"count(*) FILTER (WHERE {broken})" for _, _, broken in promises)
    [(total, *counts)] = connection.query(f"SELECT count(*){', ' if columns else ''}{columns} FROM {rows}").fetchall()
    found = {}
    for (what, action, _), count in zip(promises, map(_number, counts), strict=True):
        if count and action == "reject":
            raise _refusal(source, what, count, _number(total))
        if count:
            found[what] = count
    for rule in source.unique:
        repeated = _repeated(connection, rows, rule.columns)
        if repeated and rule.action == "reject":
            raise _refusal(source, rule.name, repeated, _number(total))
        if repeated:
            found[rule.name] = repeated
    if before is not None:
        _check_volume(connection, rows, source, before)
    return found


def _promises(connection: Connection, rows: str, source: TableSource) -> Iterator[tuple[str, str, str]]:
    """What is promised of each row, what becomes of the others, and the SQL that is true of those."""
    for field in source.fields:
        column = quoted([field.name])
        if not field.nullable:
            yield f"{field.name} is not null", "reject", f"{column} IS NULL"
        for name, value in field.rules:
            yield f"{field.name} has {name}={value!r}", "reject", _broken(connection, rows, field, name, value)
    for rule in source.rules:
        yield rule.name, rule.action, f"({rule.sql}) IS FALSE"


def _broken(connection: Connection, rows: str, field: Field, name: str, value: object) -> str:
    column = quoted([field.name])
    if name == "pattern":
        return _unmatched(connection, rows, column, str(value))
    if name == "one_of" and isinstance(value, tuple):
        return f"{column} NOT IN ({', '.join(_literal(one) for one in value)})"
    if name in ("min_length", "max_length"):
        return f"length({column}) {'<' if name == 'min_length' else '>'} {value}"
    if name == "multiple_of":
        return f"{column} % {value} <> 0"
    bound = dict(field.instants).get(name)
    if bound is not None:
        return f"{column} {_SIGNS[name]} {instant_sql(bound)}"
    # NaN means "no value" everywhere, and DuckDB takes it for the largest number.
    number = f"{column} {_SIGNS[name]} {value!r}"
    return f"(NOT isnan({column}) AND {number})" if field.dtype.name == "float64" else number


def _unmatched(connection: Connection, rows: str, column: str, pattern: str) -> str:
    """The pattern is Python's, as it is for events, so Python looks at each different text once."""
    matches = re.compile(pattern).search
    bad = []
    for batch in connection.query(f"SELECT DISTINCT {column} AS text FROM {rows}").to_arrow_reader(65_536):
        bad += [text for text in batch.column(0).to_pylist() if text is not None and not matches(text)]
    return f"{column} IN ({', '.join(map(_literal, bad))})" if bad else "false"


def _repeated(connection: Connection, rows: str, columns: tuple[str, ...]) -> int:
    known = " AND ".join(f"{quoted([column])} IS NOT NULL" for column in columns)
    [(count,)] = connection.query(
        f"SELECT coalesce(sum(n - 1), 0) FROM "
        f"(SELECT count(*) AS n FROM {rows} WHERE {known} GROUP BY {quoted(columns)})"
    ).fetchall()
    return _number(count)


def _check_volume(connection: Connection, rows: str, source: TableSource, before: int) -> None:
    bounds = source.volume
    if bounds is None:
        return
    moment = quoted([source.event_time])
    marks = [instant_sql(before - n * bounds.per) for n in (1, 2)]
    [(last, former)] = connection.query(
        f"SELECT count(*) FILTER (WHERE {moment} >= {marks[0]}), "
        f"count(*) FILTER (WHERE {moment} >= {marks[1]} AND {moment} < {marks[0]}) FROM {rows}"
    ).fetchall()
    wrong = judge_volume(bounds, _number(last), _number(former))
    if wrong is not None:
        raise ContractError(
            f"{wrong}, before {format_instant(before)}",
            where=f"table {source.name!r}",
            remedy="Land the missing rows, or widen volume=",
            rule="volume",
        )


def _refusal(source: TableSource, promise: str, count: int, total: int) -> ContractError:
    column = next((f.name for f in source.fields if promise.startswith(f"{f.name} ")), "")
    return ContractError(
        f"{count:,} of {total:,} rows break {promise!r}",
        where=f"table {source.name!r}" + (f", $.{column}" if column else ""),
        remedy="Land the table again without them, or change what its source promises",
        rule=promise,
        rows=count,
    )


def _literal(value: object) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


def _number(value: object) -> int:
    return int(str(value))
