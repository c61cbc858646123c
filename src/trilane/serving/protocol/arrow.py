"""Feature reads as Arrow IPC streams: a table of inputs to checked columns, a reading to a table.

Laws: what is refused is refused with the path to the fault, and before it can cost more memory than its bytes; of each
feature the answer holds the value (null where missing), the status and the age.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from trilane.contract import Contract, split_message
from trilane.errors import ContractError
from trilane.features.fallback import STATUSES
from trilane.serving.protocol.features import reasons
from trilane.serving.protocol.rows import RowFormat, checked_columns, checked_floats
from trilane.serving.reading import Asked, Reading
from trilane.types import Field

__all__ = ["ArrowFormat", "as_batch", "encode_table", "fits", "reasons_in"]

_REMEDY = "Send an Arrow IPC stream of one table, with a column for each input"


class ArrowFormat:
    """Decodes tables of inputs of one contract; `rows` says how many rows may come."""

    def __init__(self, contract: Contract, rows: RowFormat) -> None:
        self._contract, self._rows = contract, rows
        self._values = {field.name: _list_of(field) for field in contract.fields}

    def decode(self, body: bytes) -> Asked:
        """The checked columns of an IPC stream. Raises ContractError with the path to what is wrong."""
        try:
            table = _read(body)
            names = list(table.column_names)
        except (pa.ArrowException, OSError, ValueError, KeyError, struct.error, UnicodeDecodeError) as error:
            what = f"malformed Arrow: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            raise ContractError(what, where="$", remedy=_REMEDY, status=400) from None
        self._rows.check_number(table.num_rows, "$.columns")
        self._check_names(names)
        try:
            table.validate(full=True)
            found = {f.name: self._column(f, table.column(f.name)) for f in self._contract.fields if f.name in names}
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ContractError(f"malformed Arrow: {error}", where="$", remedy=_REMEDY, status=400) from None
        return checked_columns({f.name: found.get(f.name) for f in self._contract.fields})

    def _check_names(self, names: list[str]) -> None:
        known = {field.name for field in self._contract.fields}
        remedy = f"A table of {self._contract.name!r} has {', '.join(sorted(known))}"
        for name in names:
            if name not in known or names.count(name) > 1:
                what = "there is no such input" if name not in known else "the column is there twice"
                raise ContractError(what, where=f"$.columns.{name}", remedy=remedy)
        for field in self._contract.fields:
            if field.name not in names and not field.nullable:
                raise ContractError("the column is missing", where=f"$.columns.{field.name}", remedy=remedy)

    def _column(self, field: Field, column: pa.ChunkedArray) -> list[Any]:
        path, expected = f"$.columns.{field.name}", field.dtype.name
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (fits(expected, column.type) or (pa.types.is_null(column.type) and field.nullable)):
            what = f"expected a column of {expected}, got {column.type}"
            raise ContractError(what, where=path, remedy="Cast the column; a timestamp needs a time zone")
        try:
            values: list[Any] = _plain(column).to_pylist()
            msgspec.convert(values, self._values[field.name])
        except msgspec.ValidationError as error:
            reason, place = split_message(str(error))
            raise ContractError(reason, where=path + place.removeprefix("$"), remedy="Mend the value") from None
        except (ValueError, OverflowError) as error:
            raise ContractError(str(error), where=path, remedy="Send instants of the years 1 to 9999") from None
        if expected == "float64":
            values = [None if value is None else float(value) for value in values]
            checked_floats(values, f"{path}[%d]", nullable=field.nullable)
        return values


def encode_table(names: tuple[str, ...], reading: Reading, facts: Mapping[str, str]) -> bytes:
    """An IPC stream of a reading, as `as_batch` has it."""
    batch = as_batch(names, reading, facts)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def as_batch(names: tuple[str, ...], reading: Reading, facts: Mapping[str, str]) -> pa.RecordBatch:
    """A reading as columns: for each feature `name`, `name:status` and `name:age_s`.

    `facts` go into the metadata of the schema, with the reasons why values are worse than promised.
    """
    rows = len(reading.values)
    why = msgspec.json.encode(reasons(reading.faults))
    values, codes = np.ascontiguousarray(reading.values.T), np.ascontiguousarray(reading.statuses.T.astype(np.int8))
    missing, ages = np.isnan(values), np.ascontiguousarray(reading.ages.T / 1e6)
    some = np.atleast_1d(missing.any(axis=1))
    words = pa.array(STATUSES)
    arrays, fields = [], []
    for i, name in enumerate(names):
        status = pa.DictionaryArray.from_arrays(
            pa.Array.from_buffers(pa.int8(), rows, [None, pa.py_buffer(codes[i])]), words
        )
        arrays += [
            pa.array(values[i], mask=missing[i] if some[i] else None),
            status,
            pa.Array.from_buffers(pa.float64(), rows, [None, pa.py_buffer(ages[i])]),
        ]
        fields += [
            pa.field(name, pa.float64()),
            pa.field(f"{name}:status", status.type),
            pa.field(f"{name}:age_s", pa.float64()),
        ]
    schema = pa.schema(fields, metadata={**facts, "why": why})
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def reasons_in(schema: pa.Schema) -> tuple[str, ...]:
    """The reasons that `as_batch` wrote into a schema. Raises KeyError or a msgspec error where it did not."""
    return msgspec.json.decode(schema.metadata[b"why"], type=tuple[str, ...])


def _read(body: bytes) -> pa.Table:
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type in ("record batch", "dictionary") and _is_compressed(bytes(message.metadata)):
            raise ContractError(
                "the table is compressed", where="$", remedy="Write the stream without compression", status=415
            )
    with pa.ipc.open_stream(body) as stream:
        return stream.read_all()


def _is_compressed(message: bytes) -> bool:
    """Whether the body of a message is compressed, and may hold far more than its bytes (format/Message.fbs)."""
    header = _field(message, struct.unpack_from("<I", message)[0], 2)
    batch = header + struct.unpack_from("<I", message, header)[0] if header else 0
    if header and struct.unpack_from("<B", message, _field(message, struct.unpack_from("<I", message)[0], 1))[0] == 2:
        inner = _field(message, batch, 1)  # a dictionary holds a record batch
        batch = inner + struct.unpack_from("<I", message, inner)[0] if inner else 0
    return bool(batch and _field(message, batch, 3))


def _field(message: bytes, table: int, number: int) -> int:
    """Where field `number` of a flatbuffer table lies; 0 if it is left out."""
    names = table - struct.unpack_from("<i", message, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", message, names)[0]:
        return 0
    offset = struct.unpack_from("<H", message, names + 4 + 2 * number)[0]
    return table + offset if offset else 0


def fits(expected: str, kind: pa.DataType) -> bool:
    """Whether a column of Arrow type `kind` may stand for values of the type called `expected`."""
    types = pa.types
    if expected == "string":
        return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
    if expected == "int64":
        return bool(types.is_integer(kind))
    if expected == "float64":
        return bool(types.is_floating(kind) or types.is_integer(kind))
    if expected == "bool":
        return bool(types.is_boolean(kind))
    return bool(types.is_timestamp(kind) and kind.tz)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as microseconds in UTC, whatever zone they are told in."""
    if not pa.types.is_timestamp(column.type):
        return column
    # Parts of a microsecond are cut off; what lies beyond all microseconds is refused.
    return column.cast(pa.timestamp("us", "UTC"), safe=column.type.unit != "ns")


def _list_of(field: Field) -> object:
    one: Any = dt.datetime if field.dtype.name == "timestamp" else field.annotation
    return list[one | None] if field.nullable else list[one]
