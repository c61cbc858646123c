from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.features.columns import entity_codes, event_times, request_column, state_columns
from trilane.features.entity import Entity, encode_key
from trilane.features.request import as_column
from trilane.types import arrow_type, as_field

WHEN = dt.datetime(2013, 1, 1, 12, 0, 0, 7, tzinfo=dt.UTC)


def test_each_key_gets_one_code_and_null_keys_get_none() -> None:
    table = pa.table({"who": ["b", None, "a", "b"]})
    codes, keys = entity_codes(table, Entity("who", who=tl.String))
    assert codes.tolist() == [0, -1, 1, 0]
    assert keys == [b"b", b"a"]


def test_keys_of_several_columns_are_codes_of_their_tuples() -> None:
    table = pa.table({"a": ["x", "x", "y", None, "x", "y"], "n": [1, 2, 1, 1, None, 1]})
    codes, keys = entity_codes(table, Entity("pair", a=tl.String, n=tl.Int64))
    tuples = [("x", 1), ("x", 2), ("y", 1), None, None, ("y", 1)]
    assert [None if c < 0 else keys[c] for c in codes.tolist()] == [
        None if t is None else encode_key(t) for t in tuples
    ]
    assert len(keys) == 3


def test_no_rows_have_no_keys() -> None:
    table = pa.table({"a": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    codes, keys = entity_codes(table, Entity("pair", a=tl.String, n=tl.Int64))
    assert (codes.tolist(), keys) == ([], [])


def test_null_and_nan_have_no_value_and_zero_has_no_sign() -> None:
    values, valid = state_columns(pa.table({"x": [1.5, None, float("nan"), -0.0]}), ["x"])["x"]
    assert valid.tolist() == [True, False, False, True]
    assert values.tobytes() == np.array([1.5, 0.0, 0.0, 0.0]).tobytes()


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([True, None, False]), [1, 0, 0]),
        (pa.array([3, None, -4], pa.int16()), [3, 0, -4]),
        (pa.array([WHEN, None, WHEN], pa.timestamp("us", "UTC")), [1357041600000007, 0, 1357041600000007]),
    ],
)
def test_integers_booleans_and_instants_are_int64(column: pa.Array, expected: list[int]) -> None:
    values, valid = state_columns(pa.table({"x": column}), ["x"])["x"]
    assert (values.dtype.name, values.tolist(), valid.tolist()) == ("int64", expected, [True, False, True])


def test_equal_texts_have_equal_keys_whatever_stands_beside_them() -> None:
    texts = pa.table({"x": ["a", None, "b", "a", ""]})
    values, valid = state_columns(texts, ["x"])["x"]
    again, _ = state_columns(texts.slice(2, 2), ["x"])["x"]
    assert valid.tolist() == [True, False, True, True, True]
    assert values[0] == values[3] == again[1]
    assert len({*values[valid].tolist()}) == 3
    assert values.dtype.name == again.dtype.name == "int64"


def test_a_column_of_nothing_but_nulls_has_no_value() -> None:
    values, valid = state_columns(pa.table({"x": pa.array([None, None], pa.string())}), ["x"])["x"]
    assert (len(values), valid.tolist()) == (2, [False, False])


def test_a_list_cannot_be_aggregated() -> None:
    with pytest.raises(DefinitionError, match="column 'x' is a list"):
        state_columns(pa.table({"x": [["a"]]}), ["x"])


def test_chunks_are_one_column() -> None:
    table = pa.concat_tables([pa.table({"at": pa.array([i], pa.timestamp("us", "UTC"))}) for i in range(3)])
    assert event_times(table, "at").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (tl.String, ["a", "b"]),
        (tl.String | None, ["a", None]),
        (tl.Timestamp, [WHEN, WHEN]),
        (tl.Timestamp | None, [WHEN, WHEN]),
        (tl.Timestamp | None, [WHEN, None]),
        (tl.Int64, [1, -2]),
        (tl.Int64 | None, [1, None]),
        (tl.Int64 | None, [2**53 + 1, 2]),
        (tl.Float64, [1.5, 2.0]),
        (tl.Float64 | None, [None, -0.0]),
        (tl.Bool, [True, False]),
        (tl.Bool | None, [True, None]),
        (tl.Bool | None, [True, False]),
    ],
)
def test_training_gives_a_request_view_the_columns_that_serving_does(annotation: object, values: list[object]) -> None:
    field = as_field("x", annotation)
    served, learnt = as_column(field, values), request_column(field, pa.array(values, arrow_type(field)))
    assert served.dtype == learnt.dtype
    np.testing.assert_array_equal(served, learnt)
