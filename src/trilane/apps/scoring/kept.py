"""Columns of the input that the output has too: as they are in the first file, and all other files must fit.

Law: what a file lacks, or has in a type whose values the first one's cannot hold, is refused before any row is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.errors import ContractError, DefinitionError

__all__ = ["KeptColumns", "check_keepable"]


class KeptColumns:
    """Those called `names`, in the types of `schema`, which is that of the file at `where`."""

    def __init__(self, schema: pa.Schema, names: Sequence[str], *, where: str = "") -> None:
        self.names, self._where = tuple(names), where
        self.fields = [schema.field(name).remove_metadata() for name in names]

    def check_schema(self, schema: pa.Schema, *, where: str, optional: Collection[str] = ()) -> None:
        """Raises ContractError for a column that is missing but not in `optional`, there twice or of another type."""
        for field in self.fields:
            places, path = schema.get_all_field_indices(field.name), f"{where}, column {field.name!r}"
            remedy = f"Mend the file, or do not --keep it; it is {field.type} in {self._where}"
            if len(places) > 1:
                raise ContractError("the column, which is kept, is there twice", where=path, remedy=remedy)
            if not places and field.name not in optional:
                raise ContractError("the column, which is kept, is missing", where=path, remedy=remedy)
            if places and not _holds(field.type, kind := schema.field(places[0]).type):
                raise ContractError(f"the column, which is kept, is {kind}", where=path, remedy=remedy)

    def of(self, table: pa.Table, rows: npt.NDArray[np.int64], *, file: str) -> list[pa.Array]:
        """The values of `rows` of a table of `file`, in ascending order; null in a column that it lacks. Raises
        ContractError for a number that the first file's type does not have after all.
        """
        there, found = set(table.column_names), []
        for field in self.fields:
            if field.name not in there:
                found.append(pa.nulls(len(rows), field.type))
                continue
            values = _taken(table.column(field.name), rows)
            try:
                found.append(values if values.type == field.type else values.cast(field.type))
            except pa.ArrowInvalid as error:
                what, remedy = f"what is kept cannot be {field.type}: {error}", "Mend the file, or do not --keep it"
                raise ContractError(what, where=f"{file}, column {field.name!r}", remedy=remedy) from None
        return found


def check_keepable(schema: pa.Schema, names: Sequence[str], *, own: Collection[str]) -> None:
    """Raises DefinitionError for a name that is one of the output's `own`, or not that of one column."""
    for name in names:
        number = len(schema.get_all_field_indices(name))
        if name in own or number != 1:
            why = "is there twice in the input" if number else "is no column of the input"
            what = "is a name of the output" if name in own else why
            raise DefinitionError(f"{name!r} {what}", where="--keep", remedy="Name others", file="")


def _taken(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.Array:
    """The values of rows in ascending order, without a copy where they follow one another."""
    whole = column.combine_chunks()
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        found = whole.slice(int(rows[0]), len(rows))
    else:
        found = whole.take(pa.array(rows))
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _holds(wanted: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a column of type `wanted` can hold all values of one of type `kind`."""
    wanted, kind = _bare(wanted), _bare(kind)
    if kind == wanted or (_is_text(kind) and _is_text(wanted)):
        return True
    schemas = [pa.schema([("x", one)]) for one in (wanted, kind)]
    try:
        return bool(pa.unify_schemas(schemas, promote_options="permissive").field(0).type == wanted)
    except pa.ArrowException:
        return False


def _bare(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
