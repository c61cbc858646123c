from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import trilane as tl
from trilane.clock import SECOND, format_instant
from trilane.lanes.batch.archive import archive
from trilane.sources.event import EventSource
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbWarehouse

SOURCE = EventSource(
    "s",
    schema={"id": tl.String, "at": tl.Timestamp, "x": tl.Float64 | None},
    event_time="at",
    event_id="id",
    disorder="10s",
    future="5s",
    partitions=2,
)


class Place:
    """A log and a warehouse in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.log = SqliteLog(folder / "log", full_sync=False)
        self.warehouse = DuckdbWarehouse(folder / "warehouse")

    def append(self, *events: tuple[str, int] | bytes, partition: int = 0, arrived: int = 1_000) -> None:
        values = [e if isinstance(e, bytes) else event(*e) for e in events]
        self.log.append(SOURCE.name, partition, values, arrived * SECOND)

    def archive(self, limit: int = 200_000) -> int:
        return archive(self.log, self.warehouse, SOURCE, limit=limit)

    def rows(self) -> list[tuple[object, ...]]:
        columns = f'id, epoch_us("at") // {SECOND} AS s, _partition, _offset, _late'
        with self.warehouse.connect(threads=1) as connection:
            sql = f"SELECT {columns} FROM {self.warehouse.events_sql(SOURCE)} ORDER BY _partition, _offset"
            return connection.query(sql).fetchall()

    def ids(self) -> list[object]:
        return [row[0] for row in self.rows()]


def event(name: str, second: int) -> bytes:
    return msgspec.json.encode({"id": name, "at": format_instant(second * SECOND), "x": None})


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.log.close()


def test_what_the_log_holds_is_archived_once(place: Place) -> None:
    place.append(("a", 100), ("b", 101))
    assert (place.archive(), place.archive()) == (2, 0)
    place.append(("c", 102))
    assert place.archive() == 1
    assert place.ids() == ["a", "b", "c"]


def test_arrival_partition_and_offset_are_kept(place: Place) -> None:
    place.append(("a", 100))
    place.append(("b", 100), ("c", 101), partition=1)
    place.archive()
    assert [row[2:4] for row in place.rows()] == [(0, 0), (1, 0), (1, 1)]


def test_rejected_events_are_left_out_and_never_read_again(place: Place) -> None:
    place.append(b"{", b'{"id": 5}')
    assert place.archive() == 0
    assert place.warehouse.archived(SOURCE, 0) == 2
    place.append(("a", 100), b"[]", ("b", 101))
    assert place.archive() == 2
    assert [row[3] for row in place.rows()] == [2, 4]


def test_an_event_from_the_far_future_is_left_out_and_makes_no_other_late(place: Place) -> None:
    place.append(("clock", 2_000), ("a", 1_000), ("edge", 1_005))
    place.archive()
    assert [(row[0], row[4]) for row in place.rows()] == [("a", False), ("edge", False)]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_late_events_are_kept_and_marked_wherever_the_files_are_cut(place: Place, limit: int) -> None:
    place.append(("a", 100), ("edge", 90), ("b", 105), ("late", 94), ("on time", 95))
    place.archive(limit)
    assert [(row[0], row[4]) for row in place.rows()] == [
        ("a", False), ("edge", False), ("b", False), ("late", True), ("on time", False),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_a_repeated_event_is_archived_once_wherever_the_files_are_cut(place: Place, limit: int) -> None:
    place.append(("a", 100), ("b", 101), ("a", 100), ("c", 300), ("b", 101), ("c", 300), ("c", 300))
    assert place.archive(limit) == 3
    assert place.ids() == ["a", "b", "c"]


def test_an_id_that_comes_again_long_after_is_another_event(place: Place) -> None:
    place.append(("a", 100), ("a", 111), ("a", 120))
    place.append(("a", 400))
    place.archive(limit=3)
    assert [row[1] for row in place.rows()] == [100, 111, 400]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_late_event_uses_up_no_id(place: Place, limit: int) -> None:
    place.append(("a", 100), ("b", 85), ("b", 95), ("b", 85), ("b", 95))
    assert place.archive(limit) == 3  # the nearline lane counts b at 95, though it refused it at 85
    assert [(row[0], row[1], row[4]) for row in place.rows()] == [("a", 100, False), ("b", 85, True), ("b", 95, False)]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_repetition_that_is_left_out_hides_no_later_event_wherever_files_are_cut(place: Place, limit: int) -> None:
    place.append(("a", 100))
    place.archive()
    place.append(("a", 108), ("a", 116))
    place.archive(limit)
    assert [row[1] for row in place.rows()] == [100, 116]


def test_partitions_do_not_judge_one_another(place: Place) -> None:
    place.append(("a", 500), partition=0)
    place.append(("b", 100), partition=1)
    place.archive()
    assert [row[4] for row in place.rows()] == [False, False]
