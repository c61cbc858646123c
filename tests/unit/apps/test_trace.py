"""Traffic is read as it was recorded, and what is no trace is refused with its path."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trilane.apps.trace import read_trace, recorded
from trilane.errors import ContractError
from trilane.feedback.record import Records


def test_a_trace_of_seconds_is_read_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("at,rows\n12.5,2\n10.0,1\n")
    assert [(one.at, one.rows, one.patience) for one in read_trace(path, patience=0.1)] == [
        (0.0, 1, 0.1),
        (2.5, 2, 0.1),
    ]


def test_instants_are_read_from_either_format(tmp_path: Path) -> None:
    begin = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
    at = [begin, begin + dt.timedelta(milliseconds=250)]
    pq.write_table(pa.table({"at": pa.array(at, pa.timestamp("us", "UTC"))}), tmp_path / "trace.parquet")
    (tmp_path / "trace.csv").write_text("at\n2024-05-01T00:00:00Z\n2024-05-01T00:00:00.250Z\n")
    for name in ("trace.parquet", "trace.csv"):
        assert [one.at for one in read_trace(tmp_path / name, patience=1.0)] == pytest.approx([0.0, 0.25])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("at\n", "the instants are|empty"),
        ("when\n1.0\n", "no column `at`, but when"),
        ("at\nyesterday\n", "the instants are string"),
        ("at,rows\n1.0,0\n", "no whole row"),
        ("at,rows\n1.0,-2\n", "no whole row"),
        ("at,rows\n1.0,many\n", "rows are"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ContractError, match=says):
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
