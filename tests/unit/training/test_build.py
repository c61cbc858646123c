from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import ibis
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trilane as tl
from trilane.clock import SECOND
from trilane.errors import ContractError, DefinitionError, SetupError
from trilane.features.plan import FeaturePlan
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.training import TrainingSet, build, values_at

DAY = 86_400 * SECOND
SOURCE = tl.EventSource(
    "e",
    schema={"id": tl.Int64, "at": tl.Timestamp, "who": tl.String, "x": tl.Float64 | None},
    event_time="at",
    event_id="id",
)
WHO = tl.Entity("who", who=tl.String)
SPINE = tl.TableSource(
    "asked",
    schema={"at": tl.Timestamp, "who": tl.String | None, "size": tl.Int64, "won": tl.Bool | None},
    path="asked.parquet",
    event_time="at",
)


@tl.nearline(SOURCE, WHO, freshness="60s", features={"n": tl.count(window="1h"), "last": tl.last("x", window="1d")})
def live(events: ibis.Table) -> ibis.Table:
    return events


@tl.batch(SOURCE, WHO, features={"mean": tl.mean("x", window="1d", default=-1.0)}, landing="2h")
def daily(events: ibis.Table) -> ibis.Table:
    return events


@tl.request(
    inputs={"size": tl.Int64, "who": tl.String | None}, features={"ratio": tl.Float64, "known": tl.Bool}, uses=[live]
)
def ratio(request):  # type: ignore[no-untyped-def]
    return {"ratio": request["live.n"] / request["size"], "known": request["who"] != None}  # noqa: E711 - elementwise


PLAN = FeaturePlan.of([ratio, daily, live["last"]], where="test")


def fill(folder: Path, *, events: int, asks: int, who: int = 20, late: bool = False) -> DuckdbWarehouse:
    warehouse = DuckdbWarehouse(folder / "warehouse")
    chance = np.random.default_rng(1)
    names = np.array([f"w{i}" for i in range(who)])
    table = pa.table(
        {
            "id": np.arange(events),
            "at": pa.array(np.sort(chance.integers(0, 10 * DAY, events)), pa.timestamp("us", "UTC")),
            "who": names[chance.integers(0, who, events)],
            "x": chance.normal(size=events),
            "_arrived_at": np.zeros(events, np.int64),
            "_offset": np.arange(events),
            "_late": np.full(events, late),
        }
    )
    warehouse.append_events(SOURCE, table, partition=0, first=0, last=events - 1, newest=None)
    spine = pa.table(
        {
            "at": pa.array(chance.integers(DAY, 10 * DAY, asks), pa.timestamp("us", "UTC")),
            "who": pa.array([None if i % 50 == 0 else names[i % who] for i in range(asks)], pa.string()),
            "size": chance.integers(1, 9, asks),
            "won": chance.integers(0, 2, asks).astype(bool),
        }
    )
    pq.write_table(spine, folder / "asked.parquet")
    return warehouse


def built(folder: Path, warehouse: DuckdbWarehouse, out: str = "out", **more: object) -> TrainingSet:
    options: dict[str, object] = {"label": "won", "warehouse": warehouse, "root": folder, "out": folder / out, **more}
    return build(PLAN, SPINE, **options)  # type: ignore[arg-type]


def test_a_training_set_is_what_its_parts_say(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=2_000, asks=300)
    made = built(tmp_path, warehouse)
    assert made.columns == ("ratio.ratio", "ratio.known", "daily.mean", "live.last")
    assert (made.matrix.shape, made.matrix.dtype.name, made.label.dtype.name) == ((300, 4), "float32", "float64")
    table = made.table()
    assert table.schema.names == ["at", "who", "size", "won", *made.columns]
    values = np.column_stack([table.column(name).to_numpy() for name in made.columns])
    np.testing.assert_array_equal(values.astype(np.float32), made.matrix)
    np.testing.assert_array_equal(table.column("won").to_numpy(), made.label)
    assert made.views == {view.name: view.version for view in (live, ratio, daily)}
    np.testing.assert_array_equal(values, values_of(tmp_path, warehouse))
    statistics = made.statistics["live.last"]
    known = values[:, 3][~np.isnan(values[:, 3])]
    assert (statistics.rows, statistics.missing) == (300, 300 - len(known))
    assert [statistics.mean, statistics.std, statistics.low, statistics.high] == pytest.approx(
        [known.mean(), known.std(), known.min(), known.max()]
    )


def values_of(folder: Path, warehouse: DuckdbWarehouse) -> npt.NDArray[np.float64]:
    asks = pq.read_table(folder / "asked.parquet")
    return values_at(PLAN, asks, event_time="at", warehouse=warehouse, root=folder)


def test_rows_whose_key_is_null_get_the_defaults(tmp_path: Path) -> None:
    made = built(tmp_path, fill(tmp_path, events=2_000, asks=300))
    np.testing.assert_array_equal(made.matrix[0], np.array([0, 0, -1, np.nan], np.float32))


def test_the_same_inputs_give_the_same_digest_however_they_are_cut(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=3_000, asks=500)
    made = built(tmp_path, warehouse)
    again = built(tmp_path, warehouse, "again", slice_rows=37, memory_limit="200MB")
    assert made.digest == again.digest
    assert made.folder.name == again.folder.name == made.digest[:16]


def test_building_again_keeps_the_frozen_folder(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=500, asks=50)
    before = built(tmp_path, warehouse).path.stat().st_mtime_ns
    assert built(tmp_path, warehouse).path.stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == [built(tmp_path, warehouse).digest[:16]]


def test_what_a_killed_build_left_is_removed_by_the_next_and_what_is_being_built_stays(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=500, asks=50)
    script = "import os, signal, sys; from pathlib import Path; from importlib import import_module\n"
    script += "job = import_module('trilane.training.build')\n"
    script += "with job._building(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    (tmp_path / "out").mkdir()
    subprocess.run([sys.executable, "-c", script, tmp_path / "out"], check=False)
    [left] = (tmp_path / "out").iterdir()
    beside: list[bool] = []

    def look(stage: str, done: int, total: int) -> None:
        beside.append(left.exists())
        assert len(list((tmp_path / "out").glob(".building-*"))) == 1

    digest = built(tmp_path, warehouse, progress=look).digest
    assert beside
    assert not any(beside)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [digest[:16]]


def test_other_contents_have_another_digest(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=500, asks=50)
    whole = built(tmp_path, warehouse)
    assert built(tmp_path, warehouse, since=2 * DAY).digest != whole.digest
    table = pq.read_table(tmp_path / "asked.parquet")
    pq.write_table(table.set_column(1, "who", pa.array(["w1"] * 50)), tmp_path / "asked.parquet")
    assert built(tmp_path, warehouse).digest != whole.digest


def test_a_training_set_is_loaded_as_it_was_built(tmp_path: Path) -> None:
    made = built(tmp_path, fill(tmp_path, events=500, asks=50))
    loaded = TrainingSet.load(made.folder)
    assert loaded == made
    np.testing.assert_array_equal(loaded.matrix, made.matrix)
    with pytest.raises(SetupError, match="no readable training set"):
        TrainingSet.load(tmp_path)


def test_late_events_count_in_no_view(tmp_path: Path) -> None:
    values = values_of(tmp_path, fill(tmp_path, events=2_000, asks=300, late=True))
    assert (values[:, 0] == 0).all()
    assert np.isnan(values[:, 3]).all()
    assert (values[:, 2] == -1).all()


def test_no_asks_get_no_answers(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=20, asks=5)
    none = pq.read_table(tmp_path / "asked.parquet").slice(0, 0)
    assert values_at(PLAN, none, event_time="at", warehouse=warehouse, root=tmp_path).shape == (0, 4)


def test_before_the_first_event_there_are_only_defaults(tmp_path: Path) -> None:
    fill(tmp_path, events=20, asks=5)
    empty = DuckdbWarehouse(tmp_path / "empty")
    np.testing.assert_array_equal(values_of(tmp_path, empty)[:, 2:], [[-1, np.nan]] * 5)


def test_a_period_without_rows_is_refused(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=20, asks=5)
    with pytest.raises(ContractError, match="no row is labelled"):
        built(tmp_path, warehouse, since="2030-01-01T00:00:00Z")
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_is_told_to_the_end_of_each_stage(tmp_path: Path) -> None:
    heard: dict[str, tuple[int, int]] = {}
    warehouse = fill(tmp_path, events=500, asks=100)
    built(tmp_path, warehouse, slice_rows=50, progress=lambda stage, done, total: heard.update({stage: (done, total)}))
    assert heard == {"live": (98, 98), "daily": (98, 98), "request": (100, 100), "write": (100, 100)}


@tl.nearline(
    SOURCE, WHO, freshness="60s", features={"mean": tl.mean("x", window="1h"), "low": tl.min("x", window="1h")}
)
def recent(events: ibis.Table) -> ibis.Table:
    return events


@pytest.mark.parametrize("who", [1, 500])
def test_memory_does_not_grow_with_the_events(tmp_path: Path, who: int) -> None:
    """Neither with many keys nor with a single one, which is cut by time."""
    peaks = []
    for events in (40_000, 160_000):
        folder = tmp_path / str(events)
        folder.mkdir()
        warehouse = fill(folder, events=events, asks=2_000, who=who)
        tracemalloc.start()
        values_at(
            FeaturePlan.of([recent], where="test"),
            pq.read_table(folder / "asked.parquet"),
            event_time="at",
            warehouse=warehouse,
            root=folder,
            slice_rows=6_000,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_function_that_fails_is_the_authors_concern(tmp_path: Path) -> None:
    @tl.request(inputs={"size": tl.Int64}, features={"y": tl.Float64})
    def broken(request):  # type: ignore[no-untyped-def]
        return {"y": request["sise"]}

    warehouse = fill(tmp_path, events=20, asks=5)
    plan = FeaturePlan.of([broken], where="test")
    asks = pq.read_table(tmp_path / "asked.parquet")
    with pytest.raises(DefinitionError, match="'broken': the function raised KeyError"):
        values_at(plan, asks, event_time="at", warehouse=warehouse, root=tmp_path)


def test_what_is_usual_is_kept_with_the_set_and_taken_where_the_lane_was_late(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=2_000, asks=300)
    other = tl.nearline(
        SOURCE,
        WHO,
        freshness="60s",
        features={"mean": tl.mean("x", window="1d")},
        fallback=[tl.prior("median")],
    )(live.function)
    plan = FeaturePlan.of([other, other.age, daily.age], where="test")
    ideal = build(plan, SPINE, label="won", warehouse=warehouse, root=tmp_path, out=tmp_path / "ideal")
    column = ideal.table().column("live.mean").to_numpy()
    assert ideal.manifest.priors == {"live.mean": float(np.nanmedian(column))}
    assert ideal.columns == ("live.mean", "live.age_s", "daily.age_s")
    times = pq.read_table(tmp_path / "asked.parquet").column("at").cast(pa.int64()).to_numpy()
    ages = times - (times - 2 * 3_600 * SECOND) // DAY * DAY
    np.testing.assert_array_equal(ideal.matrix[:, 1], 0)
    np.testing.assert_array_equal(ideal.matrix[:, 2], (ages / 1e6).astype(np.float32))
    plain = build(PLAN, SPINE, label="won", warehouse=warehouse, root=tmp_path, out=tmp_path / "plain")
    assert plain.manifest.priors == {}
