"""Tables of many rows as checked columns: what breaks the contract is named row by row, and the rest goes on.

Laws: a table whose columns are not of the contract's types is refused whole, before any row is looked at; of one that
fits, each row that breaks the contract comes back with its place, the path and the reason, and every other row has the
values that a request with that row would have brought. Columns are looked at as such: no row of a good one is touched.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.constraint import bound_text, broken_bound
from trilane.contract import Contract, Rejection, split_message
from trilane.errors import ContractError
from trilane.features.algebra import Array
from trilane.features.columns import request_column
from trilane.serving.protocol.arrow import fits
from trilane.serving.reading import Asked
from trilane.types import Field

__all__ = ["TableFormat"]

_NOTHING = "the value is null"


class TableFormat:
    """Checks tables of the inputs of one contract; `keys` names those by which stores are read."""

    def __init__(self, contract: Contract, *, keys: Collection[str]) -> None:
        self._contract, self._keys = contract, frozenset(keys)

    def check_schema(self, schema: pa.Schema, *, where: str) -> None:
        """Raises ContractError for a column that is missing, there twice or of another type."""
        for field in self._contract.fields:
            places = schema.get_all_field_indices(field.name)
            path = f"{where}, column {field.name!r}"
            if len(places) > 1:
                raise ContractError("the column is there twice", where=path, remedy="Rename one of them")
            if not places:
                if field.nullable:
                    continue
                what = f"the column is missing, expected {field.dtype.name}"
                raise ContractError(what, where=path, remedy=f"Add it; there are {', '.join(schema.names)}")
            kind = _bare(schema.field(places[0]).type)
            if not (fits(field.dtype.name, kind) or (pa.types.is_null(kind) and field.nullable)):
                what = f"expected a column of {field.dtype.name}, got {kind}"
                raise ContractError(what, where=path, remedy="Cast the column; a timestamp needs a time zone")

    def checked(self, table: pa.Table) -> tuple[Asked, npt.NDArray[np.int64], list[Rejection]]:
        """The rows that keep the contract as columns, their places in `table`, and the rest with reasons."""
        columns = {field.name: _plain(field, table) for field in self._contract.fields}
        rejected: dict[int, Rejection] = {}
        for field in self._contract.fields:
            for row, reason in _faults(field, columns[field.name]):
                rejected.setdefault(row, Rejection(row, "type", f"$.{field.name}", reason))
        kept = np.arange(table.num_rows)
        if rejected:
            kept = np.delete(kept, list(rejected))
            columns = {name: column.take(kept) for name, column in columns.items()}
        values: dict[str, Any] = {
            field.name: columns[field.name].to_pylist()
            if field.name in self._keys
            else _as_array(field, columns[field.name])
            for field in self._contract.fields
        }
        return Asked(values, len(kept)), kept, [rejected[row] for row in sorted(rejected)]


def _plain(field: Field, table: pa.Table) -> pa.Array:
    """The column in the type that a request's values have; what cannot be cast stays as it is, to be refused by row."""
    place = table.schema.get_field_index(field.name)
    if place < 0:
        return pa.nulls(table.num_rows, _TYPES[field.dtype.name])
    column = table.column(place).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no row
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    wanted = _TYPES[field.dtype.name]
    if column.type == wanted:
        return column
    # An integer beyond 2^53 is rounded, as JSON's are; of instants in nanoseconds the rest is cut off.
    loose = field.dtype.name == "float64" or (pa.types.is_timestamp(column.type) and column.type.unit == "ns")
    try:
        return column.cast(wanted, safe=not loose)
    except pa.ArrowInvalid:
        return column


def _faults(field: Field, column: pa.Array) -> list[tuple[int, str]]:
    """The rows that break what is declared of `field`, with reasons."""
    bad: list[tuple[int, str]] = []
    if column.null_count and not field.nullable:
        bad += [(row, _NOTHING) for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)).tolist()]
    kind = field.dtype.name
    if column.type != _TYPES[kind]:
        return bad + _by_value(field, column)
    if kind == "float64":
        values = column.to_numpy(zero_copy_only=False)
        odd = ~np.isfinite(values)
        if odd.any():
            odd &= ~(np.isnan(values) if field.nullable else column.is_null().to_numpy(zero_copy_only=False))
            bad += [(row, f"{values[row]} is no finite number") for row in np.flatnonzero(odd).tolist()]
    elif kind in _ENDS and _beyond(column, *_ENDS[kind]):
        return bad + _by_value(field, column)
    elif kind == "string":
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            return bad + _by_value(field, column)
    if field.rules:
        try:
            values = column.to_pylist()
            msgspec.convert(values, _listed(field))
            if not field.instants:
                return bad
        except msgspec.ValidationError:
            pass  # some value breaks a rule: the look at each, below, tells which
        bad += _by_value(field, column)
    return bad


def _beyond(column: pa.Array, low: int, high: int) -> bool:
    """Whether any value lies outside; a look at the extremes, not at each."""
    if len(column) == column.null_count:
        return False
    ends = pc.min_max(column.cast(pa.int64()))
    return bool(ends["min"].as_py() < low or ends["max"].as_py() > high)


def _by_value(field: Field, column: pa.Array) -> list[tuple[int, str]]:
    """The faults of a column that has some, found value by value."""
    found, wanted = [], _one(field)
    for row in range(len(column)):
        try:
            value = column[row].as_py()
            if value is None:
                continue  # told already, where it is a fault
            msgspec.convert(value, wanted)
            if isinstance(value, dt.datetime):
                at = column[row : row + 1].cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())[0].as_py()
                found += [(row, bound_text(r, b)) for r, b in field.instants if broken_bound(r, b, at)][:1]
        except msgspec.ValidationError as error:
            found.append((row, split_message(str(error))[0]))
        except (ValueError, OverflowError) as error:  # no text, or an instant beyond the years of a calendar
            found.append((row, str(error)))
    return found


def _as_array(field: Field, column: pa.Array) -> Array:
    """What `features.request.as_column` would make of the values."""
    if field.dtype.name == "float64" and not column.null_count:
        return np.asarray(column.to_numpy())  # the column's own memory
    return request_column(field, column)


def _one(field: Field) -> object:
    return dt.datetime if field.dtype.name == "timestamp" else field.annotation


def _listed(field: Field) -> object:
    one: Any = _one(field)
    return list[one | None] if field.nullable else list[one]


def _bare(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


_TYPES = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}
# What Arrow can hold and a request cannot: the smallest integer, and instants beyond the years 1 to 9999.
_ENDS = {"int64": (-(2**63) + 1, 2**63 - 1), "timestamp": (-62_135_596_800_000_000, 253_402_300_799_999_999)}
