"""From the values of an event log to a table of the source's fields, whatever the values are written in.

This is the seam between formats and lanes: admission, archive and rules see the table, and nothing of JSON. Laws: each
value is in the table or among the rejections, never in both; rows keep the order of the log; what becomes of a value
does not depend on those beside it. Of a source with changes a value gives one row or two, with the columns
`_changed_at` and `_sign` beside its fields, and is in the table whole or not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.contract import NOT_JSON, Contract, Rejection
from trilane.sources.change import CHANGED_AT, SIGN, Changes
from trilane.sources.change_decoding import EnvelopeReader, refused_rows, signed_rows
from trilane.sources.event import EventSource
from trilane.sources.formats.opening import open_decoder
from trilane.sources.formats.protocol import Decoded, Decoder, Schemas, joined
from trilane.sources.formats.shape import Shapes, breaks
from trilane.sources.instants import parse_instants
from trilane.types import Field, arrow_type

__all__ = ["Decoded", "Decoder", "JsonDecoder", "decoder_of"]

# A portion fits the processor's cache, and bounds what one unsound value costs its neighbours.
_PORTION = 8_192
_FEW = 256  # so many are read faster as objects
_Bools: TypeAlias = npt.NDArray[np.bool_]
_Ints: TypeAlias = npt.NDArray[np.int64]


def decoder_of(source: EventSource, schemas: Schemas | None = None) -> Decoder:
    """The decoder of a source's values; `schemas`: the registry that they may name schemas of."""
    if source.format.kind == "json":
        plain: Decoder = JsonDecoder(source)
    else:
        plain = open_decoder(source.fields, source.format, schemas, where=f"event source {source.name!r}")
    return plain if source.changes is None else _ChangeDecoder(source, source.changes, plain)


class JsonDecoder:
    """Reads JSON as the contract does, but the instants of a portion together: a datetime for each costs too much."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._schema = pa.schema([pa.field(f.name, arrow_type(f), f.nullable) for f in source.fields])
        self._shapes = Shapes(source.fields)

    def decode(self, values: pa.Array) -> Decoded:
        starts = range(0, max(len(values), 1), _PORTION)
        return joined([(start, self._portion(values.slice(start, _PORTION))) for start in starts])

    def _portion(self, values: pa.Array) -> Decoded:
        """What is of a shape is read together, and the rest as objects."""
        if len(values) < _FEW:
            return self._as_objects(values.to_pylist())
        left = np.ones(len(values), bool)
        parts = []
        for rows, table in self._shapes.read(values):
            parts.append(Decoded(table, rows, []))
            left[rows] = False
        if not parts:
            return self._as_objects(values.to_pylist())
        if left.any():
            rest = np.flatnonzero(left)
            found = self._as_objects(values.take(pa.array(rest)).to_pylist())
            rejections = [replace(one, index=int(rest[one.index])) for one in found.rejections]
            parts.append(Decoded(found.table, rest[found.indexes], rejections))
        if len(parts) == 1:
            return parts[0]
        indexes = np.concatenate([part.indexes for part in parts])
        order = np.argsort(indexes)
        table = pa.concat_tables([part.table for part in parts]).take(pa.array(order))
        return Decoded(table, indexes[order], parts[-1].rejections)

    def _as_objects(self, values: list[bytes]) -> Decoded:
        try:
            payloads = list(map(self._loose.decode, values))
        except NOT_JSON:  # which includes what msgspec calls a ValidationError
            return self._value_by_value(values)
        columns = list(self._columns(payloads))
        if len(columns) < len(self._schema):
            return self._value_by_value(values)
        return Decoded(pa.table(columns, schema=self._schema), np.arange(len(values)), [])

    def _columns(self, payloads: list[Any]) -> Iterator[pa.Array]:
        """The columns up to the first with an instant that is to be looked at alone."""
        for field in self._source.fields:
            is_instant = field.dtype.name == "timestamp"
            column = pa.array(
                [*map(attrgetter(field.name), payloads)], pa.string() if is_instant else arrow_type(field)
            )
            parsed = parse_instants(column) if is_instant else column
            if parsed is None or (is_instant and breaks(field, parsed)):
                return
            yield parsed

    def _value_by_value(self, values: list[bytes]) -> Decoded:
        payloads, indexes, rejections = self._source.contract.decode_many(values)
        return Decoded(self._source.as_table(payloads), np.asarray(indexes, np.int64), rejections)

    @functools.cached_property
    def _loose(self) -> msgspec.json.Decoder[Any]:
        """As the contract, with instants as texts."""
        fields = tuple(
            Field(f.name, f.dtype, f.nullable, str) if f.dtype.name == "timestamp" else f for f in self._source.fields
        )
        return msgspec.json.Decoder(Contract(self._source.name, fields).struct)


class _ChangeDecoder:
    """Reads changes: rows that say themselves whether they are added or taken back, or envelopes with both."""

    def __init__(self, source: EventSource, changes: Changes, plain: Decoder) -> None:
        self._source, self._changes, self._plain = source, changes, plain
        self._envelopes = EnvelopeReader()

    def decode(self, values: pa.Array) -> Decoded:
        if self._changes.form == "debezium":
            rows = self._envelopes.read(values.to_pylist())
            found = self._plain.decode(pa.array(rows.texts, pa.binary()))
            whole, refused = refused_rows(rows, found.rejections)
            kept = whole[found.indexes]
            chosen = found.indexes[kept]
            signs, moments, owners = (np.asarray(a, np.int64)[chosen] for a in (rows.signs, rows.moments, rows.owners))
            return self._signed(found.table, kept, signs, moments, owners, [*rows.rejections, *refused])
        found = self._plain.decode(values)
        signs, moments = signed_rows(self._changes, found.table)
        known = signs != 0
        ops = found.table.column(self._changes.op)
        words = ", ".join((*self._changes.insert, *self._changes.delete))
        refused = [
            Rejection(
                int(found.indexes[row]),
                "change",
                f"$.{self._changes.op}",
                f"{ops[row].as_py()!r} is none of {words}; send a correction as two events: the former row taken back, "
                "and the right one added",
            )
            for row in np.flatnonzero(~known).tolist()
        ]
        return self._signed(
            found.table, known, signs[known], moments[known], found.indexes[known], [*found.rejections, *refused]
        )

    def _signed(
        self, table: pa.Table, kept: _Bools, signs: _Ints, moments: _Ints, owners: _Ints, rejections: list[Rejection]
    ) -> Decoded:
        """The kept rows with their signs, but of changes of what lies before 1970, which no tile can hold."""
        table = table if kept.all() else table.filter(pa.array(kept))
        column = table.column(self._source.event_time).cast(pa.int64())
        times = np.asarray(column.to_numpy(), np.int64)
        last = np.full(int(owners.max(initial=-1)) + 1, np.iinfo(np.int64).min)
        np.maximum.at(last, owners, np.maximum(times, moments))
        table = table.append_column(CHANGED_AT, pa.array(last[owners])).append_column(SIGN, pa.array(signs))
        ancient = np.isin(owners, owners[(times < 0) | (moments < 0)])
        if ancient.any():
            where, reason = f"$.{self._source.event_time}", "the row or its change lies before 1970"
            rejections += [Rejection(owner, "change", where, reason) for owner in np.unique(owners[ancient]).tolist()]
            table, owners = table.filter(pa.array(~ancient)), owners[~ancient]
        return Decoded(table, owners, rejections)
