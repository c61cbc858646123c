from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import trilane as tl
from trilane.errors import ConflictError, ContractError, SetupError
from trilane.sources.event import EventSource
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse, open_warehouse


def source(**more: object) -> EventSource:
    return EventSource("s", schema={"id": tl.Int64, "at": tl.Timestamp, **more}, event_time="at", event_id="id")


def events(count: int) -> pa.Table:
    numbers = np.arange(count)
    return pa.table(
        {
            "id": numbers,
            "at": pa.array(numbers, pa.timestamp("us", "UTC")),
            "_arrived_at": numbers,
            "_offset": numbers,
            "_late": np.zeros(count, bool),
        }
    )


def count_of(warehouse: DuckdbWarehouse, what: EventSource) -> object:
    with warehouse.connect(threads=1) as connection:
        return connection.query(f"SELECT count(*) FROM {warehouse.events_sql(what)}").fetchall()[0][0]


def test_a_file_that_was_being_written_when_its_writer_died_is_not_read(tmp_path: Path) -> None:
    warehouse = DuckdbWarehouse(tmp_path)
    warehouse.append_events(source(), events(3), partition=0, first=0, last=2, newest=2)
    folder = tmp_path / "events" / "s"
    (folder / f".00000-{3:020d}-{5:020d}.parquet.1.tmp").write_bytes(b"PAR1 and no more")
    assert warehouse.archived(source(), 0) == 3
    assert count_of(warehouse, source()) == 3


def test_a_field_that_was_declared_later_is_null_in_older_events(tmp_path: Path) -> None:
    warehouse = DuckdbWarehouse(tmp_path)
    warehouse.append_events(source(), events(2), partition=0, first=0, last=1, newest=1)
    grown = source(who=tl.String | None)
    with warehouse.connect(threads=1) as connection:
        rows = connection.query(f"SELECT id, who FROM {warehouse.events_sql(grown)} ORDER BY id").fetchall()
    assert rows == [(0, None), (1, None)]


def test_an_archive_that_cannot_be_written_is_the_operators_concern(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file where the folder should be")
    with pytest.raises(SetupError, match="cannot be made"):
        DuckdbWarehouse(tmp_path).append_events(source(), events(1), partition=0, first=0, last=0, newest=0)


def test_a_gap_names_the_last_archived_offset(tmp_path: Path) -> None:
    warehouse = DuckdbWarehouse(tmp_path)
    warehouse.append_events(source(), events(3), partition=0, first=0, last=2, newest=2)
    with pytest.raises(ConflictError, match="do not follow 2"):
        warehouse.append_events(source(), events(1), partition=0, first=9, last=9, newest=2)


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    with DuckdbWarehouse(tmp_path / "w").connect(memory_limit="100MB", temp=tmp_path) as connection:
        connection.run("CREATE TABLE big AS SELECT range AS i FROM range(100000)")
        assert list(tmp_path.glob("trilane-*"))
    assert not list(tmp_path.glob("trilane-*"))


def test_an_unknown_option_of_the_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="unknown option 'color'"):
        open_warehouse(f"duckdb://{tmp_path}?color=red")


def test_a_transform_that_fails_on_a_row_is_a_contract_error() -> None:
    with pytest.raises(ContractError, match="Could not convert"):
        DuckdbMicroBatch().run("SELECT CAST(x AS INTEGER) AS y FROM events", pa.table({"x": ["1", "one"]}))


@pytest.mark.parametrize(
    "columns",
    ["*", '"t0"."x"', '"t0"."y" AS "x", "t0"."x" AS "a ""b"', '"t0"."x", "t0"."x" AS "z"', '"t0"."x" + 1 AS "x"'],
)
def test_choosing_columns_gives_what_the_engine_gives(columns: str) -> None:
    table = pa.table({"x": [1, None, 3], "y": ["a", "b", None]})
    sql = f'SELECT {columns} FROM "events"' + ("" if columns == "*" else ' AS "t0"')
    with DuckdbWarehouse(Path()).connect() as connection:
        connection.register("events", table)
        expected = connection.query(sql).to_arrow_table()
    assert DuckdbMicroBatch().run(sql, table).equals(expected)


def test_a_micro_batch_takes_no_variable_for_a_table() -> None:
    strangers = pa.table({"x": [1]})
    with pytest.raises(ContractError, match="strangers"):
        DuckdbMicroBatch().run("SELECT * FROM strangers", strangers)
