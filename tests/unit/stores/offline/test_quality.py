"""A table is judged by the same promises as events, and refused whole where one of them rejects."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SECOND
from trilane.contract import Contract
from trilane.errors import ContractError
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.offline.quality import check_table
from trilane.types import arrow_type, fields_of

DAY = 86_400 * SECOND
SCHEMA = {
    "id": Annotated[tl.Int64, tl.check(ge=0, multiple_of=2)],
    "at": Annotated[tl.Timestamp, tl.check(ge="1970-01-02T00:00:00Z")],
    "x": Annotated[tl.Float64, tl.check(gt=-1, le=10)] | None,
    "k": Annotated[tl.String, tl.check(pattern=r"^[a-z']+$", max_length=4)] | None,
    "c": Annotated[tl.String, tl.check(one_of=("web", "it's"))] | None,
}
GOOD: dict[str, Any] = {"id": 2, "at": 2 * DAY, "x": 1.0, "k": "ab", "c": "web"}


def _source(*rules: Any, **options: Any) -> tl.TableSource:
    return tl.TableSource("facts", schema=SCHEMA, path="t.parquet", event_time="at", rules=rules, **options)


def _check(folder: Path, source: tl.TableSource, rows: list[dict[str, Any]], before: int = 10 * DAY) -> dict[str, int]:
    table = pa.table({f.name: pa.array([r[f.name] for r in rows], arrow_type(f)) for f in source.fields})
    pq.write_table(table, folder / "t.parquet")
    warehouse = DuckdbWarehouse(folder)
    with warehouse.connect(threads=1) as connection:
        return check_table(connection, warehouse.table_sql(source, folder, all_rows=True), source, before=before)


def _read(folder: Path, source: tl.TableSource) -> list[tuple[object, ...]]:
    warehouse = DuckdbWarehouse(folder)
    with warehouse.connect(threads=1) as connection:
        return connection.query(f"SELECT id, x FROM {warehouse.table_sql(source, folder)}").fetchall()


ROWS = st.fixed_dictionaries(
    {
        "id": st.integers(-1, 4),
        "at": st.sampled_from([0, DAY - 1, DAY, 3 * DAY]),
        "x": st.none() | st.sampled_from([-1.0, -0.5, 10.0, 10.5]),
        "k": st.none() | st.sampled_from(["ab", "it's", "A", "ab\n", "abcde", "\u00e9"]),
        "c": st.none() | st.sampled_from(["web", "it's", "shop"]),
    }
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=ROWS)
def test_a_row_is_refused_if_and_only_if_the_same_event_would_be(tmp_path: Path, row: dict[str, Any]) -> None:
    event = {**row, "at": dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=row["at"])}
    try:
        Contract("facts", fields_of(SCHEMA)).decode(msgspec.json.encode(event))
    except ContractError:
        with pytest.raises(ContractError, match="1 of 2 rows break"):
            _check(tmp_path, _source(), [GOOD, row])
    else:
        assert _check(tmp_path, _source(), [GOOD, row]) == {}


def test_nan_is_no_value_and_breaks_no_bound(tmp_path: Path) -> None:
    assert _check(tmp_path, _source(), [{**GOOD, "x": float("nan")}]) == {}


def test_a_null_where_none_may_be_is_refused_with_the_column(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="break 'id is not null'") as refused:
        _check(tmp_path, _source(), [GOOD, {**GOOD, "id": None}])
    assert refused.value.where == "table 'facts', $.id"


def test_each_action_of_a_rule_does_what_it_says(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "id": 4, "x": 8.0}]
    small = {
        action: tl.rule("x is small", lambda t: t.x < 5, action=action) for action in ("reject", "quarantine", "warn")
    }
    with pytest.raises(ContractError, match="1 of 2 rows break 'x is small'"):
        _check(tmp_path, _source(small["reject"]), rows)
    assert _check(tmp_path, _source(small["warn"]), rows) == {"x is small": 1}
    assert _read(tmp_path, _source(small["warn"])) == [(2, 1.0), (4, 8.0)]
    assert _check(tmp_path, _source(small["quarantine"]), rows) == {"x is small": 1}
    assert _read(tmp_path, _source(small["quarantine"])) == [(2, 1.0)]


def test_equal_rows_are_counted_once_each_beyond_the_first_and_nulls_are_left_alone(tmp_path: Path) -> None:
    rows = [GOOD, GOOD, GOOD, {**GOOD, "k": None}, {**GOOD, "k": None}]
    assert _check(tmp_path, _source(tl.unique("id", "k", action="warn")), rows) == {"unique id, k": 2}
    with pytest.raises(ContractError, match="2 of 5 rows break 'unique k'"):
        _check(tmp_path, _source(tl.unique("k")), rows)


def test_rows_after_the_boundary_are_not_looked_at(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "id": -2, "at": 5 * DAY}]
    assert _check(tmp_path, _source(), rows, before=5 * DAY) == {}


@pytest.mark.parametrize(
    ("days", "options", "said"),
    [
        ({2: 1}, {"at_least": 1}, "0 rows in 1d, at least 1"),
        ({4: 9}, {"at_most": 8}, "9 rows in 1d, at most 8"),
        ({3: 10, 4: 4}, {"change": 0.5}, "a change by -60%"),
        ({3: 10, 4: 16}, {"change": 0.5}, "a change by \\+60%"),
    ],
)
def test_a_period_that_is_empty_or_shrinks_or_grows_beyond_its_bounds_is_refused(
    tmp_path: Path, days: dict[int, int], options: dict[str, Any], said: str
) -> None:
    rows = [{**GOOD, "at": day * DAY} for day, number in days.items() for _ in range(number)]
    source = _source(volume=tl.volume("1d", **options))
    with pytest.raises(ContractError, match=said):
        _check(tmp_path, source, rows, before=5 * DAY)
    assert _check(tmp_path, source, [{**GOOD, "at": 4 * DAY}] * 6 + [{**GOOD, "at": 3 * DAY}] * 9, before=5 * DAY) == {}
