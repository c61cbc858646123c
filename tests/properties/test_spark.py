"""Spark gives the bytes of batch versions and the digests of training sets that DuckDB gives.

One Spark serves the module: its start costs more than all the rest. Java is needed, 17 or later; without it the tests
are skipped and say so.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import deltalake
import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trilane as tl
from tests.orders import CITY, DAY, ORDERS, VIEWS, digest, fill, rows_of
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.batch_job import land_version
from trilane.clock import SimulatedClock
from trilane.errors import ContractError, SetupError
from trilane.stores.offline.spark import SparkWarehouse, open_warehouse

pytestmark = [
    pytest.mark.xdist_group("spark"),
    pytest.mark.timeout(300),  # a busy machine starts Java slowly
    pytest.mark.skipif(
        shutil.which("java") is None, reason="Spark needs Java: install a runtime of version 17 or later"
    ),
]

# Few tasks and little compiling: what counts here is what comes out.
OPTIONS = (
    "master=local[2]&spark.sql.shuffle.partitions=3&spark.sql.codegen.wholeStage=false"
    "&spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1%20-XX:%2BUseSerialGC"
)


def spark(folder: Path) -> SparkWarehouse:
    return open_warehouse(f"spark://{folder / 'warehouse'}?{OPTIONS}")


def test_versions_and_training_sets_have_the_bytes_of_duckdb(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] c"  # which Spark would take for a pattern
    duckdb = fill(folder, seed=7)
    for view in VIEWS:
        assert rows_of(folder, spark(folder), view) == rows_of(folder, duckdb, view)
    assert digest(folder, spark(folder)) == digest(folder, duckdb)
    assert not [path for path in (folder / "warehouse").iterdir() if path.name.startswith(".gathering")]


def test_what_the_files_lack_or_hold_as_another_type_is_read_as_declared(tmp_path: Path) -> None:
    duckdb = fill(tmp_path, seed=3, orders=20)
    grown = tl.EventSource(
        "orders",
        schema={**{f.name: f.annotation for f in ORDERS.fields}, "tip": tl.Float64 | None},
        event_time="at",
        event_id="id",
    )

    @tl.batch(grown, CITY, features={"n": tl.count(window="4d"), "tip": tl.sum("tip", window="4d")})
    def tips(orders: ibis.Table) -> ibis.Table:
        return orders

    assert rows_of(tmp_path, spark(tmp_path), tips) == rows_of(tmp_path, duckdb, tips)
    wider = tl.EventSource(
        "orders",
        schema={f.name: tl.Float64 if f.name == "shop" else f.annotation for f in ORDERS.fields},
        event_time="at",
        event_id="id",
        rules=[tl.rule("no x", lambda orders: orders.note != "x", action="quarantine")],
    )

    @tl.batch(wider, CITY, features={"shop": tl.sum("shop", window="4d")})
    def shops(orders: ibis.Table) -> ibis.Table:
        return orders

    assert rows_of(tmp_path, spark(tmp_path), shops) == rows_of(tmp_path, duckdb, shops)
    (tmp_path / "prices.csv").unlink()
    assert rows_of(tmp_path, spark(tmp_path), VIEWS[1])[-1] == b"0"


def test_a_row_that_the_transform_cannot_compute_is_told_as_here(tmp_path: Path) -> None:
    table = pa.table(
        {
            "at": pa.array([tl.clock.instant("2026-01-02T00:00:00Z")], pa.timestamp("us", "UTC")),
            "city": ["a"],
            "x": ["no number"],
        }
    )
    pq.write_table(table, tmp_path / "texts.parquet")
    texts = tl.TableSource(
        "texts", schema={"at": tl.Timestamp, "city": tl.String, "x": tl.String}, path="texts.parquet", event_time="at"
    )

    @tl.batch(texts, CITY, features={"x": tl.sum("x", window="3d")})
    def numbers(rows: ibis.Table) -> ibis.Table:
        return rows.mutate(x=rows.x.cast("float64"))

    with pytest.raises(ContractError, match="no number"):
        rows_of(tmp_path, spark(tmp_path), numbers)


def test_tables_of_open_formats_are_read_as_by_duckdb(tmp_path: Path) -> None:
    duckdb, spark_here = fill(tmp_path, seed=3, orders=20), spark(tmp_path)
    rows = pa.table(
        {
            "at": pa.array(
                [tl.clock.instant(f"2026-01-0{day}T00:00:00Z") for day in (1, 2, 3)], pa.timestamp("us", "UTC")
            ),
            "city": ["a", "é", "a"],
            "x": [0.1, 0.2, 0.3],
        }
    )
    deltalake.write_deltalake(tmp_path / "whole", rows)
    deltalake.write_deltalake(tmp_path / "parted", rows, partition_by=["city"])
    for path in ("whole", "parted"):
        table = tl.TableSource(
            path,
            schema={"at": tl.Timestamp, "city": tl.String, "x": tl.Float64},
            path=path,
            event_time="at",
            format="delta",
        )

        @tl.batch(table, CITY, features={"x": tl.sum("x", window="4d")})
        def sums(rows: ibis.Table) -> ibis.Table:
            return rows

        found = rows_of(tmp_path, spark_here, sums)
        assert found == rows_of(tmp_path, duckdb, sums)
        assert found[-1] == b"2"


def test_one_process_runs_one_spark(tmp_path: Path) -> None:
    fill(tmp_path, seed=3, orders=20)
    rows_of(tmp_path, spark(tmp_path), VIEWS[0])
    other = open_warehouse(f"spark://{tmp_path / 'warehouse'}?master=local[1]")
    with pytest.raises(SetupError, match="runs Spark on 'local\\[2\\]' already"):
        rows_of(tmp_path, other, VIEWS[0])


def test_a_strange_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="unknown option 'color'"):
        open_warehouse(f"spark://{tmp_path}?color=red&spark.executor.memory=2g")


def test_a_project_names_spark_by_its_url(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    project = make_project(folder, clock=SimulatedClock(T0 + 3 * DAY), offline=f"spark://warehouse?{OPTIONS}")
    events = [event(i, shop="abc"[i % 3], at=T0 + i * MINUTE, amount=i / 7) for i in range(60)]
    append(project, events, arrived_at=T0 + 2 * DAY)
    view = project.definitions.views["shop_daily"]
    landed = land_version(project, view, T0 + DAY)
    assert landed is not None
    assert landed.rows == 3
    assert list((folder / "warehouse" / "events" / "orders").glob("*.parquet"))
    project.close()
