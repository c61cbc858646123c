"""Columns of tables become the tensors of a model, and its answers columns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trilane.apps.scoring.tensors import TensorColumns, arrow_type, as_column
from trilane.errors import ContractError, DefinitionError
from trilane.models.tensor import TensorSpec


def read(table: pa.Table, *specs: TensorSpec, features: tuple[str, ...] = ()) -> tuple[list[Any], list[int], list[Any]]:
    columns = TensorColumns(specs, features=features, where="model 'm'")
    columns.check_schema(table.schema, where="in.parquet")
    arrays, kept, rejected = columns.checked(table)
    return arrays, kept.tolist(), [(one.index, one.path, one.reason) for one in rejected]


@pytest.mark.parametrize(
    ("datatype", "column", "expected"),
    [
        ("FP64", pa.array([1, None], pa.int32()), [1.0, math.nan]),
        ("FP32", pa.array([1.5, 1e300]), [1.5, math.inf]),
        ("FP16", pa.array([0.5, 2.0], pa.float32()), [0.5, 2.0]),
        ("INT8", pa.array([-128, 127]), [-128, 127]),
        ("UINT64", pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
        ("BOOL", pa.array([True, False]), [True, False]),
        ("BYTES", pa.array(["a", "ä"]).dictionary_encode(), [b"a", "ä".encode()]),
        ("BYTES", pa.array([b"\xff", b""], pa.large_binary()), [b"\xff", b""]),
    ],
)
def test_a_column_is_an_input_of_rows(datatype: str, column: pa.Array, expected: list[Any]) -> None:
    (array,), kept, rejected = read(pa.table({"x": column}), TensorSpec("x", datatype, (-1,)))
    assert array.tolist() == pytest.approx(expected, nan_ok=True)
    assert (kept, rejected) == ([0, 1], [])


@pytest.mark.parametrize(
    ("datatype", "column", "reason"),
    [
        ("INT8", pa.array([128, 1]), "a number beyond INT8"),
        ("UINT8", pa.array([-1, 1]), "a number beyond UINT8"),
        ("INT64", pa.array([2**63, 1], pa.uint64()), "a number beyond INT64"),
        ("INT32", pa.array([None, 1], pa.int32()), "the value is null"),
        ("BOOL", pa.array([None, True]), "the value is null"),
        ("BYTES", pa.array([None, "a"]), "the value is null"),
    ],
)
def test_a_value_that_the_data_type_does_not_have_refuses_its_row_alone(
    datatype: str, column: pa.Array, reason: str
) -> None:
    (array,), kept, rejected = read(pa.table({"x": column}), TensorSpec("x", datatype, (-1,)))
    assert rejected == [(0, "$.x", reason)]
    assert (len(array), kept) == (1, [1])


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.int64()), pa.list_(pa.float32(), 3)])
def test_a_column_of_lists_is_a_matrix_wherever_it_is_cut(kind: pa.DataType) -> None:
    values = [[float(row), row + 1.0, row + 2.0] for row in range(6)]
    table = pa.table({"x": pa.array(values, kind)}).slice(2, 3)
    (array,), kept, _ = read(table, TensorSpec("x", "FP32", (-1, 3)))
    assert (array.dtype, array.tolist(), kept) == (np.float32, values[2:5], [0, 1, 2])


def test_nested_lists_and_flat_ones_have_the_shape_of_the_input() -> None:
    nested, flat = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [[1, 2, 3, 4], [5, 6, 7, 8]]
    for values in (nested, flat):
        (array,), _, _ = read(pa.table({"x": values}), TensorSpec("x", "INT16", (-1, 2, 2)))
        assert array.tolist() == nested


def test_lists_of_another_length_or_with_what_cannot_be_refuse_their_rows_alone() -> None:
    table = pa.table({"x": [[1, 2], [1], None, [3, None], [300, 4], [5, 6]]})
    (array,), kept, rejected = read(table, TensorSpec("x", "UINT8", (-1, 2)))
    assert (array.tolist(), kept) == ([[1, 2], [5, 6]], [0, 5])
    assert rejected == [
        (1, "$.x", "a list of another length than 2"),
        (2, "$.x", "the value is null"),
        (3, "$.x[1]", "the value is null"),
        (4, "$.x[0]", "a number beyond UINT8"),
    ]


def test_named_columns_are_a_matrix_in_the_order_of_their_names() -> None:
    table = pa.table({"b": [3, 4], "other": ["x", "y"], "a": [1.0, None]})
    (array,), _, rejected = read(table, TensorSpec("features", "FP64", (-1, 2)), features=("a", "b"))
    assert array.tolist() == [[1.0, 3.0], [pytest.approx(math.nan, nan_ok=True), 4.0]]
    assert rejected == []


def test_a_column_of_lists_goes_before_the_names_that_a_model_knows() -> None:
    table = pa.table({"features": [[1.0, 2.0]], "a": [8.0], "b": [9.0]})
    (array,), _, _ = read(table, TensorSpec("features", "FP64", (-1, 2)), features=("a", "b"))
    assert array.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [1]}, r"in.parquet, column 'x': the column is missing, expected FP64"),
        ({"x": ["1"]}, r"column 'x': expected a column of FP64, got string"),
        ({"x": [[1.0]]}, r"column 'x': expected a column of FP64, got list"),
    ],
)
def test_columns_that_cannot_be_the_input_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        read(pa.table(columns), TensorSpec("x", "FP64", (-1,)))


def test_a_matrix_without_its_column_tells_how_to_name_those_it_is_made_of() -> None:
    with pytest.raises(ContractError, match=r"expected lists of FP64.*--features names the columns of a matrix"):
        read(pa.table({"a": [1.0]}), TensorSpec("x", "FP64", (-1, 2)))
    with pytest.raises(DefinitionError, match=r"it takes x \[-1, 2\], no matrix of 3 columns"):
        read(pa.table({"a": [1.0]}), TensorSpec("x", "FP64", (-1, 2)), features=("a", "b", "c"))
    with pytest.raises(DefinitionError, match="an axis of any length"):
        read(pa.table({"a": [1.0]}), TensorSpec("x", "FP64", (-1, -1)))


@pytest.mark.parametrize(
    ("spec", "array"),
    [
        (TensorSpec("y", "FP64", (-1,)), np.array([0.5, 1.5])),
        (TensorSpec("y", "BYTES", (-1,)), np.array([b"a", b"\xff"], object)),
        (TensorSpec("y", "BOOL", (-1,)), np.array([True, False])),
        (TensorSpec("y", "FP16", (-1, 2)), np.array([[1, 2], [3, 4]], np.float16)),
        (TensorSpec("y", "INT32", (-1, 2, 2)), np.arange(8, dtype=np.int32).reshape(2, 2, 2)),
        (TensorSpec("y", "INT32", (-1, -1)), np.arange(6, dtype=np.int32).reshape(2, 3)),
        (TensorSpec("y", "BYTES", (-1, 1)), np.array([[b"a"], [b"b"]], object)),
    ],
)
def test_an_output_is_a_column_of_values_or_of_lists(spec: TensorSpec, array: np.ndarray[Any, Any]) -> None:
    column = as_column(array, spec)
    assert column.type == arrow_type(spec)
    assert column.to_pylist() == array.tolist()
