from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trilane as tl
from trilane.clock import instant
from trilane.errors import ContractError, DefinitionError
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.batch.materialize import due, materialize
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.online.lmdb import LmdbStore, LmdbWriter
from trilane.stores.online.versions import Version, versions

ROWS = tl.TableSource(
    "rows", schema={"at": tl.Timestamp, "who": tl.String | None, "x": tl.String}, path="*.parquet", event_time="at"
)
EVENTS = tl.EventSource(
    "events",
    schema={"id": tl.Int64, "at": tl.Timestamp, "who": tl.String},
    event_time="at",
    event_id="id",
    disorder="30m",
)
WHO = tl.Entity("who", who=tl.String)
FEATURES = {"n": tl.count(window="1d"), "total": tl.sum("x", window="2d")}


@tl.batch(ROWS, WHO, features=FEATURES)
def by_day(rows: ibis.Table) -> ibis.Table:
    return rows.mutate(x=rows.x.cast("float64"))


@tl.batch(EVENTS, WHO, features={"n": tl.count(window="1d")}, landing="1h")
def of_events(rows: ibis.Table) -> ibis.Table:
    return rows


DAY = instant("2013-10-02T00:00:00Z")


class Place:
    """A warehouse and the batch region of an online store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = DuckdbWarehouse(folder / "warehouse")
        self.store = LmdbStore(folder / "online", map_size=1 << 24)
        self.writer: LmdbWriter = self.store.writer("batch")

    def land(self, boundary: int = DAY, **more: Any) -> Version | None:
        return materialize(by_day, boundary, warehouse=self.warehouse, root=self.folder, writer=self.writer, **more)

    def write(self, *rows: tuple[str, str | None, str]) -> None:
        at = pa.array([instant(when) for when, _, _ in rows], pa.timestamp("us", "UTC"))
        who, x = pa.array([who for _, who, _ in rows], pa.string()), pa.array([x for *_, x in rows], pa.string())
        pq.write_table(pa.table({"at": at, "who": who, "x": x}), self.folder / "rows.parquet")

    def answers(self, version: Version | None, *names: str) -> list[list[float]]:
        assert version is not None
        [rows] = self.store.read([(version.space, [encode_key([name]) or b"" for name in names])])
        found: list[list[float]] = TileLayout(by_day).read(rows, np.full(len(names), DAY)).tolist()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.write(
        ("2013-10-01T00:00:00Z", "a", "1"),
        ("2013-09-30T23:59:59Z", "a", "10"),
        ("2013-10-01T23:59:59Z", "b", "5"),
        ("2013-10-01T10:00:00Z", None, "7"),
        ("2013-10-02T00:00:00Z", "b", "100"),
    )
    yield made
    made.writer.close()
    made.store.close()


def test_windows_end_at_the_boundary(place: Place) -> None:
    version = place.land()
    assert place.answers(version, "a", "b") == [[1, 11], [1, 5]]
    assert version == versions(place.store, by_day.space)[0]
    assert (version.boundary, version.visible_from, version.rows) == (DAY, DAY + by_day.landing, 2)


def test_slices_change_nothing(place: Place) -> None:
    heard: list[tuple[str, int, int]] = []
    version = place.land(slice_events=1, progress=lambda *facts: heard.append(facts))
    assert place.answers(version, "a", "b") == [[1, 11], [1, 5]]
    assert heard[-1] == ("rows", 3, 3)


def test_a_failed_load_leaves_the_old_version(place: Place) -> None:
    before = place.land()
    place.write(("2013-10-01T00:00:00Z", "a", "not a number"))
    with pytest.raises(ContractError, match="not a number"):
        place.land(DAY + by_day.schedule)
    assert versions(place.store, by_day.space) == (before,)
    assert place.answers(before, "a") == [[1, 11]]


def test_a_failure_between_slices_leaves_the_old_version(place: Place) -> None:
    before = place.land()

    def full_disk(stage: str, done: int, total: int) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        place.land(DAY + by_day.schedule, slice_events=1, progress=full_disk)
    assert versions(place.store, by_day.space) == (before,)


def test_a_missing_column_is_refused_before_anything_is_written(place: Place) -> None:
    pq.write_table(pa.table({"at": pa.array([0], pa.timestamp("us", "UTC"))}), place.folder / "rows.parquet")
    with pytest.raises(ContractError, match="column 'who' is missing"):
        place.land()
    assert versions(place.store, by_day.space) == ()


def test_no_rows_make_an_empty_version(place: Place) -> None:
    (place.folder / "rows.parquet").unlink()
    version = place.land()
    assert version is not None
    assert version.rows == 0


def test_a_table_is_due_at_its_boundary_and_events_when_they_settled() -> None:
    hour = 3_600_000_000
    assert due(by_day, DAY) == DAY
    assert due(by_day, DAY - 1) == DAY - by_day.schedule
    assert due(of_events, DAY + hour // 2) == DAY
    assert due(of_events, DAY + hour // 2 - 1) == DAY - of_events.schedule


def test_only_batch_views_can_be_materialized(place: Place) -> None:
    @tl.nearline(EVENTS, WHO, freshness="1s", features={"n": tl.count(window="1h")})
    def live(rows: ibis.Table) -> ibis.Table:
        return rows

    with pytest.raises(DefinitionError, match="'live' is a nearline view"):
        due(live, DAY)
