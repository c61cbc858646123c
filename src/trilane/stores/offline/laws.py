"""What every warehouse must do, as checks that anybody can run against their own.

Each law takes an empty warehouse and raises AssertionError if it is broken.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from trilane.errors import ConflictError
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Warehouse
from trilane.types import Float64, Int64, String, Timestamp

__all__ = ["LAWS", "Law"]

Law = Callable[[Warehouse], None]

_SOURCE = EventSource(
    "some_events",
    schema={"id": Int64, "at": Timestamp, "who": String | None, "x": Float64 | None},
    event_time="at",
    event_id="id",
)


def an_empty_archive_reads_as_no_rows_of_the_right_types(warehouse: Warehouse) -> None:
    """Before the first event, queries already work."""
    with warehouse.connect(threads=1) as connection:
        found = connection.query(f"SELECT * FROM {warehouse.events_sql(_SOURCE)}").to_arrow_table()
    _same(found.num_rows, 0)
    names = ["id", "at", "who", "x", "_arrived_at", "_partition", "_offset", "_late"]
    _same(found.schema.names, names)
    _same([str(found.schema.field(n).type) for n in ("id", "at", "x")], ["int64", "timestamp[us, tz=UTC]", "double"])
    _same((warehouse.archived(_SOURCE, 0), warehouse.newest(_SOURCE, 0)), (0, None))


def what_was_archived_is_read_back(warehouse: Warehouse) -> None:
    """Values, nulls, instants to the microsecond, and the partition of each row."""
    warehouse.append_events(_SOURCE, _events(0, 3), partition=0, first=0, last=4, newest=77)
    warehouse.append_events(_SOURCE, _events(7, 2), partition=3, first=0, last=1, newest=None)
    _same(warehouse.archived(_SOURCE, 0), 5)
    _same((warehouse.newest(_SOURCE, 0), warehouse.newest(_SOURCE, 3)), (77, None))
    with warehouse.connect(threads=1) as connection:
        rows = connection.query(
            'SELECT id, epoch_us("at"), who, x, _arrived_at, _partition, _offset, _late '
            f"FROM {warehouse.events_sql(_SOURCE)} ORDER BY id"
        ).fetchall()
    expected = [
        (i, 10 * i + 1, None if i % 2 else f"é{i}", i / 2, i + 5, 0 if i < 3 else 3, i, False) for i in (0, 1, 2, 7, 8)
    ]
    _same(rows, expected)


def notes_are_kept_in_order(warehouse: Warehouse) -> None:
    """Under names that may hold slashes; the latest ones can be read alone."""
    _same(warehouse.kept("a/b"), None)
    for first in (0, 2):
        warehouse.keep("a/b", pa.table({"x": [first, first + 1], "y": ["é", None]}))
    warehouse.keep("a", pa.table({"z": [1.5]}))
    found = warehouse.kept("a/b")
    _same(found and found.to_pydict(), {"x": [0, 1, 2, 3], "y": ["é", None, "é", None]})
    latest = warehouse.kept("a/b", latest=True)
    _same(latest and latest.column("x")[-1].as_py(), 3)


def archiving_a_range_again_changes_nothing(warehouse: Warehouse) -> None:
    """So that an archiver that was killed may begin again."""
    for _ in range(2):
        warehouse.append_events(_SOURCE, _events(0, 3), partition=0, first=0, last=2, newest=1)
    _same(_count(warehouse), 3)


def a_range_that_leaves_a_gap_or_overlaps_is_refused(warehouse: Warehouse) -> None:
    """Nothing is lost or doubled silently."""
    warehouse.append_events(_SOURCE, _events(0, 3), partition=0, first=0, last=2, newest=1)
    for first, last in ((4, 5), (2, 5), (0, 1)):
        try:
            warehouse.append_events(_SOURCE, _events(first, 2), partition=0, first=first, last=last, newest=1)
        except ConflictError:
            continue
        raise AssertionError(f"a ConflictError was promised for {first} to {last}")
    _same(_count(warehouse), 3)


def a_relation_stands_for_one_moment(warehouse: Warehouse) -> None:
    """What is archived later changes no result of a relation named before."""
    warehouse.append_events(_SOURCE, _events(0, 3), partition=0, first=0, last=2, newest=1)
    before = warehouse.events_sql(_SOURCE)
    warehouse.append_events(_SOURCE, _events(3, 3), partition=0, first=3, last=5, newest=1)
    with warehouse.connect(threads=1) as connection:
        _same(connection.query(f"SELECT count(*) FROM {before}").fetchall(), [(3,)])
    _same(_count(warehouse), 6)


def a_micro_batch_keeps_the_order_of_its_rows(warehouse: Warehouse) -> None:
    """Also a second time, with another table."""
    engine = warehouse.micro_batch()
    for size in (10_000, 3, 0):
        values = np.random.default_rng(size).permutation(size)
        found = engine.run("SELECT x + 1 AS y FROM events WHERE x % 2 = 0", pa.table({"x": values}))
        _same(found.column("y").to_pylist(), [int(v) + 1 for v in values if v % 2 == 0])


LAWS: tuple[Law, ...] = (
    an_empty_archive_reads_as_no_rows_of_the_right_types,
    what_was_archived_is_read_back,
    notes_are_kept_in_order,
    archiving_a_range_again_changes_nothing,
    a_range_that_leaves_a_gap_or_overlaps_is_refused,
    a_relation_stands_for_one_moment,
    a_micro_batch_keeps_the_order_of_its_rows,
)


def _events(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "at": pa.array([10 * i + 1 for i in numbers], pa.timestamp("us", "UTC")),
            "who": pa.array([None if i % 2 else f"é{i}" for i in numbers], pa.string()),
            "x": pa.array([i / 2 for i in numbers], pa.float64()),
            "_arrived_at": pa.array([i + 5 for i in numbers], pa.int64()),
            "_offset": pa.array(numbers, pa.int64()),
            "_late": pa.array([False] * count, pa.bool_()),
        }
    )


def _count(warehouse: Warehouse) -> object:
    with warehouse.connect(threads=1) as connection:
        return connection.query(f"SELECT count(*) FROM {warehouse.events_sql(_SOURCE)}").fetchall()[0][0]


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"expected {expected!r}, found {found!r}")
