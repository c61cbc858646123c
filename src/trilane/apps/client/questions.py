"""What a client asks, as requests without a transport: inputs of any usual form to bodies within the server's limits.

Laws: a request is repeated only where a repetition changes nothing; what is sent in portions is the whole, in order.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa

from trilane.errors import ContractError
from trilane.serving.protocol.rows import checked_columns
from trilane.serving.reading import Asked

__all__ = [
    "ARROW",
    "Inputs",
    "Question",
    "Shaped",
    "Tabular",
    "as_rows",
    "cut",
    "deciding",
    "encoded",
    "event_bodies",
    "explaining",
    "reading",
    "sending",
    "shaped",
]

ARROW = "application/vnd.apache.arrow.stream"
_JSON, _LINES = "application/json", "application/x-ndjson"
_FEW = 64  # rows whose answer is smaller and sooner read as JSON
_BODY, _EVENTS = 4 << 20, 10_000  # bytes and number of the events in a request


class Tabular(Protocol):
    """A table of Arrow, pandas, Polars, DuckDB ...: whatever gives itself away as an Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Inputs: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]] | Tabular
Shaped: TypeAlias = list[Mapping[str, object]] | Asked | pa.Table


@dataclass(frozen=True, slots=True)
class Question:
    """A request. `again`: whether it may be repeated even if the server may have heard it."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    again: bool = True


def shaped(rows: Inputs) -> Shaped:
    """Rows, columns or a table, told apart: a mapping of lists or arrays is columns, any other mapping one row.

    Raises ContractError for columns of unequal length, and for what is none of these.
    """
    try:
        if hasattr(rows, "__arrow_c_stream__"):
            return _without_index(pa.table(rows))
        if not isinstance(rows, Mapping):
            return list(rows)
        values = list(rows.values())
        if not values or not all(isinstance(value, list | tuple | np.ndarray) for value in values):
            return [rows]
        if any(isinstance(value, np.ndarray) for value in values):
            return pa.table({name: _column(value) for name, value in rows.items()})
    except (TypeError, ValueError, pa.ArrowException) as error:
        remedy = "Give mappings, lists or arrays of one length by name, or a table"
        raise ContractError(f"these are no rows: {error}", where="rows", remedy=remedy) from None
    return checked_columns({name: value for name, value in rows.items() if isinstance(value, list | tuple)})


def as_rows(rows: Shaped) -> list[Mapping[str, object]]:
    """The same, row by row."""
    if isinstance(rows, Asked):
        return [dict(zip(rows.columns, values, strict=True)) for values in zip(*rows.columns.values(), strict=True)]
    found: list[Mapping[str, object]] = rows.to_pylist() if isinstance(rows, pa.Table) else rows
    return found


def cut(rows: Shaped, most: int) -> Iterator[Shaped]:
    """Portions of at most `most` rows; one, if there are none, so that the server says what is wrong."""
    size = len(rows)
    if size <= most:
        yield rows
        return
    for start in range(0, size, most):
        stop = min(start + most, size)
        if isinstance(rows, Asked):
            yield rows.cut(start, stop)
        else:
            yield rows.slice(start, stop - start) if isinstance(rows, pa.Table) else rows[start:stop]


def encoded(rows: Shaped) -> tuple[bytes, str]:
    """The body that asks about rows, and its media type. Raises ContractError for values that JSON cannot say."""
    if isinstance(rows, pa.Table):
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as stream:
            stream.write_table(rows)
        return sink.getvalue(), ARROW
    return _json({"columns": rows.columns} if isinstance(rows, Asked) else {"rows": rows}), _JSON


def reading(name: str, rows: Shaped) -> Question:
    """Asks for the features of rows."""
    body, media = encoded(rows)
    few = isinstance(rows, list) and len(rows) < _FEW
    headers = {"content-type": media, "accept": _JSON if few else ARROW}
    return Question("POST", f"/v1/features/{quote(name, safe=',')}", body, headers)


def deciding(endpoint: str, rows: Shaped) -> Question:
    """Asks for decisions; never twice if the first may have been made, for each is recorded."""
    body, media = encoded(as_rows(rows))
    return Question("POST", f"/v1/decide/{quote(endpoint, safe='')}", body, {"content-type": media}, again=False)


def sending(source: str, body: bytes) -> Question:
    """Sends events, one a line; they may come twice, for their ids tell."""
    return Question("POST", f"/v1/events/{quote(source, safe='')}", body, {"content-type": _LINES})


def explaining(id: str) -> Question:
    """Asks for the record of a decision."""
    return Question("GET", f"/v1/explain/{quote(id, safe='')}")


def event_bodies(events: Iterable[Mapping[str, object] | bytes | str]) -> Iterator[tuple[bytes, int]]:
    """Bodies of events, one a line, and how many each holds."""
    lines: list[bytes] = []
    size = 0
    for number, event in enumerate(events):
        line = _line(event, number)
        if lines and (size + len(line) > _BODY or len(lines) == _EVENTS):
            yield b"\n".join(lines), len(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield b"\n".join(lines), len(lines)


def _line(event: Mapping[str, object] | bytes | str, number: int) -> bytes:
    text = event.encode() if isinstance(event, str) else event if isinstance(event, bytes) else _json(event)
    line = text.strip()
    if not line or b"\n" in line:
        raise ContractError("an event is one line of JSON", where=f"events[{number}]", remedy="Leave out line breaks")
    return line


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ContractError(str(error), where="rows", remedy="Send texts, numbers, booleans and instants") from None


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        found: object = value.item()
        return found
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON cannot say {type(value).__name__}")


def _column(values: object) -> pa.Array:
    column = pa.array(values)
    if pa.types.is_timestamp(column.type) and column.type.tz is None:
        return column.cast(pa.timestamp("us", "UTC"))  # NumPy knows no zones; its instants are UTC by convention
    return column


def _without_index(table: pa.Table) -> pa.Table:
    return table.select([name for name in table.column_names if not name.startswith("__index_level_")])
