"""The answers of feature reads: nothing of a reading is lost, in any format."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.serving.protocol.arrow import encode_table
from trilane.serving.protocol.features import FeatureFormat, share_of
from trilane.serving.reading import Fault, Reading


@tl.request(inputs={"x": tl.Float64}, features={"a": tl.Float64, "b": tl.Float64})
def v(request: Any) -> Any:
    return request


@tl.request(inputs={"x": tl.Float64}, features={"c": tl.Float64})
def w(request: Any) -> Any:
    return request


FORM = FeatureFormat(FeaturePlan.of([v["a"], w, v["b"]], where="test"))
NAMES = ("v.a", "w.c", "v.b")
numbers = st.floats() | st.sampled_from([0.0, -0.0, 1e300, 5e-324, 0.1])
ages = st.sampled_from([0, 1_500_000, 7_200_000_000])


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    size = draw(st.integers(1, 4))
    codes = np.array([[draw(st.sampled_from([0, 0, 1, 2, 3, 4])) for _ in NAMES] for _ in range(size)], np.uint8)
    values = np.array([[draw(numbers) for _ in NAMES] for _ in range(size)])
    if draw(st.booleans()):
        own = np.repeat([[draw(ages), draw(ages), 0]], size, axis=0)
        own[:, 2] = own[:, 0]
    else:
        own = np.array([[draw(ages) for _ in NAMES] for _ in range(size)])
    faults = st.builds(Fault, st.text(max_size=5), st.none() | st.frozensets(st.integers(0, size - 1), min_size=1))
    return Reading(np.where(codes == 4, np.nan, values), codes, own, tuple(draw(st.lists(faults, max_size=2))))


def _plain(reading: Reading) -> list[list[float | None]]:
    return [[x if np.isfinite(x) else None for x in row] for row in reading.values.tolist()]


def _rows(found: dict[str, Any], reading: Reading) -> None:
    """Checks that an answer row by row says all that the reading holds."""
    assert list(found["names"]) == list(NAMES)
    assert [row["values"] for row in found["rows"]] == _plain(reading)
    for row, codes, own in zip(found["rows"], reading.statuses.tolist(), reading.ages.tolist(), strict=True):
        said = {name: status for status, names in row["statuses"].items() for name in names}
        assert [said.get(name, "fresh") for name in NAMES] == [STATUSES[code] for code in codes]
        known = [row.get("ages_s", {}).get(name, found["ages_s"][name[0]]) for name in NAMES]
        assert known == [age / 1e6 for age in own]
    assert found["why"] == [fault.reason for fault in reading.faults]


@given(readings())
def test_rows_say_values_statuses_and_ages(reading: Reading) -> None:
    _rows(json.loads(FORM.json(reading)), reading)
    _rows(msgspec.msgpack.decode(FORM.msgpack(reading)), reading)


@given(readings())
def test_columns_say_the_same(reading: Reading) -> None:
    for found in (json.loads(FORM.columns(reading)), msgspec.msgpack.decode(FORM.columns(reading, packed=True))):
        assert list(found["columns"]) == list(NAMES)
        assert [list(row) for row in zip(*found["columns"].values(), strict=True)] == _plain(reading)
        for column, name in enumerate(NAMES):
            said = {row: status for status, rows in found["statuses"].get(name, {}).items() for row in rows}
            codes = reading.statuses[:, column].tolist()
            assert [said.get(row, "fresh") for row in range(len(codes))] == [STATUSES[code] for code in codes]
            known = found["ages_s"].get(name, [found["ages_s"][name[0]]] * len(codes))
            assert known == [age / 1e6 for age in reading.ages[:, column].tolist()]


@given(readings())
def test_a_table_says_the_same_and_keeps_every_bit(reading: Reading) -> None:
    table = pa.ipc.open_stream(encode_table(NAMES, reading, {"bundle": "b1"})).read_all()
    table.validate(full=True)
    for column, name in enumerate(NAMES):
        values = table.column(name)
        expected = reading.values[:, column]
        assert values.null_count == np.isnan(expected).sum()
        found = values.fill_null(np.nan).to_numpy()
        assert np.where(np.isnan(found), 0, found).tobytes() == np.where(np.isnan(expected), 0, expected).tobytes()
        codes = reading.statuses[:, column].tolist()
        assert table.column(f"{name}:status").to_pylist() == [STATUSES[code] for code in codes]
        assert table.column(f"{name}:age_s").to_pylist() == (reading.ages[:, column] / 1e6).tolist()
    assert table.schema.metadata[b"bundle"] == b"b1"
    assert json.loads(table.schema.metadata[b"why"]) == [fault.reason for fault in reading.faults]


@given(readings(), st.data())
def test_a_share_is_answered_as_if_it_had_been_alone(reading: Reading, data: st.DataObject) -> None:
    size = len(reading.values)
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    share = share_of(reading, start, stop)
    _rows(json.loads(FORM.json(share)), share)
    alone = [f.reason for f in reading.faults if f.rows is None or any(start <= row < stop for row in f.rows)]
    assert json.loads(FORM.json(share))["why"] == alone
    assert share.values.tobytes() == reading.values[start:stop].tobytes()


def test_what_all_rows_share_is_said_once() -> None:
    fresh = Reading(np.ones((3, 3)), np.zeros((3, 3), np.uint8), np.full((3, 3), 1_500_000), ())
    row = '{"values":[1.0,1.0,1.0],"statuses":{}}'
    body = f'{{"names":["v.a","w.c","v.b"],"rows":[{row},{row},{row}],"ages_s":{{"v":1.5,"w":1.5}},"why":[]}}'
    assert FORM.json(fresh).decode() == body


def test_a_reason_that_is_no_text_is_told_all_the_same() -> None:
    reading = Reading(np.ones((1, 3)), np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.int64), (Fault("\ud800"),))
    assert json.loads(FORM.json(reading))["why"] == ["\\ud800"]
    assert encode_table(NAMES, reading, {})
