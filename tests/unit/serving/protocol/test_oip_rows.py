"""Rows of a contract from tensors."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
import numpy as np
import pytest

import trilane as tl
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES, Tensor
from trilane.serving.protocol.oip_rows import TensorRows
from trilane.types import fields_of

FORM = TensorRows(
    Contract(
        "check",
        fields_of(
            {
                "card": tl.String,
                "count": Annotated[tl.Int64, msgspec.Meta(ge=0)],
                "amount": tl.Float64 | None,
                "at": tl.Timestamp | None,
                "new": tl.Bool | None,
            }
        ),
    )
)


def _tensor(name: str, datatype: str, values: Any) -> Tensor:
    return Tensor(name, datatype, np.array(values, DATATYPES[datatype]))


CARD, COUNT = _tensor("card", "BYTES", [b"a", "é".encode()]), _tensor("count", "INT64", [1, 2])


def _rows(*tensors: Tensor) -> list[dict[str, Any]]:
    return [msgspec.structs.asdict(row) for row in FORM.rows(tensors)]


def test_tensors_become_rows_and_what_may_be_null_may_be_left_out() -> None:
    assert _rows(CARD, COUNT) == [
        {"card": "a", "count": 1, "amount": None, "at": None, "new": None},
        {"card": "é", "count": 2, "amount": None, "at": None, "new": None},
    ]
    assert [spec.datatype for spec in FORM.specs] == ["BYTES", "INT64", "FP64", "BYTES", "BOOL"]


def test_nan_is_null_and_numbers_of_any_width_are_taken() -> None:
    amounts = [_tensor("amount", kind, [0, 7]) for kind in ("FP16", "FP32", "FP64", "INT8", "UINT64")]
    assert {_rows(CARD, COUNT, amount)[1]["amount"] for amount in amounts} == {7.0}
    assert [row["amount"] for row in _rows(CARD, COUNT, _tensor("amount", "FP32", [np.nan, 7]))] == [None, 7.0]
    assert _rows(CARD, _tensor("count", "UINT8", [[1], [2]]))[1]["count"] == 2


def test_an_instant_is_a_text_and_a_flag_a_flag() -> None:
    at = _tensor("at", "BYTES", [b"2026-01-01T00:00:00Z", b"2026-01-01T01:00:00+01:00"])
    rows = _rows(CARD, COUNT, at, _tensor("new", "BOOL", [True, False]))
    assert rows[0]["at"] == rows[1]["at"] == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert [row["new"] for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("tensors", "where"),
    [
        ([], "inputs"),
        ([CARD], "inputs"),
        ([CARD, COUNT, CARD], "inputs"),
        ([CARD, COUNT, _tensor("nosuch", "BOOL", [True, True])], "inputs[2].name"),
        ([CARD, _tensor("count", "FP64", [1, 2])], "inputs[1].datatype"),
        ([CARD, _tensor("count", "INT64", [1, 2, 3])], "inputs[1].shape"),
        ([CARD, _tensor("count", "INT64", [[1, 2]])], "inputs[1].shape"),
        ([CARD, _tensor("count", "INT64", 1)], "inputs[1].shape"),
        ([CARD, _tensor("count", "INT64", [1, -2])], "inputs[1].data[1]"),
        ([CARD, _tensor("count", "UINT64", [1, 2**64 - 1])], "inputs[1].data[1]"),
        ([COUNT, _tensor("card", "BYTES", [b"a", b"\xff"])], "inputs[1].data[1]"),
        ([CARD, COUNT, _tensor("amount", "FP64", [1, np.inf])], "inputs[2].data[1]"),
        ([CARD, COUNT, _tensor("at", "BYTES", [b"2026-01-01T00:00:00Z", b"soon"])], "inputs[2].data[1]"),
    ],
)
def test_what_the_contract_refuses_is_refused_with_tensor_and_row(tensors: list[Tensor], where: str) -> None:
    with pytest.raises(ContractError) as told:
        FORM.rows(tensors)
    assert told.value.where == where
