"""From the values of an event log to a table of the source's fields, whatever the values are written in.

This is the seam between formats and lanes: admission, archive and rules see the table, and nothing of JSON. Laws: each
value is in the table or among the rejections, never in both; rows keep the order of the log; what becomes of a value
does not depend on those beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trilane.constraint import broken_bound
from trilane.contract import NOT_JSON, Contract, Rejection
from trilane.sources.event import EventSource
from trilane.sources.formats.opening import open_decoder
from trilane.sources.formats.protocol import Decoded, Decoder, Schemas
from trilane.sources.instants import parse_instants
from trilane.types import Field, arrow_type

__all__ = ["Decoded", "Decoder", "JsonDecoder", "decoder_of"]

# A portion fits the processor's cache, and bounds what one unsound value costs its neighbours.
_PORTION = 8_192


def decoder_of(source: EventSource, schemas: Schemas | None = None) -> Decoder:
    """The decoder of a source's values; `schemas`: the registry that they may name schemas of."""
    if source.format.kind == "json":
        return JsonDecoder(source)
    return open_decoder(source.fields, source.format, schemas, where=f"event source {source.name!r}")


class JsonDecoder:
    """Reads JSON as the contract does, but the instants of a portion together: a datetime for each costs too much."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._schema = pa.schema([pa.field(f.name, arrow_type(f), f.nullable) for f in source.fields])

    def decode(self, values: pa.Array) -> Decoded:
        starts = range(0, max(len(values), 1), _PORTION)
        parts = [self._portion(values.slice(start, _PORTION).to_pylist(), start) for start in starts]
        if len(parts) == 1:
            return parts[0]
        return Decoded(
            pa.concat_tables([part.table for part in parts]).combine_chunks(),
            np.concatenate([part.indexes for part in parts]),
            [rejection for part in parts for rejection in part.rejections],
        )

    def _portion(self, values: list[bytes], start: int) -> Decoded:
        try:
            payloads = list(map(self._loose.decode, values))
        except NOT_JSON:  # which includes what msgspec calls a ValidationError
            return self._value_by_value(values, start)
        columns = list(self._columns(payloads))
        if len(columns) < len(self._schema):
            return self._value_by_value(values, start)
        return Decoded(pa.table(columns, schema=self._schema), np.arange(start, start + len(values)), [])

    def _columns(self, payloads: list[Any]) -> Iterator[pa.Array]:
        """The columns up to the first with an instant that is to be looked at alone."""
        for field in self._source.fields:
            is_instant = field.dtype.name == "timestamp"
            column = pa.array(
                [*map(attrgetter(field.name), payloads)], pa.string() if is_instant else arrow_type(field)
            )
            parsed = parse_instants(column) if is_instant else column
            if parsed is None or (field.instants and _breaks(parsed, field.instants)):
                return
            yield parsed

    def _value_by_value(self, values: list[bytes], start: int) -> Decoded:
        payloads, indexes, rejections = self._source.contract.decode_many(values)
        moved = [Rejection(r.index + start, r.code, r.path, r.reason) for r in rejections]
        return Decoded(self._source.as_table(payloads), np.asarray(indexes, np.int64) + start, moved)

    @functools.cached_property
    def _loose(self) -> msgspec.json.Decoder[Any]:
        """As the contract, with instants as texts."""
        fields = tuple(
            Field(f.name, f.dtype, f.nullable, str) if f.dtype.name == "timestamp" else f for f in self._source.fields
        )
        return msgspec.json.Decoder(Contract(self._source.name, fields).struct)


def _breaks(column: pa.Array, bounds: Sequence[tuple[str, int]]) -> bool:
    """Whether an instant lies outside its field's bounds."""
    spread = pc.min_max(column.cast(pa.int64())).as_py()
    ends = [end for end in spread.values() if end is not None]
    return any(broken_bound(name, bound, end) for name, bound in bounds for end in ends)
