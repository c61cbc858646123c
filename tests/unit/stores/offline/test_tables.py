from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trilane as tl
from trilane.errors import ContractError
from trilane.sources.table import TableSource
from trilane.stores.offline.duckdb import DuckdbWarehouse


def source(path: str = "rows/*.parquet", **more: object) -> TableSource:
    return TableSource("t", schema={"at": tl.Timestamp, "x": tl.Float64 | None, **more}, path=path, event_time="at")


def rows(tmp_path: Path, what: TableSource, columns: str = "*") -> list[dict[str, object]]:
    warehouse = DuckdbWarehouse(tmp_path / "warehouse")
    with warehouse.connect(threads=1) as connection:
        sql = warehouse.table_sql(what, tmp_path)
        found: list[dict[str, object]] = connection.query(f"SELECT {columns} FROM {sql}").to_arrow_table().to_pylist()
        return found


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


INSTANTS = pa.array([0, 1], pa.timestamp("us", "UTC"))


def test_files_are_read_in_order_and_typed_as_declared(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "b.parquet", at=INSTANTS, x=pa.array([3, None], pa.int32()))
    write(tmp_path / "rows" / "a.parquet", at=INSTANTS, x=pa.array([1.5, 2.5], pa.float32()), other=[1, 2])
    assert rows(tmp_path, source(), "x") == [{"x": 1.5}, {"x": 2.5}, {"x": 3.0}, {"x": None}]


def test_no_file_gives_no_rows(tmp_path: Path) -> None:
    assert rows(tmp_path, source()) == []


def test_a_missing_column_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "a.parquet", at=INSTANTS, y=[1.0, 2.0])
    with pytest.raises(ContractError, match=r"a\.parquet: column 'x' is missing, expected float64 .*there are at, y"):
        rows(tmp_path, source())


@pytest.mark.parametrize(
    ("declared", "values", "found"),
    [
        (tl.Float64, pa.array(["1", "2"]), "VARCHAR"),
        (tl.Int64, pa.array([1.0, 2.0]), "DOUBLE"),
        (tl.String, pa.array([1, 2]), "BIGINT"),
        (tl.Timestamp, pa.array([1, 2], pa.timestamp("us")), "TIMESTAMP"),
        (tl.Bool, pa.array([1, 0]), "BIGINT"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, declared: object, values: pa.Array, found: str) -> None:
    write(tmp_path / "rows" / "a.parquet", at=INSTANTS, x=[1.0, 2.0], y=values)
    with pytest.raises(ContractError, match=rf"a\.parquet: column 'y' is {found}, expected"):
        rows(tmp_path, source(y=declared))


def test_an_instant_in_nanoseconds_is_read_as_its_microsecond(tmp_path: Path) -> None:
    at = pa.array([1_356_998_400_000_000_123, -1_000], pa.timestamp("ns", "UTC"))
    write(tmp_path / "rows" / "a.parquet", at=at, x=[1.0, 2.0])
    assert rows(tmp_path, source(), 'epoch_us("at") AS at') == [{"at": 1_356_998_400_000_000}, {"at": -1}]


def test_one_bad_file_among_good_ones_is_found(tmp_path: Path) -> None:
    write(tmp_path / "rows" / "a.parquet", at=INSTANTS, x=[1.0, 2.0])
    write(tmp_path / "rows" / "b.parquet", at=INSTANTS, x=["1", "2"])
    with pytest.raises(ContractError, match=r"b\.parquet: column 'x' is VARCHAR"):
        rows(tmp_path, source())


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(ContractError, match=r"broken\.parquet: the file cannot be read"):
        rows(tmp_path, source("broken.parquet"))


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"")
    with pytest.raises(ContractError, match="neither Parquet nor CSV"):
        rows(tmp_path, source("rows.xlsx"))


def test_csv_is_read_as_declared(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("code,at,x\n007,2013-01-01T00:00:00Z,1\n008,2013-01-01T00:00:01+01:00,\n")
    found = rows(tmp_path, source("rows.csv", code=tl.String), 'epoch_us("at") AS at, x, code')
    assert found == [
        {"at": 1356998400000000, "x": 1.0, "code": "007"},
        {"at": 1356994801000000, "x": None, "code": "008"},
    ]


def test_a_csv_without_time_zones_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("at,x\n2013-01-01 00:00:00,1\n")
    with pytest.raises(ContractError, match="with a time zone"):
        rows(tmp_path, source("rows.csv"))
