"""Changes in the nearline lane: their order, their repetitions, and those that come to nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest

import trilane as tl
from trilane.clock import SECOND, SimulatedClock, duration, format_instant, instant
from trilane.features.entity import encode_key
from trilane.features.plan import FeaturePlan
from trilane.features.tile import TileLayout
from trilane.features.view import View
from trilane.lanes.batch.archive import archive
from trilane.lanes.batch.materialize import materialize
from trilane.lanes.nearline import Consumer, Tools
from trilane.sources.dead_letters import DeadLetters
from trilane.sources.event import EventSource
from trilane.sources.log.sqlite import SqliteLog
from trilane.stores.offline.duckdb import DuckdbMicroBatch, DuckdbWarehouse
from trilane.stores.offline.protocol import Warehouse
from trilane.stores.offline.spark import open_warehouse
from trilane.stores.online.lmdb import LmdbStore
from trilane.training import values_at

MINUTE, DAY = duration("1m"), duration("1d")
T0 = instant("2026-03-01T12:00:00Z")
CARD = tl.Entity("card", card=tl.String)


class Payment:
    id: tl.String
    card: tl.String
    amount: tl.Float64 | None
    paid_at: tl.Timestamp


class Told(Payment):
    op: tl.String
    changed_at: tl.Timestamp


SOURCE = EventSource("payments", schema=Told, event_time="paid_at", event_id="id", changes=tl.Changes(delete="undo"))


@tl.nearline(
    SOURCE,
    CARD,
    freshness="1m",
    features={
        "n": tl.count(window="1h"),
        "sum": tl.sum("amount", window="1h"),
        "fresh": tl.decayed_sum("amount", half_life="5m"),
    },
)
def recent(events: ibis.Table) -> ibis.Table:
    return events


def told(op: str, amount: float | None, *, changed: int, paid: int = T0, card: str = "a", name: str = "p1") -> bytes:
    times = {"paid_at": format_instant(paid), "changed_at": format_instant(changed)}
    return json.dumps({"id": name, "card": card, "amount": amount, "op": op, **times}).encode()


class Lane:
    """One partition over real stores."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.log = SimulatedClock(T0 + 30 * DAY), SqliteLog(folder / "log")
        self.store, self.letters = LmdbStore(folder / "online", map_size=1 << 24), DeadLetters(folder / "letters.db")
        self.writer = self.store.writer("nearline")
        self.tools = Tools(
            log=self.log, writer=self.writer, engine=DuckdbMicroBatch(), dead_letters=self.letters, clock=self.clock
        )

    def take(self, texts: Sequence[bytes], *, at: int = T0 + DAY, step: int = 200_000) -> Consumer:
        consumer = Consumer(SOURCE, 0, [recent], self.tools)
        for start in range(0, len(texts), step):
            self.log.append("payments", 0, list(texts[start : start + step]), at)
            consumer = Consumer(SOURCE, 0, [recent], self.tools)  # a new one, as after a restart
            while consumer.step().read:
                pass
        return consumer

    def row(self, card: str = "a") -> bytes | None:
        found: bytes | None = self.store.read([(recent.space, [encode_key((card,)) or b""])])[0][0]
        return found

    def values(self, at: int, card: str = "a") -> list[Any]:
        return _values(recent, self.row(card), at)

    def close(self) -> None:
        self.writer.close()
        self.store.close()
        self.log.close()
        self.letters.close()


def _values(view: View, row: bytes | None, at: int) -> list[Any]:
    return [None if v != v else v for v in TileLayout(view).read([row], np.array([at]))[0].tolist()]  # noqa: PLR0124


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[Lane]:
    lane = Lane(tmp_path)
    yield lane
    lane.close()


def test_what_was_taken_back_had_never_been(lane: Lane) -> None:
    lane.take([told("insert", 0.1, changed=T0), told("insert", 7.5, changed=T0 + 1, name="p2")])
    assert lane.values(T0 + MINUTE)[:2] == [2, 7.6]
    lane.take([told("undo", 0.1, changed=T0 + SECOND)])
    assert lane.values(T0 + MINUTE)[:2] == [1, 7.5]
    lane.take([told("undo", 7.5, changed=T0 + SECOND, name="p2")])
    assert lane.values(T0 + MINUTE) == [0, None, None]


def test_the_order_of_changes_changes_no_bit(tmp_path: Path) -> None:
    history = [
        told("insert", 0.1, changed=T0),
        told("undo", 0.1, changed=T0 + SECOND),
        told("insert", 3.7, changed=T0 + SECOND, card="b"),
        told("undo", 3.7, changed=T0 + MINUTE, card="b"),
        told("insert", 1e9 + 0.3, changed=T0 + MINUTE),
    ]
    found = set()
    for number, order in enumerate(itertools.islice(itertools.permutations(history), 0, 120, 7)):
        lane = Lane(tmp_path / str(number))
        lane.take(order, step=1 + number % 5)
        found.add((lane.row("a"), str(lane.values(T0 + MINUTE + 1, "b"))))
        lane.close()
    assert len(found) == 1


def test_a_change_that_is_delivered_again_counts_once_and_two_changes_of_a_row_count_both(lane: Lane) -> None:
    twice = [told("insert", 1.0, changed=T0), told("undo", 1.0, changed=T0 + 1)] * 2
    assert lane.take(twice).progress.duplicates == 2
    both = [told("insert", 2.0, changed=T0 + 2), told("undo", 2.0, changed=T0 + 2), told("insert", 3.0, changed=T0 + 2)]
    assert lane.take(both).progress.duplicates == 2  # as before
    assert lane.values(T0 + MINUTE)[:2] == [1, 3.0]


def test_an_old_row_can_be_changed_and_a_change_that_comes_late_is_refused(lane: Lane) -> None:
    lane.take([told("insert", 1.0, changed=T0), told("insert", 5.0, changed=T0 + 40 * MINUTE, name="p2")])
    consumer = lane.take([told("undo", 1.0, changed=T0 + 30 * MINUTE)])
    assert (consumer.progress.verdicts, lane.values(T0 + 45 * MINUTE)[0]) == ({}, 2 - 1)
    late = lane.take([told("undo", 5.0, changed=T0 + 20 * MINUTE, name="p2")])
    assert late.progress.verdicts == {"late": 1}
    letter = lane.letters.find(1)
    assert letter is not None
    assert (letter.code, letter.path) == ("late", "$.changed_at")


def test_a_change_counts_once_its_event_has_happened_too(lane: Lane) -> None:
    soon = T0 + 30 * DAY + 30 * SECOND
    consumer = lane.take([told("insert", 1.0, changed=soon - MINUTE, paid=soon)], at=soon - 30 * SECOND)
    assert (lane.row(), consumer.progress.early) == (None, soon)


def test_what_no_window_sees_any_more_and_what_never_was_are_counted(lane: Lane) -> None:
    later = T0 + 3 * DAY
    lane.take([told("insert", 1.0, changed=T0)])
    lane.take([told("insert", 5.0, changed=later, paid=later, name="p2")], at=later)
    gone = lane.take([told("undo", 1.0, changed=later)], at=later)
    assert (gone.progress.verdicts, lane.values(later + MINUTE)[:2]) == ({"gone:recent": 1}, [1, 5.0])
    vain = lane.take([told("undo", 6.0, changed=later, paid=later, name="p3", card="b")], at=later)
    assert vain.progress.verdicts["unmatched:recent"] == 2  # the tile of the hour and that of the decay
    assert lane.values(later + MINUTE, "b")[0] == -1


def test_a_view_that_could_not_follow_is_refused_with_the_way_out() -> None:
    with pytest.raises(tl.DefinitionError, match="'most': max cannot take a row back") as refused:

        @tl.nearline(SOURCE, CARD, freshness="1m", features={"most": tl.max("amount", window="1h")})
        def biggest(events: ibis.Table) -> ibis.Table:
            return events

    assert "batch view" in refused.value.remedy
    with pytest.raises(tl.DefinitionError, match="reads 'op', which speaks of the change"):

        @tl.nearline(SOURCE, CARD, freshness="1m", features={"n": tl.count(window="1h")})
        def undone(events: ibis.Table) -> ibis.Table:
            return events.filter(events["op"] == "undo")

    with pytest.raises(tl.DefinitionError, match="a history would not see what is taken back"):

        @tl.nearline(SOURCE, CARD, freshness="1m", features={"n": tl.count(window="30d")}, schedule="1d")
        def long(events: ibis.Table) -> ibis.Table:
            return events


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (tl.Changes(op="kind"), "changes names 'kind' as op="),
        (tl.Changes(at="amount"), "changes names 'amount' as at="),
        (tl.Changes(at="paid_at"), "changes takes 'paid_at', which identifies the row"),
    ],
)
def test_a_source_says_which_fields_tell_changes(changes: tl.Changes, match: str) -> None:
    with pytest.raises(tl.DefinitionError, match=match):
        EventSource("payments", schema=Told, event_time="paid_at", event_id="id", changes=changes)


def test_a_rule_may_not_look_at_what_speaks_of_the_change() -> None:
    known = tl.rule("known op", lambda t: t["op"].isin(["insert", "undo"]))
    with pytest.raises(tl.DefinitionError, match="the rule 'known op' looks at 'op'"):
        EventSource("p", schema=Told, event_time="paid_at", event_id="id", changes=tl.Changes(), rules=[known])


def test_words_that_say_both_or_nothing_are_refused() -> None:
    with pytest.raises(tl.DefinitionError, match="would add and take back"):
        tl.Changes(insert=["x", "y"], delete=["y"])
    with pytest.raises(tl.DefinitionError, match="nothing says"):
        tl.Changes(delete=())


def test_a_source_without_changes_says_nothing_of_them_and_keeps_the_versions_of_its_views() -> None:
    plain = EventSource("payments", schema=Payment, event_time="paid_at", event_id="id")
    assert "changes" not in plain.spec()

    def view(source: EventSource) -> View:
        return tl.nearline(source, CARD, freshness="1m", features={"n": tl.count(window="1h")})(_all)

    told_ = EventSource("payments", schema=Payment, event_time="paid_at", event_id="id", changes=tl.Changes.debezium())
    assert "changes" not in view(plain).spec()
    assert view(plain).version != view(told_).version


def _all(events: ibis.Table) -> ibis.Table:
    return events


def test_files_from_before_a_source_had_changes_are_rows_that_were_added(tmp_path: Path) -> None:
    warehouse = DuckdbWarehouse(tmp_path)
    plain = EventSource("payments", schema=Told, event_time="paid_at", event_id="id")
    log = SqliteLog(tmp_path / "log")
    log.append("payments", 0, [told("insert", 1.0, changed=T0 + SECOND)], T0 + MINUTE)
    archive(log, warehouse, plain)

    def rows() -> list[tuple[object, ...]]:
        sql = f"SELECT _changed_at, _sign, _change <> '' FROM {warehouse.events_sql(SOURCE)} ORDER BY _offset"
        with warehouse.connect() as connection:
            return connection.query(sql).fetchall()

    assert rows() == [(T0, 1, False)]
    log.append("payments", 0, [told("undo", 1.0, changed=T0 + 2 * SECOND)] * 2, T0 + MINUTE)
    archive(log, warehouse, SOURCE)
    assert rows() == [(T0, 1, False), (T0 + 2 * SECOND, -1, True)]
    log.close()


def test_where_the_warehouse_is_on_spark_changes_are_computed_here_to_the_same_values(tmp_path: Path) -> None:
    daily = tl.batch(SOURCE, CARD, features={"most": tl.max("amount", window="1d")}, schedule="1d", landing="1h")(_all)
    log, texts = SqliteLog(tmp_path / "log"), [told("insert", x, changed=T0, name=f"p{x}") for x in (1.0, 5.0)]
    log.append("payments", 0, [*texts, told("undo", 5.0, changed=T0 + 1, name="p5.0")], T0 + MINUTE)
    asks = pa.table({"card": ["a"], "at": pa.array([T0 + DAY], pa.timestamp("us", "UTC"))})
    boundary, found = daily.boundary(T0 + DAY), []
    warehouses: list[Warehouse] = [
        open_warehouse(f"spark://{tmp_path}/spark?master=local[1]"),
        DuckdbWarehouse(tmp_path / "duckdb"),
    ]
    for number, warehouse in enumerate(warehouses):
        archive(log, warehouse, SOURCE)
        store = LmdbStore(tmp_path / f"online{number}", map_size=1 << 24)
        writer = store.writer("batch")
        version = materialize(daily, boundary, warehouse=warehouse, root=tmp_path, writer=writer)
        assert version is not None
        row = store.read([(version.space, [encode_key(("a",)) or b""])])[0][0]
        writer.close()
        store.close()
        plan = FeaturePlan.of([daily], where="here")
        learnt = values_at(plan, asks, event_time="at", warehouse=warehouse, root=tmp_path)
        found += [_values(daily, row, boundary), learnt[0].tolist()]
    assert found == [[1.0]] * 4
    log.close()
