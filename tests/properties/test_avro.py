"""Avro values are read by columns as fastavro reads them alone; whatever the bytes, each is a row or a rejection."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
from decimal import Decimal
from typing import Any

import fastavro
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource

FIELDS = {
    "id": tl.String,
    "at": tl.Timestamp,
    "seen": tl.Timestamp | None,
    "day": tl.Timestamp | None,
    "x": tl.Float64 | None,
    "y": tl.Float64 | None,
    "price": tl.Float64 | None,
    "n": tl.Int64 | None,
    "b": tl.Bool | None,
    "kind": tl.String | None,
    "city": tl.String | None,
}
NODE = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
ADDRESS = {
    "type": "record",
    "name": "Address",
    "fields": [{"name": "zip", "type": "int"}, {"name": "city", "type": ["string", "null"]}],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Fact",
    "namespace": "shop",
    "fields": [
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "seen", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "counts", "type": {"type": "map", "values": ["null", "long"]}},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
        {"name": "x", "type": ["double", "null", "int"]},
        {"name": "y", "type": "float"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 3}},
        {"name": "raw", "type": {"type": "fixed", "name": "Raw", "size": 3}},
        {"name": "n", "type": ["null", "long"]},
        {"name": "b", "type": ["null", "boolean"]},
        {"name": "node", "type": NODE},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"]}},
        {"name": "address", "type": ["null", ADDRESS]},
        {"name": "other", "type": ["null", "shop.Address"]},
    ],
}
SOURCE = EventSource(
    "facts",
    schema=FIELDS,
    event_time="at",
    event_id="id",
    format=tl.avro(SCHEMA, paths={"city": "address.city"}),
)
PARSED = fastavro.parse_schema(SCHEMA)
MOMENTS = st.datetimes(timezones=st.just(dt.UTC))
COARSE = MOMENTS.map(lambda when: when.replace(microsecond=when.microsecond // 1000 * 1000))
PLACES = st.none() | st.fixed_dictionaries({"zip": st.integers(0, 9), "city": st.none() | st.text(max_size=5)})
NODES = st.recursive(st.just({"next": None}), lambda inner: inner.map(lambda one: {"next": one}), max_leaves=5)
FACTS = st.fixed_dictionaries(
    {
        "tags": st.lists(st.text(max_size=3), max_size=3),
        "id": st.text(max_size=20),
        "at": MOMENTS,
        "seen": st.none() | COARSE,
        "counts": st.dictionaries(st.text(max_size=2), st.none() | st.integers(-(2**63), 2**63 - 1), max_size=2),
        "day": st.none() | st.dates(),
        "x": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**31), 2**31 - 1),
        "y": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "price": st.integers(-(10**29), 10**29).map(lambda digits: Decimal(digits).scaleb(-3)),
        "raw": st.binary(min_size=3, max_size=3),
        "n": st.none() | st.integers(-(2**63) + 1, 2**63 - 1),
        "b": st.none() | st.booleans(),
        "node": NODES,
        "kind": st.sampled_from(["NEW", "OLD"]),
        "address": PLACES,
        "other": PLACES,
    }
)


def encoded(fact: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED, fact)
    return out.getvalue()


def as_row(fact: dict[str, Any]) -> dict[str, Any]:
    day = fact["day"]
    return {
        **{name: fact[name] for name in ("id", "at", "seen", "y", "n", "b", "kind")},
        "day": day and dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC),
        "x": None if fact["x"] is None else float(fact["x"]),
        "price": float(fact["price"]),
        "city": fact["address"] and fact["address"]["city"],
    }


@given(st.lists(FACTS, max_size=5))
def test_values_are_read_as_one_by_one(facts: list[dict[str, Any]]) -> None:
    found = decoder_of(SOURCE).decode(pa.array([encoded(fact) for fact in facts], pa.binary()))
    assert found.rejections == []
    rows = [as_row(fact) for fact in facts]
    assert [{name: row[name] for name in sorted(row)} for row in found.table.to_pylist()] == [
        {name: row[name] for name in sorted(row)} for row in rows
    ]
    assert repr(found.table.column("x").to_pylist()) == repr([row["x"] for row in rows])  # tells 0.0 from -0.0


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A value with some bytes changed, cut off or added."""
    value = bytearray(encoded(draw(FACTS)))
    for _ in range(draw(st.integers(0, 3))):
        value[draw(st.integers(0, len(value) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(value)))
    return bytes(draw(st.sampled_from([value, value[:cut], value + b"\0", value[cut:]])))


@given(st.lists(broken() | st.binary(max_size=40), max_size=6), FACTS)
def test_each_value_is_a_row_or_a_rejection_whatever_stands_beside_it(
    values: list[bytes], fact: dict[str, Any]
) -> None:
    decoder = decoder_of(SOURCE)
    good = encoded(fact)
    found = decoder.decode(pa.array([*values, good], pa.binary()))
    refused = [one.index for one in found.rejections]
    assert sorted([*found.indexes.tolist(), *refused]) == list(range(len(values) + 1))
    assert found.indexes[-1] == len(values)
    rows = {int(i): row for i, row in zip(found.indexes, found.table.to_pylist(), strict=True)}
    for index, value in enumerate(values):
        alone = decoder.decode(pa.array([value], pa.binary()))
        assert [rows[index]] == alone.table.to_pylist() if index in rows else alone.rejections
        if index in rows:
            with contextlib.suppress(UnicodeDecodeError):  # in a text that no field of the source is read from
                read: Any = fastavro.schemaless_reader(io.BytesIO(value), PARSED, None)
                assert rows[index]["id"] == read["id"]
    for one in found.rejections:
        assert one.code in ("avro", "type", "nan")
        assert one.path.startswith("$")
        assert json.dumps(one.reason)
