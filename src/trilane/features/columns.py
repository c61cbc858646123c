"""From the Arrow rows of a transform to the NumPy columns that tiles are made of.

Laws: nulls and NaN are both "no value"; -0.0 becomes 0.0, so that equal values have equal bits; the micro-batch,
the batch lane and the training set come through here, so no lane reads a value differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.errors import DefinitionError
from trilane.features.algebra import Array, Floats, Ints
from trilane.features.entity import Entity, encode_key
from trilane.features.hashing import text_key
from trilane.types import Field

__all__ = ["entity_codes", "event_times", "request_column", "state_columns"]


def event_times(table: pa.Table, name: str) -> Ints:
    """The instants of column `name`, which holds no null, in microseconds."""
    column = _flat(table, name).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def state_columns(table: pa.Table, names: Sequence[str]) -> Mapping[str, tuple[Array, npt.NDArray[np.bool_]]]:
    """Values and validity of each named column: int64 for integers, booleans and instants, float64 for other numbers.

    A text becomes its 64-bit key.
    """
    return {name: _values(_flat(table, name), name) for name in names}


def entity_codes(table: pa.Table, entity: Entity) -> tuple[Ints, list[bytes]]:
    """Dense codes of the rows' entities, -1 where a part of the key is null, and the encoded key of each code."""
    encoded = [_flat(table, name).dictionary_encode() for name in entity.key_names]
    codes = encoded[0].indices.fill_null(-1).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if len(encoded) == 1:
        return codes, [_encoded((value,)) for value in encoded[0].dictionary.to_pylist()]
    known = codes >= 0
    for column in encoded[1:]:
        more = column.indices.fill_null(-1).cast(pa.int64()).to_numpy(zero_copy_only=False)
        known = known & (more >= 0)
        # The codes are made dense at each step, so their product never leaves int64.
        codes = np.unique(codes * (len(column.dictionary) + 1) + more, return_inverse=True)[1]
    rows = np.flatnonzero(known)
    _, firsts, dense = np.unique(codes[rows], return_index=True, return_inverse=True)
    answer = np.full(len(codes), -1, np.int64)
    answer[rows] = dense
    chosen = pa.array(rows[firsts])
    parts = [column.dictionary.take(column.indices.take(chosen)).to_pylist() for column in encoded]
    return answer, [_encoded(values) for values in zip(*parts, strict=True)]


def request_column(field: Field, column: pa.Array) -> Array:
    """What `trilane.features.request.as_column` makes of the same values, many at a time."""
    if field.dtype.name == "string":
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    if field.dtype.name == "timestamp":
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    as_float = field.nullable or field.dtype.name == "float64"
    empty = np.asarray(column.is_null().to_numpy(zero_copy_only=False), bool)
    blank = False if pa.types.is_boolean(column.type) else 0
    values = pc.fill_null(column, blank).to_numpy(zero_copy_only=False)
    return np.where(empty, np.nan, values.astype(np.float64)) if as_float else values.astype(field.dtype.numpy)


def _encoded(values: Sequence[object]) -> bytes:
    key = encode_key(values)
    if key is None:
        raise DefinitionError("a key is null", remedy="Leave out rows with code -1")
    return key


def _flat(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _values(column: pa.Array, name: str) -> tuple[Array, npt.NDArray[np.bool_]]:
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _keys(column), valid
    else:
        raise DefinitionError(f"column {name!r} is a {kind}", remedy="Aggregate numbers, booleans, instants or texts")
    values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        return _floats(values, valid)
    return values, valid


def _keys(texts: pa.Array) -> Ints:
    encoded = texts.dictionary_encode()
    keys = np.array([text_key(text) for text in encoded.dictionary.to_pylist()] or [0], np.int64)
    codes = np.asarray(encoded.indices.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    return keys[codes]


def _floats(values: Floats, valid: npt.NDArray[np.bool_]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    empty = np.isnan(values)
    return np.where(empty, 0.0, values) + 0.0, valid & ~empty
