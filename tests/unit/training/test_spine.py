from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trilane as tl
from trilane.errors import ContractError, DefinitionError
from trilane.features.plan import FeaturePlan
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.training.spine import number_asks, number_spine

SCHEMA = {"at": tl.Timestamp, "size": tl.Int64, "note": tl.String | None, "won": tl.Bool | None}
SPINE = tl.TableSource("asked", schema=SCHEMA, path="asked.parquet", event_time="at")


@tl.request(inputs={"size": tl.Int64, "note": tl.String | None}, features={"double": tl.Float64})
def doubled(request):  # type: ignore[no-untyped-def]
    return {"double": request["size"] * 2}


PLAN = FeaturePlan.of([doubled], where="test")


def rows(at: list[int | None], size: list[int | None], won: list[bool | None]) -> pa.Table:
    return pa.table(
        {
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "size": pa.array(size, pa.int64()),
            "note": pa.array([None] * len(at), pa.string()),
            "won": pa.array(won, pa.bool_()),
        }
    )


def numbered(tmp_path: Path, table: pa.Table, **more: int) -> list[tuple[object, ...]]:
    pq.write_table(table, tmp_path / "asked.parquet")
    warehouse = DuckdbWarehouse(tmp_path / "warehouse")
    with warehouse.connect(threads=1) as connection:
        count = number_spine(connection, PLAN, SPINE, warehouse=warehouse, root=tmp_path, label="won", **more)
        found = connection.query("SELECT _row, _time, size FROM spine ORDER BY _row").fetchall()
    assert count == len(found)
    return found


def test_rows_keep_the_order_of_their_file(tmp_path: Path) -> None:
    size = 300_000
    at = np.random.default_rng(0).permutation(size).tolist()
    found = numbered(tmp_path, rows(at, list(range(size)), [True] * size))
    assert found == [(i, at[i], i) for i in range(size)]


def test_rows_without_a_label_or_outside_the_period_are_left_out(tmp_path: Path) -> None:
    table = rows([1, 2, 3, 4], [1, 2, 3, 4], [True, None, False, True])
    assert numbered(tmp_path, table, since=1, until=4) == [(0, 1, 1), (1, 3, 3)]


def test_a_row_without_an_event_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="break 'at is not null'"):
        numbered(tmp_path, rows([1, None], [1, 2], [True, True]))


def test_a_row_without_an_input_that_may_not_be_null_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="break 'size is not null'"):
        numbered(tmp_path, rows([1, 2], [1, None], [True, True]))


def test_a_spine_whose_schema_lacks_an_input_is_refused(tmp_path: Path) -> None:
    poor = tl.TableSource("poor", schema={"at": tl.Timestamp, "won": tl.Bool}, path="x.parquet", event_time="at")
    warehouse = DuckdbWarehouse(tmp_path)
    with (
        warehouse.connect() as connection,
        pytest.raises(DefinitionError, match="spine 'poor': it lacks 'size' as int64"),
    ):
        number_spine(connection, PLAN, poor, warehouse=warehouse, root=tmp_path, label="won")


def test_asks_of_a_wrong_type_are_refused(tmp_path: Path) -> None:
    asks = rows([1], [1], [True]).set_column(1, "size", pa.array(["1"]))
    with (
        DuckdbWarehouse(tmp_path).connect() as connection,
        pytest.raises(ContractError, match="asks: column 'size' is VARCHAR, expected int64"),
    ):
        number_asks(connection, PLAN, asks, event_time="at")
