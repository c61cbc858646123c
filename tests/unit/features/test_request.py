"""Request views see the columns of rows, typed by their declaration, however many rows there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract
from trilane.features.request import RowColumns, as_column, compute
from trilane.types import fields_of

FLOATS = st.floats(allow_nan=False)


@given(st.lists(st.tuples(FLOATS, st.none() | FLOATS, st.integers(-9, 9), st.none() | st.text(max_size=2)), max_size=5))
def test_the_columns_of_rows_are_those_of_each_field(rows: list[tuple[float, float | None, int, str | None]]) -> None:
    schema = {"a": tl.Float64, "b": tl.Float64 | None, "c": tl.Int64, "d": tl.String | None}
    fields = fields_of(schema)
    kind = Contract("row", fields).struct
    payloads = [kind(**dict(zip(schema, row, strict=True))) for row in rows]
    found = RowColumns(fields).of(payloads)
    assert list(found) == list(schema)
    for field in fields:
        expected = as_column(field, [getattr(payload, field.name) for payload in payloads])
        assert found[field.name].dtype == expected.dtype
        np.testing.assert_array_equal(found[field.name], expected)


def test_a_view_may_return_columns_of_any_number_type_or_one_value_for_all() -> None:
    @tl.request(
        inputs={"x": tl.Float64}, features={"f": tl.Float64, "i": tl.Float64, "b": tl.Float64, "one": tl.Float64}
    )
    def view(rows):  # type: ignore[no-untyped-def]
        return {"f": rows["x"], "i": rows["x"].astype(int), "b": rows["x"] > 1, "one": 7}

    found = compute(view, {"x": np.array([0.5, 2.5])}, 2)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, [[0.5, 0, 0, 7], [2.5, 2, 1, 7]])
