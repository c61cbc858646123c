"""Traffic is read as it was recorded, and what is no trace is refused with its path."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trilane.apps.trace import read_trace, recorded
from trilane.errors import ContractError
from trilane.feedback.record import Recorder, Records
from trilane.serving.engine import Answers
from trilane.serving.reading import Reading


def test_a_trace_of_seconds_is_read_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("at,rows\n10.0,1\n12.5,2\n")
    assert [(one.at, one.rows, one.patience, one.tier) for one in read_trace(path, patience=0.1, tier=1)] == [
        (0.0, 1, 0.1, 1),
        (2.5, 2, 0.1, 1),
    ]


def test_a_trace_may_name_tiers_and_callers(tmp_path: Path) -> None:
    columns = {"at": [1, 2, 3], "tier": ["critical", None, "batch"], "caller": ["web", "jobs", None]}
    pq.write_table(pa.table(columns), tmp_path / "trace.parquet")
    (tmp_path / "trace.csv").write_text("at,tier,caller\n1,critical,web\n2,,jobs\n3,batch,\n")
    for name in ("trace.parquet", "trace.csv"):
        found = read_trace(tmp_path / name, patience=1.0, tier=1)
        assert [(one.tier, one.caller) for one in found] == [(0, "web"), (1, "jobs"), (3, "")]


def test_instants_are_read_from_either_format(tmp_path: Path) -> None:
    begin = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    at = [begin, begin + dt.timedelta(milliseconds=250)]
    pq.write_table(pa.table({"at": pa.array(at, pa.timestamp("us", "UTC"))}), tmp_path / "trace.parquet")
    (tmp_path / "trace.csv").write_text("at\n2024-05-01T00:00:00Z\n2024-05-01T00:00:00.250Z\n")
    for name in ("trace.parquet", "trace.csv"):
        assert [one.at for one in read_trace(tmp_path / name, patience=1.0)] == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize(
    ("text", "says", "where"),
    [
        ("", "cannot be read", ""),
        ("at\n", "empty", ""),
        ("at,at\n1.0,2.0\n", "2 columns `at`", ": at"),
        ("at,rows,rows\n1.0,2,2\n", "2 columns `rows`", ": rows"),
        ("when\n1.0\n", "no column `at`, but when", ""),
        ("at\nyesterday\n", "the instants are string", ": at"),
        ("at\n1.0\nnan\n", "no number", ": at[1]"),
        ("at,rows\n1.0,1\n,2\n", "no number", ": at[1]"),
        ("at\n-inf\n", "no number", ": at[0]"),
        ("at\n1.0\n3.0\n2.5\n", "goes back by 0.5 s", ": at[2]"),
        ("at\n2024-05-01T00:00:01Z\n2024-05-01T00:00:00Z\n", "goes back by 1 s", ": at[1]"),
        ("at,rows\n1.0,0\n", "no whole row", ": rows[0]"),
        ("at,rows\n1.0,-2\n", "no whole row", ": rows[0]"),
        ("at,rows\n1.0,1\n2.0,\n", "no whole row", ": rows[1]"),
        ("at,rows\n1.0,many\n", "rows are", ": rows"),
        ("at,rows\n1.0,1.5\n", "rows are", ": rows"),
        ("at,rows\n1.0,2001\n", "a request of 2,001 rows", ": rows[0]"),
        ("at,tier\n1.0,urgent\n", "'urgent' is no tier", ": tier[0]"),
        ("at,tier\n1.0,1\n", "the tiers are int64", ": tier"),
        ("at,caller\n1.0,7\n", "the callers are int64", ": caller"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_place_and_the_remedy(
    tmp_path: Path, text: str, says: str, where: str
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ContractError) as raised:
        read_trace(path, patience=1.0)
    assert says in raised.value.what
    assert raised.value.where == f"{path}{where}"
    assert raised.value.remedy


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"garbage\x00\xff\n1\n")
    with pytest.raises(ContractError, match=r"cannot be read|no text") as raised:
        read_trace(path, patience=1.0)
    assert raised.value.where == str(path)


def test_a_parquet_file_is_held_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    for columns, where in (
        ({"at": pa.array([], pa.float64())}, ""),
        ({"at": [1.0, None]}, ": at[1]"),
        ({"at": [1.0, math.nan]}, ": at[1]"),
        ({"at": [2.0, 1.0]}, ": at[1]"),
        ({"at": [[1.0]]}, ": at"),
        ({"at": [1.0], "rows": pa.array([None], pa.int64())}, ": rows[0]"),
        ({"then": [1.0]}, ""),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ContractError) as raised:
            read_trace(path, patience=1.0)
        assert raised.value.where == f"{path}{where}"
    path.write_text("at\n1.0\n")
    with pytest.raises(ContractError, match="cannot be read"):
        read_trace(path, patience=1.0)


def test_a_file_that_is_not_there_is_told_with_its_path(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(ContractError, match=name):
            read_trace(tmp_path / name, patience=1.0)


def test_without_decisions_on_record_it_says_what_else_there_is(tmp_path: Path) -> None:
    records = Records(tmp_path / "records.db")
    try:
        with pytest.raises(ContractError, match="--rate"):
            recorded(records, "check", since=0, until=2**62, patience=0.1)
    finally:
        records.close()


def _answers(id: str, at: int, rows: int) -> Answers:
    shape = (rows, 1)
    reading = Reading(np.zeros(shape), np.zeros(shape, np.uint8), np.zeros(shape, np.int64), ())
    asked = [_Row(number) for number in range(rows)]
    return Answers(id, "b" * 64, at, asked, np.zeros(rows), reading, (), np.ones(rows, np.uint8), {})


_Row = msgspec.defstruct("_Row", [("n", int)])


def test_a_request_on_record_is_one_of_all_its_rows_whoever_was_decided_with_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "records.db", period=0.001)
    recorder.put("check", ("v.a",), _answers("01", 10_000_000, 20), (20,))
    recorder.put("check", ("v.a",), _answers("02", 11_000_000, 6), (1, 3, 2))
    recorder.put("check", ("v.a",), _answers("03", 12_000_000, 2))
    recorder.close()
    records = Records(tmp_path / "records.db")
    found = recorded(records, "check", since=0, until=2**62, patience=0.1, tier=1, seed=4)
    assert found == recorded(records, "check", since=0, until=2**62, patience=0.1, tier=1, seed=4)
    assert found != recorded(records, "check", since=0, until=2**62, patience=0.1, tier=1, seed=5)
    records.close()
    assert found[0].rows == 20
    assert sorted(one.rows for one in found[1:4]) == [1, 2, 3]
    assert [one.rows for one in found[4:]] == [1, 1]
    assert {(one.patience, one.tier) for one in found} == {(0.1, 1)}
    assert [round(one.at, 1) for one in found[1:4]] == pytest.approx([1.0] * 3, abs=0.06)
