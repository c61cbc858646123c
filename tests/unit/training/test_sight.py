"""What serving could see at an instant, from what was recorded and where nothing was."""

from __future__ import annotations

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

import trilane as tl
from trilane.clock import SECOND
from trilane.lanes.batch.landings import Landing
from trilane.lanes.visibility import RECORD
from trilane.stores.offline.duckdb import DuckdbWarehouse
from trilane.training.past import Past
from trilane.training.sight import NEVER, LaneSight, VersionSight

SOURCE = tl.EventSource(
    "e", schema={"id": tl.Int64, "at": tl.Timestamp, "who": tl.String}, event_time="at", event_id="id"
)
HOUR = 3_600 * SECOND


@tl.batch(SOURCE, tl.Entity("who", who=tl.String), features={"n": tl.count(window="1d")}, schedule="1h", landing="20m")
def hourly(events: ibis.Table) -> ibis.Table:
    return events


@tl.nearline(
    SOURCE,
    tl.Entity("who", who=tl.String),
    freshness="1m",
    features={"n": tl.count(window="1d")},
    schedule="1h",
    landing="20m",
    tail="2h",
)
def past(events: ibis.Table) -> ibis.Table:
    return events


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def lane(*parts: list[tuple[int, ...]]) -> LaneSight:
    return LaneSight([[np.array(part, RECORD) for part in parts]])


def test_an_event_is_readable_from_the_first_record_that_has_its_offset_and_its_time() -> None:
    sight = lane([(10, 2, 10, 10, 10), (20, 3, 12, 20, 25), (30, 3, 30, 30, 30)])
    offsets, times = ints(0, 1, 2, 2, 3), ints(5, 9, 11, 15, 9)
    assert sight.visible(ints(), offsets, times).tolist() == [10, 10, 20, 30, NEVER]


def test_the_age_is_that_of_the_slowest_partition() -> None:
    fast, slow = np.array([(10, 1, 10, 40, 40)], RECORD), np.array([(10, 1, 10, 5, 10), (50, 1, 50, 50, 50)], RECORD)
    sight = LaneSight([[fast], [slow]])
    assert sight.ages(ints(5, 10, 30, 45, 50)).tolist() == [0, 5, 25, 40, 10]


def test_before_the_first_record_and_where_records_are_missing_nothing_is_known() -> None:
    sight = lane([(10, 1, 10, 10, 20)], [(50, 9, 50, 50, 50)])
    assert sight.known(ints(9, 10, 20, 21, 49, 50, 99)).tolist() == [False, True, True, False, False, True, True]
    assert not lane().known(ints(1)).any()
    assert not LaneSight([]).partitions


def test_the_version_that_answered_is_the_latest_that_was_due_and_there() -> None:
    landings = [
        Landing(0, 20, 15, (4,)),  # done before it was due
        Landing(100, 120, 190, (5,)),  # late
        Landing(0, 20, 195, (6,)),  # landed again
    ]
    sight = VersionSight(hourly, landings, *_answering(landings))
    assert sight.landing(ints(10, 15, 20, 150, 190, 196)).tolist() == [-2, -2, 0, 0, 1, 1]


def _answering(landings: list[Landing]) -> tuple[np.ndarray, np.ndarray]:
    from trilane.training import sight

    moments = sorted({at for one in landings for at in (one.landed_at, one.visible_from)})
    return ints(*moments), sight.answering(landings, moments, sight._latest)


def test_without_records_the_declared_landing_counts(tmp_path: Path) -> None:
    sight = VersionSight.of(DuckdbWarehouse(tmp_path), hourly)
    asked = ints(HOUR + 19 * 60 * SECOND, HOUR + 20 * 60 * SECOND)
    landing = sight.landing(asked)
    assert landing.tolist() == [-2, -2]
    assert sight.boundaries(asked, landing).tolist() == [0, HOUR]


def test_notes_of_another_view_are_not_read(tmp_path: Path) -> None:
    warehouse = DuckdbWarehouse(tmp_path)
    warehouse.keep("landings/other", pa.table({"space": ["x"]}))
    assert not VersionSight.of(warehouse, hourly).landings


def noted(tmp_path: Path, *landings: dict[str, object]) -> Past:
    warehouse = DuckdbWarehouse(tmp_path)
    for landing in landings:
        row = {"space": "s", "visible_from": 0, "ends": [1], **landing}
        warehouse.keep(f"landings/{past.landed_as}", pa.table({name: [value] for name, value in row.items()}))
    return Past.of(warehouse, past)


def test_a_history_answers_from_its_landing_up_to_its_tail(tmp_path: Path) -> None:
    sight = noted(tmp_path, {"boundary": HOUR, "landed_at": 2 * HOUR, "final": True})
    asked = ints(2 * HOUR - 1, 2 * HOUR, 3 * HOUR, 3 * HOUR + 1)
    assert sight.landing(asked, np.ones(4, bool)).tolist() == [-1, 0, 0, -1]
    # Where nothing is known of the lane before the first landing, nothing is known of histories either.
    assert sight.landing(asked, np.zeros(4, bool)).tolist() == [-2, 0, 0, -1]


def test_a_history_that_lacked_events_gives_way_to_a_final_one_of_before_it(tmp_path: Path) -> None:
    final: dict[str, object] = {"boundary": HOUR, "landed_at": 2 * HOUR}  # noted when nothing said whether it was final
    sight = noted(tmp_path, final, {"boundary": 2 * HOUR, "landed_at": 2 * HOUR + 1, "final": False})
    known = np.ones(3, bool)
    assert sight.landing(ints(2 * HOUR + 1, 3 * HOUR, 3 * HOUR + 1), known).tolist() == [0, 0, 1]
    assert [one.final for one in sight.landings] == [True, False]


def test_without_any_history_none_answered_while_the_lane_was_on_record(tmp_path: Path) -> None:
    sight = Past.of(DuckdbWarehouse(tmp_path), past)
    assert sight.landing(ints(5, 9), np.array([True, False])).tolist() == [-1, -2]


def test_how_far_each_partition_was_read_is_told_by_its_last_record() -> None:
    sight = lane([(10, 2, 10, 10, 10), (20, 3, 12, 20, 25)])
    assert sight.ends(0, ints(9, 10, 19, 20, 99)).tolist() == [0, 2, 2, 3, 3]
