"""Tables of inputs as Arrow IPC streams: taken as the same rows would be, or refused with the path."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.serving.protocol.arrow import ArrowFormat
from trilane.serving.protocol.rows import RowFormat
from trilane.types import fields_of

CONTRACT = Contract(
    "late",
    fields_of(
        {
            "tailnum": tl.String,
            "distance": tl.Float64,
            "hour": Annotated[tl.Int64, msgspec.Meta(ge=0, le=23)] | None,
            "at": tl.Timestamp | None,
            "big": tl.Bool | None,
            "weight": tl.Float64 | None,
        }
    ),
)
FORM = ArrowFormat(CONTRACT, RowFormat(CONTRACT, max_rows=5, over=413, columns=True))
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def _stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _table(**columns: Any) -> pa.Table:
    return pa.table({"tailnum": ["N1", "N2"], "distance": [2.5, 3.0], **columns})


def test_a_table_is_taken_whatever_widths_its_columns_have() -> None:
    table = _table(
        tailnum=pa.array(["N1", "N2"]).dictionary_encode(),
        distance=pa.array([1.5, 2], pa.float32()),
        hour=pa.array([None, 7], pa.int8()),
        at=pa.array([AT, None], pa.timestamp("ns", "America/New_York")),
        big=pa.array([True, None]),
        weight=pa.array([float("nan"), 4], pa.float64()),
    )
    found = FORM.decode(_stream(table))
    assert len(found) == 2
    columns = {**found.columns, "weight": None}
    assert columns == {
        "tailnum": ["N1", "N2"],
        "distance": [1.5, 2.0],
        "hour": [None, 7],
        "at": [AT, None],
        "big": [True, None],
        "weight": None,
    }
    whole = FORM.decode(_stream(_table(distance=[1, 2], tailnum=pa.array(["a", "b"], pa.large_string()))))
    assert whole.columns["distance"] == [1.0, 2.0]
    assert whole.columns["hour"] == [None, None]


@pytest.mark.parametrize(
    ("table", "path", "said"),
    [
        (_table(tailnum=[1, 2]), "$.columns.tailnum", "expected a column of string, got int64"),
        (_table(distance=["far", "near"]), "$.columns.distance", "expected a column of float64"),
        (_table(hour=[1.0, 2.0]), "$.columns.hour", "expected a column of int64, got double"),
        (_table(big=[1, 0]), "$.columns.big", "expected a column of bool"),
        (_table(at=pa.array([AT.replace(tzinfo=None)] * 2, pa.timestamp("us"))), "$.columns.at", "timestamp[us]"),
        (_table(at=pa.array([2**62, 0], pa.timestamp("s", "UTC"))), "$.columns.at", ""),
        (_table(tailnum=["N1", None]), "$.columns.tailnum[1]", "got `null`"),
        (_table(tailnum=pa.nulls(2)), "$.columns.tailnum", "got null"),
        (_table(hour=[3, 24]), "$.columns.hour[1]", "<= 23"),
        (_table(hour=pa.array([3, 2**64 - 1], pa.uint64())), "$.columns.hour[1]", "<= 23"),
        (_table(distance=[1.0, float("nan")]), "$.columns.distance[1]", "nan is no finite number"),
        (_table(weight=[1.0, float("inf")]), "$.columns.weight[1]", "inf is no finite number"),
        (_table().drop_columns("distance"), "$.columns.distance", "missing"),
        (_table(distanse=[1, 2]), "$.columns.distanse", "no such input"),
        (pa.table([["a"], ["b"], [1.0]], ["tailnum", "tailnum", "distance"]), "$.columns.tailnum", "twice"),
        (_table().slice(0, 0), "$.columns", "0 rows"),
        (pa.table({"tailnum": ["N"] * 6, "distance": [1.0] * 6}), "$.columns", "6 rows"),
    ],
)
def test_a_table_that_breaks_the_contract_is_refused_with_its_path(table: pa.Table, path: str, said: str) -> None:
    with pytest.raises(ContractError) as refused:
        FORM.decode(_stream(table))
    assert refused.value.where == path
    assert said in refused.value.what
    assert refused.value.remedy


@pytest.mark.parametrize(
    "cut",
    [
        lambda body: body[:0],
        lambda body: b"not a stream" + body,
        lambda body: body[: len(body) // 2],
        lambda body: body[:-40],
        lambda body: b"ARROW1\0\0" + body,
        lambda body: body[:4] + b"\xff" * 40,
    ],
)
def test_what_is_no_stream_is_malformed(cut: Callable[[bytes], bytes]) -> None:
    body = cut(_stream(_table()))
    with pytest.raises(ContractError, match=r"malformed Arrow") as refused:
        FORM.decode(body)
    assert refused.value.http_status == 422


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("words", [pa.array(["N1"] * 2), pa.array(["N1"] * 2).dictionary_encode()])
def test_a_compressed_table_is_refused_for_it_may_be_of_any_size(codec: str, words: pa.Array) -> None:
    with pytest.raises(ContractError, match="compressed") as refused:
        FORM.decode(_stream(_table(tailnum=words), compression=codec))
    assert refused.value.facts["status"] == 415


@given(st.binary(max_size=120))
def test_any_bytes_are_a_table_or_a_contract_error(body: bytes) -> None:
    _told(body)


FULL = _stream(_table(hour=[1, 2], at=pa.array([AT, None], pa.timestamp("us", "UTC")), big=[True, None]))


@given(st.lists(st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_stream_with_broken_bytes_is_a_table_or_a_contract_error(changes: list[tuple[int, int]]) -> None:
    body = bytearray(FULL)
    for place, byte in changes:
        body[place] = byte
    _told(bytes(body))


def _told(body: bytes) -> None:
    try:
        found: object = len(FORM.decode(body))
    except ContractError as error:
        found = error.where
    assert found
