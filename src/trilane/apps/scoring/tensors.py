"""Columns of a table as the tensors of a model, and its answers as columns.

An input of shape [rows] is the column of its name; one of more axes is a column of lists of its name, flat or nested,
or, if it is the only one, a matrix of one column a feature. Laws: a table whose columns cannot be the inputs is refused
before any row is looked at; a row that cannot (a null where there is no NaN, a list of another length, a number that
the data type does not have) comes back with the reason, and no other does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.contract import Rejection
from trilane.errors import ContractError, DefinitionError
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["TensorColumns", "arrow_type", "as_column"]

_NULL = "the value is null"
_Array = npt.NDArray[Any]


class TensorColumns:
    """Reads the inputs `specs`; `features` names the columns of a matrix, if the model or the caller names them."""

    def __init__(self, specs: Sequence[TensorSpec], *, features: Sequence[str] = (), where: str) -> None:
        self._specs, self._features = specs, tuple(features)
        for spec in specs:
            if -1 in spec.shape[1:]:
                what = f"its input {spec.name!r} has shape {list(spec.shape)}, an axis of any length"
                raise DefinitionError(what, where=where, remedy="Ask it over the protocol", file="")
        if features and (len(specs) != 1 or specs[0].shape[1:] != (len(features),)):
            shown = ", ".join(f"{one.name} {list(one.shape)}" for one in specs)
            what, remedy = f"it takes {shown}, no matrix of {len(features)} columns", "Name as many columns as it has"
            raise DefinitionError(what, where="--features", remedy=remedy, file="")

    @property
    def read(self) -> list[str]:
        """The names of the columns that are read; a file that has lists of features may lack those of each."""
        return [*self._features, *(spec.name for spec in self._specs)]

    def check_schema(self, schema: pa.Schema, *, where: str) -> None:
        """Raises ContractError for a column that is missing, there twice or of another type."""
        matrix = self._is_matrix(schema)
        for spec in self._specs:
            for name in self._features if matrix else [spec.name]:
                self._check(schema, name, spec, where=f"{where}, column {name!r}", listed=not matrix)

    def checked(self, table: pa.Table) -> tuple[list[_Array], npt.NDArray[np.int64], list[Rejection]]:
        """The rows that fit as one array an input, their places in `table`, and the rest with reasons."""
        faults = _Faults({})
        if self._is_matrix(table.schema):
            (spec,) = self._specs
            matrix = np.empty((table.num_rows, len(self._features)), DATATYPES[spec.datatype])
            for place, name in enumerate(self._features):
                matrix[:, place] = _values(_whole(table, name), spec, name, faults)
            arrays = [matrix]
        else:
            arrays = [_tensor(_whole(table, spec.name), spec, faults) for spec in self._specs]
        kept = np.arange(table.num_rows)
        if faults.found:
            kept = np.delete(kept, list(faults.found))
            arrays = [array[kept] for array in arrays]
        return arrays, kept, [faults.found[row] for row in sorted(faults.found)]

    def _is_matrix(self, schema: pa.Schema) -> bool:
        """Whether features are columns: if they have names, unless there is a column of lists of them."""
        place = schema.get_field_index(self._specs[0].name) if self._specs else -1
        return bool(self._features) and (place < 0 or not _is_list(schema.field(place).type))

    def _check(self, schema: pa.Schema, name: str, spec: TensorSpec, *, where: str, listed: bool) -> None:
        places = schema.get_all_field_indices(name)
        if len(places) > 1:
            raise ContractError("the column is there twice", where=where, remedy="Rename one of them")
        shape = list(spec.shape[1:]) if listed else []
        expected = f"{'lists of ' if shape else ''}{spec.datatype}"
        if not places:
            hint = "; --features names the columns of a matrix" if shape and len(self._specs) == 1 else ""
            remedy = f"Add it{hint}; there are {', '.join(schema.names)}"
            raise ContractError(f"the column is missing, expected {expected}", where=where, remedy=remedy)
        kind = leaf = schema.field(places[0]).type
        while _is_list(leaf) and shape:
            leaf = leaf.value_type
        if (_is_list(kind) if shape else True) and _fits(spec.datatype, leaf):
            return
        raise ContractError(f"expected a column of {expected}, got {kind}", where=where, remedy="Cast the column")


@dataclass(slots=True)
class _Faults:
    found: dict[int, Rejection]

    def add(self, rows: npt.NDArray[np.bool_], name: str, reason: str) -> None:
        for row in np.flatnonzero(rows).tolist():
            self.found.setdefault(row, Rejection(row, "type", f"$.{name}", reason))


def arrow_type(spec: TensorSpec) -> pa.DataType:
    """The type of the column that an output becomes: lists where it has more axes than that of rows."""
    found = pa.binary() if spec.datatype == "BYTES" else pa.from_numpy_dtype(DATATYPES[spec.datatype])
    for length in reversed(spec.shape[1:]):
        found = pa.list_(found, length)  # -1: of any length
    return found


def as_column(array: _Array, spec: TensorSpec) -> pa.Array:
    """An output as its column."""
    kind = arrow_type(TensorSpec(spec.name, spec.datatype, (-1,)))
    found = pa.array(np.ascontiguousarray(array).reshape(-1), kind)
    for axis in range(array.ndim - 1, 0, -1):
        length, lists = array.shape[axis], math.prod(array.shape[:axis])
        if spec.shape[axis] == -1:
            found = pa.ListArray.from_arrays(pa.array(np.arange(lists + 1) * length, pa.int32()), found)
        else:
            found = pa.FixedSizeListArray.from_arrays(found, length)
    return found


def _whole(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _tensor(column: pa.Array, spec: TensorSpec, faults: _Faults) -> _Array:
    if len(spec.shape) == 1:
        return _values(column, spec, spec.name, faults)
    length, rows = math.prod(spec.shape[1:]), len(column)
    bounds, leaves = np.arange(rows + 1), column
    while _is_list(leaves.type):
        if pa.types.is_fixed_size_list(leaves.type):
            bounds = (bounds + leaves.offset) * leaves.type.list_size
        else:
            bounds = leaves.offsets.to_numpy()[bounds].astype(np.int64)
        leaves = leaves.values
    nulls = column.is_null().to_numpy(zero_copy_only=False)
    faults.add(nulls, spec.name, _NULL)
    odd = (np.diff(bounds) != length) & ~nulls
    faults.add(odd, spec.name, f"a list of another length than {length}")
    good = np.flatnonzero(~(odd | nulls))
    found = np.zeros((rows, length), DATATYPES[spec.datatype])
    if len(good) == rows:
        leaves = leaves.slice(int(bounds[0]), rows * length)
    else:
        leaves = leaves.take(pa.array((bounds[good][:, None] + np.arange(length)).reshape(-1)))
    within = _Faults({})
    found[good] = _values(leaves, spec, spec.name, within).reshape(-1, length)
    for place, one in within.found.items():
        row = int(good[place // length])
        faults.found.setdefault(row, Rejection(row, "type", f"$.{spec.name}[{place % length}]", one.reason))
    return found.reshape(rows, *spec.shape[1:])


def _values(column: pa.Array, spec: TensorSpec, name: str, faults: _Faults) -> _Array:
    """The values of a column, a row each; those of rows at fault are anything."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wanted, kind = DATATYPES[spec.datatype], spec.datatype
    if wanted.kind == "f":
        floats = column.cast(pa.float32() if wanted.itemsize < 8 else pa.float64(), safe=False)
        values: _Array = pc.fill_null(floats, math.nan).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            return values.astype(wanted, copy=False)
    if column.null_count:
        faults.add(column.is_null().to_numpy(zero_copy_only=False), name, _NULL)
    if kind == "BYTES":
        texts = np.empty(len(column), object)
        texts[:] = pc.fill_null(column.cast(pa.binary()), b"").to_pylist()
        return texts
    values = pc.fill_null(column, False if kind == "BOOL" else 0).to_numpy(zero_copy_only=False)
    if wanted.kind in "iu":
        bounds = np.iinfo(wanted)
        beyond = (values < bounds.min) | (values > bounds.max)
        if beyond.any():
            faults.add(beyond, name, f"a number beyond {kind}")
    return values.astype(wanted)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _fits(datatype: str, kind: pa.DataType) -> bool:
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if datatype == "BYTES":
        texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
        return any(fits(kind) for fits in texts)
    if datatype == "BOOL":
        return bool(types.is_boolean(kind))
    if datatype.startswith("FP"):
        return bool(types.is_floating(kind) or types.is_integer(kind))
    return bool(types.is_integer(kind))
