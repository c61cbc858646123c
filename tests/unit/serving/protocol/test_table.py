"""Rows of a table pass exactly if a request with them would, and bring the same values."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.features.request import as_column
from trilane.serving.protocol.table import TableFormat
from trilane.types import fields_of


class Row:
    card: tl.String
    amount: tl.Float64
    tip: tl.Float64 | None
    items: Annotated[tl.Int64, msgspec.Meta(ge=0, le=99)]
    kind: Annotated[tl.String, tl.check(one_of=("chip", "swipe"))] | None
    at: tl.Timestamp | None
    known: tl.Bool | None


CONTRACT = Contract("check", fields_of(Row))
FORMAT = TableFormat(CONTRACT, keys=["card"])
SCHEMA = pa.schema(
    {
        "card": pa.string(),
        "amount": pa.float64(),
        "tip": pa.float64(),
        "items": pa.int64(),
        "kind": pa.string(),
        "at": pa.timestamp("us", "UTC"),
        "known": pa.bool_(),
    }
)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
GOOD: dict[str, Any] = {"card": "c", "amount": 1.0, "tip": None, "items": 3, "kind": None, "at": None, "known": None}
instants = st.integers(-62_135_510_400, 253_402_214_400).map(lambda s: EPOCH + dt.timedelta(seconds=s, microseconds=7))
rows = st.fixed_dictionaries(
    {
        "card": st.none() | st.text(max_size=3),
        "amount": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "tip": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "items": st.none() | st.integers(-1, 100),
        "kind": st.none() | st.sampled_from(["chip", "swipe", "cash"]),
        "at": st.none() | instants,
        "known": st.none() | st.booleans(),
    }
)


def table(*given: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(given), SCHEMA)


@given(st.lists(rows, max_size=8))
def test_a_row_of_a_table_passes_exactly_if_a_request_with_it_would(given: list[dict[str, Any]]) -> None:
    bodies = [
        json.dumps({k: v.isoformat() if isinstance(v, dt.datetime) else v for k, v in row.items()}).encode()
        for row in given
    ]
    payloads, places, _ = CONTRACT.decode_many(bodies)
    asked, kept, rejected = FORMAT.checked(table(*given))
    assert kept.tolist() == places
    assert [one.index for one in rejected] == [n for n in range(len(given)) if n not in places]
    for field in CONTRACT.fields:
        expected = as_column(field, [getattr(payload, field.name) for payload in payloads])
        found = as_column(field, asked.columns[field.name])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("amount", math.nan, "nan is no finite number"),
        ("tip", math.inf, "inf is no finite number"),
        ("items", -(2**63), "Expected `int` >= 0"),
        ("items", 100, "Expected `int` <= 99"),
        ("kind", "cash", "Invalid enum value 'cash'"),
        ("card", None, "the value is null"),
    ],
)
def test_a_row_that_breaks_the_contract_is_named_with_path_and_reason(name: str, value: object, reason: str) -> None:
    _, kept, [rejected] = FORMAT.checked(table(GOOD, {**GOOD, name: value}, GOOD))
    assert (rejected.index, rejected.path) == (1, f"$.{name}")
    assert reason in rejected.reason
    assert kept.tolist() == [0, 2]


def test_a_text_that_is_no_utf8_and_an_instant_beyond_the_calendar_cost_their_rows_alone() -> None:
    whole = table(GOOD, GOOD, GOOD)
    cards = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    late = pa.array([None, 0, 2**62], pa.int64()).cast(pa.timestamp("us", "UTC"))
    whole = whole.set_column(0, "card", cards).set_column(5, "at", late)
    _, kept, rejected = FORMAT.checked(whole)
    assert kept.tolist() == [0]
    assert [one.path for one in rejected] == ["$.card", "$.at"]


def test_columns_of_narrow_types_and_dictionaries_are_the_same_values() -> None:
    narrow = pa.table(
        {
            "card": pa.array(["a", "b"]).dictionary_encode(),
            "amount": pa.array([1, 2], pa.int16()),
            "tip": pa.array([0.5, None], pa.float32()),
            "items": pa.array([1, 2], pa.uint8()),
            "at": pa.array([1_500_000_000, None], pa.timestamp("ns", "Europe/Paris")),
        }
    )
    FORMAT.check_schema(narrow.schema, where="t")
    asked, _, rejected = FORMAT.checked(narrow)
    assert not rejected
    assert asked.columns["card"] == ["a", "b"]
    assert asked.columns["amount"].dtype == np.float64  # type: ignore[attr-defined]
    np.testing.assert_array_equal(asked.columns["tip"], [0.5, np.nan])
    np.testing.assert_array_equal(asked.columns["at"], [1_500_000.0, np.nan])
    np.testing.assert_array_equal(asked.columns["known"], [np.nan, np.nan])


def test_an_unsigned_integer_that_is_too_large_costs_its_row() -> None:
    whole = table(GOOD, GOOD).set_column(3, "items", pa.array([1, 2**64 - 1], pa.uint64()))
    _, kept, [rejected] = FORMAT.checked(whole)
    assert (kept.tolist(), rejected.path) == ([0], "$.items")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (SCHEMA.remove(0), r"t, column 'card': the column is missing, expected string"),
        (SCHEMA.set(1, pa.field("amount", pa.string())), r"column 'amount': expected a column of float64, got string"),
        (SCHEMA.set(5, pa.field("at", pa.timestamp("us"))), r"column 'at': expected .* a timestamp needs a time zone"),
        (SCHEMA.append(pa.field("card", pa.string())), r"column 'card': the column is there twice"),
    ],
)
def test_a_table_of_other_columns_is_refused_whole(schema: pa.Schema, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        FORMAT.check_schema(schema, where="t")


def test_bounds_of_instants_are_kept() -> None:
    bounded = Annotated[tl.Timestamp, tl.check(ge="2026-01-01T00:00:00Z")]
    form = TableFormat(Contract("b", fields_of({"at": bounded})), keys=())
    at = pa.array([0, 1_800_000_000_000_000], pa.int64()).cast(pa.timestamp("us", "UTC"))
    _, kept, [rejected] = form.checked(pa.table({"at": at}))
    assert kept.tolist() == [1]
    assert "2026-01-01" in rejected.reason
