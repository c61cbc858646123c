"""Rows of an Arrow IPC stream that came over the network.

Law: what is made of a stream grows with its bytes alone: it may not be compressed, nor have columns in which many rows
share a value; and its buffers are looked through before any is followed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import ipc, types

from trilane.errors import ContractError

__all__ = ["stream_rows"]

_ROWS = 1_000  # made into Python's values at once
_TAKEN = (
    types.is_boolean,
    types.is_integer,
    types.is_floating,
    types.is_string,
    types.is_large_string,
    types.is_timestamp,
)
_BATCH = 3  # the number of a record batch among the headers of messages
_HEADER_KIND, _HEADER, _COMPRESSION = 1, 2, 3  # fields in Message.fbs: of a Message, and of a RecordBatch


def stream_rows(body: bytes, *, where: str) -> Iterator[dict[str, Any]]:
    """The rows of all batches, in what JSON has and instants. Raises ContractError for what is no such stream."""
    try:
        _check_plain(body, where)
        with ipc.open_stream(body) as stream:
            _check_columns(stream.schema, where)
            for batch in stream:
                batch.validate(full=True)
                for start in range(0, batch.num_rows, _ROWS):
                    part = pa.Table.from_batches([batch.slice(start, _ROWS)])
                    yield from part.cast(_in_microseconds(part.schema), safe=False).to_pylist()
    except (pa.ArrowException, OSError, struct.error, ValueError, OverflowError, IndexError) as error:
        raise ContractError(f"this is no sound Arrow stream: {error}", where=where, remedy="Write it anew") from error


def _check_columns(schema: pa.Schema, where: str) -> None:
    if not schema.names:  # its rows could be as many as it likes
        raise ContractError("the Arrow stream has no columns", where=where, remedy="Send a column for each field")
    for field in schema:
        if not any(taken(field.type) for taken in _TAKEN):
            remedy = "Send booleans, integers, floats, strings and timestamps"
            raise ContractError(f"a column of {field.type} is not taken", where=f"$.{field.name}", remedy=remedy)


def _in_microseconds(schema: pa.Schema) -> pa.Schema:
    """As Python's own instants have it, and events."""
    fields = [f.with_type(pa.timestamp("us", f.type.tz)) if types.is_timestamp(f.type) else f for f in schema]
    return pa.schema(fields)


def _check_plain(body: bytes, where: str) -> None:
    """Raises ContractError if a batch is compressed, which its reader would believe whatever it says."""
    messages = ipc.MessageReader.open_stream(pa.py_buffer(body))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type != "record batch":
            continue
        facts = message.metadata.to_pybytes()
        [root] = struct.unpack_from("<I", facts, 0)
        kind, batch = _field(facts, root, _HEADER_KIND), _field(facts, root, _HEADER)
        if kind is None or facts[kind] != _BATCH or batch is None:
            raise ValueError("a message is none")
        batch += struct.unpack_from("<I", facts, batch)[0]
        if _field(facts, batch, _COMPRESSION) is not None:
            remedy = "Write it without the option compression"
            raise ContractError("the Arrow stream is compressed", where=where, remedy=remedy)


def _field(facts: bytes, table: int, number: int) -> int | None:
    """Where a field of a FlatBuffers table lies (https://flatbuffers.dev/internals); None if it is not set."""
    names = table - struct.unpack_from("<i", facts, table)[0]
    [size] = struct.unpack_from("<H", facts, names)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", facts, names + place)[0] if place < size else 0
    return table + offset if offset else None
