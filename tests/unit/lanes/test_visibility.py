"""When micro-batches became readable: recorded by the worker, archived once, bounded online."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy.typing as npt
import pytest

import trilane as tl
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.batch_job import archive_sources, land_version
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock
from trilane.lanes import visibility
from trilane.lanes.batch.landings import kept_landings
from trilane.lanes.progress import lane_key
from trilane.lanes.visibility import Trail, keep_visibility, kept_visibility
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.stores.online.lmdb import LmdbStore

SOURCE = tl.EventSource("orders", schema={"id": tl.Int64, "at": tl.Timestamp}, event_time="at", event_id="id")
KEY = lane_key("orders", 0)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(T0)


@pytest.fixture
def project(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    with make_project(tmp_path / "project", clock=clock, replay=True) as project:
        yield project


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbStore]:
    store = LmdbStore(tmp_path / "online", map_size=1 << 26)
    yield store
    store.close()


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckdbWarehouse:
    return DuckdbWarehouse(tmp_path / "warehouse")


def _records(project: Project) -> list[tuple[int, ...]]:
    archive_sources(project, list(project.definitions.views.values()))
    source = project.definitions.sources["orders"]
    return [tuple(row) for part in kept_visibility(project.warehouse, source, 0) for row in part.tolist()]


def test_each_batch_and_each_idle_stretch_leaves_a_record(project: Project, clock: SimulatedClock) -> None:
    worker = Worker(project)
    worker.step()
    clock.move_to(T0 + 10 * SECOND)
    worker.step()
    append(project, [event(1, at=T0), event(2, at=T0 + SECOND)], arrived_at=T0 + 11 * SECOND)
    clock.move_to(T0 + 40 * SECOND)
    worker.step()
    for seconds in (50, 60, 70, 200):
        clock.move_to(T0 + seconds * SECOND)
        worker.step()
    found = [[(value - T0) // SECOND if value > 1_000 else value for value in row] for row in _records(project)]
    # at, end, moment, caught up, last: the pause of 130 s is longer than a quarter of the freshness, so it is told.
    assert found == [[0, 0, 0, 10, 10], [40, 2, 40, 70, 70], [200, 2, 200, 200, 200]]


def test_an_early_event_becomes_readable_with_the_batch_that_applies_it(
    project: Project, clock: SimulatedClock
) -> None:
    worker = Worker(project)
    append(project, [event(1, at=T0 + 30 * SECOND)], arrived_at=T0)
    worker.step()
    clock.move_to(T0 + MINUTE)
    worker.step()
    assert [(row[1], row[2] - T0) for row in _records(project)] == [(1, 0), (1, MINUTE)]


def _written(store: LmdbStore, trail: Trail, instants: range) -> Trail:
    writer = store.writer("nearline")
    for at in instants:
        trail = trail.batch(at=at, end=at, moment=at, caught_up=at)
        with writer.transaction() as transaction:
            trail.store(transaction)
    writer.close()
    return trail


def _ends(parts: list[npt.NDArray]) -> list[list[int]]:  # type: ignore[type-arg]
    return [part["end"].tolist() for part in parts]


def test_records_are_archived_once_however_often_it_is_done(store: LmdbStore, warehouse: DuckdbWarehouse) -> None:
    trail = _written(store, Trail(KEY), range(1, 200))
    assert keep_visibility(store, warehouse, SOURCE) == 199
    assert keep_visibility(store, warehouse, SOURCE) == 0
    writer = store.writer("nearline")
    with writer.transaction() as transaction:
        assert Trail.stored(transaction, KEY) == trail
        trail.beat(205, end=199, patience=10).store(transaction)
    writer.close()
    assert keep_visibility(store, warehouse, SOURCE) == 1
    [records] = kept_visibility(warehouse, SOURCE, 0)
    assert records["end"].tolist() == [*range(1, 200)]
    assert records[-1].tolist() == (199, 199, 199, 205, 205)


def test_what_waits_online_is_bounded_and_a_gap_is_told(
    store: LmdbStore, warehouse: DuckdbWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visibility, "_ONLINE", 3)
    trail = _written(store, Trail(KEY), range(1, 11))
    keep_visibility(store, warehouse, SOURCE)
    _written(store, trail, range(11, 1_001))
    assert len(list(store.scan("nearline/visibility_chunks"))) == 3
    keep_visibility(store, warehouse, SOURCE)
    before, after = _ends(kept_visibility(warehouse, SOURCE, 0))
    assert before == [*range(1, 11)]
    assert after == [*range(after[0], 1_001)]
    assert len(after) in range(2 * 64, 4 * 64 + 1)


def test_a_store_that_lost_its_memory_begins_another_trail(store: LmdbStore, warehouse: DuckdbWarehouse) -> None:
    _written(store, Trail(KEY), range(1, 100))
    keep_visibility(store, warehouse, SOURCE)
    _written(store, Trail(KEY), range(500, 510))
    keep_visibility(store, warehouse, SOURCE)
    assert _ends(kept_visibility(warehouse, SOURCE, 0)) == [[*range(1, 100), *range(500, 510)]]


def test_the_instant_at_which_a_version_landed_is_kept(project: Project, clock: SimulatedClock) -> None:
    view = project.definitions.views["shop_daily"]
    append(project, [event(1, at=T0 - MINUTE)], arrived_at=T0)
    for hours in (3, 4):
        clock.move_to(T0 + hours * 60 * MINUTE)
        land_version(project, view, T0)
        archive_sources(project, [view])
    found = [(one.boundary - T0, one.landed_at - T0, one.ends) for one in kept_landings(project.warehouse, view)]
    assert found == [(0, 180 * MINUTE, (1,)), (0, 240 * MINUTE, (1,))]
