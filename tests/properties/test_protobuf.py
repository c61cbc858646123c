"""Messages are read by columns as Protobuf reads them alone; whatever the bytes, each is a row or a rejection."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from tests.shop_proto import DESCRIPTORS, Fact
from trilane.sources.decoding import decoder_of
from trilane.sources.event import EventSource

SOURCE = EventSource(
    "facts",
    schema={
        "id": tl.String,
        "at": tl.Timestamp,
        "x": tl.Float64,
        "y": tl.Float64,
        "i": tl.Int64,
        "u": tl.Float64,
        "s": tl.Int64,
        "f": tl.Int64,
        "n": tl.Int64,
        "b": tl.Bool,
        "kind": tl.String,
        "wrapped": tl.Float64 | None,
        "city": tl.String | None,
        "deep": tl.String | None,
        "cash": tl.Int64 | None,
        "card": tl.String | None,
        "opt": tl.Int64 | None,
    },
    event_time="at",
    event_id="id",
    format=tl.protobuf(DESCRIPTORS, message="shop.Fact", paths={"city": "address.city", "deep": "address.inner.city"}),
)
KINDS = {0: "NONE", 1: "NEW", -5: "OLD"}
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NARROW = st.integers(-(2**31), 2**31 - 1)
WIDE = st.integers(-(2**63) + 1, 2**63 - 1)
PARTS = {
    "id": st.text(max_size=20),
    "x": FLOATS,
    "y": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "i": WIDE,
    "u": st.integers(0, 2**64 - 1),
    "s": NARROW,
    "f": NARROW,
    "n": NARROW,
    "b": st.booleans(),
    "kind": st.sampled_from([0, 1, -5]),
    "cash": WIDE,
    "card": st.text(max_size=3),
    "opt": WIDE,
    "tags": st.lists(st.text(max_size=2), max_size=100),
    "raw": st.binary(max_size=3),
}


@st.composite
def messages(draw: st.DrawFn) -> Any:
    fact = Fact(**draw(st.fixed_dictionaries({}, optional=PARTS)))
    fact.at.FromDatetime(draw(st.datetimes()))
    if draw(st.booleans()):
        fact.wrapped.value = draw(FLOATS)
    if draw(st.booleans()):
        fact.address.city = draw(st.text(max_size=3))
        if draw(st.booleans()):
            fact.address.inner.city = draw(st.text(max_size=3))
    return fact


def as_row(fact: Any) -> dict[str, Any]:
    def held(name: str) -> Any:
        return getattr(fact, name) if fact.HasField(name) else None

    return {
        **{name: getattr(fact, name) for name in ("id", "x", "y", "i", "s", "f", "n", "b")},
        "at": fact.at.ToDatetime(tzinfo=dt.UTC),
        "u": float(fact.u),
        "kind": KINDS[fact.kind],
        "wrapped": fact.wrapped.value if fact.HasField("wrapped") else None,
        "city": fact.address.city if fact.HasField("address") else None,
        "deep": fact.address.inner.city if fact.address.HasField("inner") else None,
        **{name: held(name) for name in ("cash", "card", "opt")},
    }


@given(st.lists(st.lists(messages(), min_size=1, max_size=2), max_size=9))
def test_messages_are_read_as_one_by_one_also_those_that_come_in_parts(facts: list[list[Any]]) -> None:
    values = [b"".join(part.SerializeToString() for part in parts) for parts in facts]
    found = decoder_of(SOURCE).decode(pa.array(values, pa.binary()))
    assert found.rejections == []
    rows = [as_row(Fact.FromString(value)) for value in values]
    assert found.table.to_pylist() == [{name: row[name] for name in found.table.column_names} for row in rows]
    assert repr(found.table.column("x").to_pylist()) == repr([row["x"] for row in rows])  # tells 0.0 from -0.0


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    value = bytearray(draw(messages()).SerializeToString() or b"\0")
    for _ in range(draw(st.integers(0, 3))):
        value[draw(st.integers(0, len(value) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(value)))
    return bytes(draw(st.sampled_from([value, value[:cut], value + b"\0", value[cut:]])))


@given(st.lists(broken() | st.binary(max_size=40), max_size=8), messages())
def test_each_value_is_a_row_or_a_rejection_whatever_stands_beside_it(values: list[bytes], fact: Any) -> None:
    decoder = decoder_of(SOURCE)
    found = decoder.decode(pa.array([*values, fact.SerializeToString()], pa.binary()))
    refused = [one.index for one in found.rejections]
    assert sorted([*found.indexes.tolist(), *refused]) == list(range(len(values) + 1))
    assert found.indexes[-1] == len(values)
    rows = {int(i): row for i, row in zip(found.indexes, found.table.to_pylist(), strict=True)}
    for index, value in enumerate(values):
        alone = decoder.decode(pa.array([value], pa.binary()))
        assert [rows.get(index)] == alone.table.to_pylist() if index in rows else alone.rejections
        try:
            read = Fact.FromString(value)
        except DecodeError:
            continue
        if index in rows:
            assert rows[index] == {name: as_row(read)[name] for name in rows[index]}
    assert {one.code for one in found.rejections} <= {"protobuf", "type", "nan"}
