"""Frequent keys are found and spread, and an event takes one way however often it is delivered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SECOND, instant
from trilane.errors import DefinitionError
from trilane.sources.event import EventSource
from trilane.sources.hot_keys import MARGIN, PATIENCE, HotKeys, Shares, partition_of, splits_of
from trilane.sources.log.sqlite import SqliteLog

NOW = instant("2026-03-02T00:00:00Z")
PARTITIONS = 8


def _source(hot_keys: object = (), **options: object) -> EventSource:
    given: dict[str, object] = {"partitions": PARTITIONS, "partition_by": "shop", "hot_keys": hot_keys, **options}
    schema = {"id": tl.String, "shop": tl.String, "at": tl.Timestamp}
    return EventSource("orders", schema=schema, event_time="at", event_id="id", **given)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path)
    yield log
    log.close()


def _warm(door: HotKeys, key: str = "hot", events: int = 3_000) -> None:
    for number in range(events):
        door.place(key if number % 2 else f"cold{number}", f"w{number}", NOW)


@given(st.lists(st.integers(0, 30).map(lambda n: f"k{n % 7 * (n % 3)}"), min_size=1, max_size=300))
def test_a_key_that_is_told_hot_has_more_than_the_share_and_one_with_far_more_is_told(keys: list[str]) -> None:
    shares = Shares(0.2, evidence=1)
    for key in keys:
        shares.add(key)
    counts = Counter(keys)
    told = set(shares.hot())
    assert all(counts[key] > 0.2 * len(keys) for key in told)
    assert {key for key, count in counts.items() if count > 0.3 * len(keys)} <= told


def test_shares_forget_what_was_hot_before() -> None:
    shares = Shares(0.2, memory=1_000, evidence=100)
    for number in range(10_000):
        shares.add("old" if number < 5_000 else f"k{number}")
        assert ("old" in shares.hot()) == (100 <= number + 1 < 6_500) or 5_000 < number < 6_500
    assert len(shares._counts) <= 20


def test_a_declared_key_is_split_from_the_beginning_and_others_stay_together(log: SqliteLog) -> None:
    door = HotKeys(log, _source(["big", 7]))
    assert door.is_due(NOW)
    door.look(NOW)
    assert splits_of(log, "orders") == {"big": 0, "7": 0}
    ways = {key: {door.place(key, f"o{n}", NOW) for n in range(100)} for key in ("big", 7, "small")}
    assert ways == {"big": set(range(8)), 7: set(range(8)), "small": {partition_of("small", 8)}}


def test_a_key_declared_later_is_split_for_events_that_nobody_can_have_seen(log: SqliteLog) -> None:
    log.append("orders", 3, [b"{}"], NOW)
    door = HotKeys(log, _source(["big"]))
    door.look(NOW)
    assert splits_of(log, "orders") == {"big": NOW + door.source.future + MARGIN}


def test_an_event_delivered_again_takes_the_same_way_before_and_after_its_key_is_split(log: SqliteLog) -> None:
    first, second = HotKeys(log, _source()), HotKeys(log, _source())
    events = [(f"o{n}", NOW + n * SECOND // 10) for n in range(1_000)]
    first.look(NOW)
    before = [first.place("hot", one, at) for one, at in events]
    _warm(first)
    first.look(NOW + PATIENCE)
    second.look(NOW + PATIENCE)
    assert "hot" in first.splits
    assert first.splits == second.splits
    since = first.splits["hot"]
    for (one, at), way in zip(events, before, strict=True):
        if at <= NOW + PATIENCE + first.source.future:  # what a door may have let in so far
            assert at < since
            assert first.place("hot", one, at) == second.place("hot", one, at) == way
    assert {second.place("hot", one, since) for one, _ in events} == set(range(PARTITIONS))


def test_of_two_doors_that_split_at_once_the_first_in_the_log_decides(log: SqliteLog) -> None:
    doors = [HotKeys(log, _source()) for _ in range(2)]
    for door in doors:
        door.look(NOW)
        _warm(door)
    doors[0].look(NOW + 2 * PATIENCE)
    doors[1]._offset = 0
    doors[1].look(NOW + PATIENCE)
    assert doors[0].splits == doors[1].splits
    log.append("orders.splits", 0, [b'{"key":"hot","since":5}'], NOW)
    doors[0].look(NOW + 9 * SECOND)
    assert doors[0].splits["hot"] == doors[1].splits["hot"] > 5


@pytest.mark.parametrize("source", [_source(None), _source(partitions=1), _source(["a"], partition_by="id")])
def test_where_nothing_can_be_split_nothing_is_read_or_written(source: EventSource, log: SqliteLog) -> None:
    door = HotKeys(log, source)
    assert not door.is_due(NOW)
    door.look(NOW)
    _warm(door)
    door.look(NOW + SECOND)
    assert not log.sources()
    assert door.place("hot", "x", NOW) == partition_of("hot", source.partitions)


def test_zipf_traffic_leaves_no_partition_with_much_more_than_its_part(log: SqliteLog) -> None:
    random = np.random.default_rng(5)
    weights = np.arange(1, 5_001) ** -1.3
    keys = random.choice(5_000, 60_000, p=weights / weights.sum()).tolist()
    door = HotKeys(log, _source())
    parts = np.zeros(PARTITIONS)
    for number, key in enumerate(keys):
        now = NOW + number * SECOND // 500
        if door.is_due(now):
            door.look(now)
        if number >= 45_000:
            parts[door.place(f"s{key}", f"o{number}", now)] += 1
        else:
            door.place(f"s{key}", f"o{number}", now)
    whole = np.bincount([partition_of(f"s{key}", PARTITIONS) for key in keys[45_000:]]).max() / 15_000
    assert whole > 0.3
    assert parts.max() / parts.sum() < 1.5 / PARTITIONS


def test_hot_keys_are_a_list() -> None:
    with pytest.raises(DefinitionError, match="one text"):
        _source("big")
    assert "hot_keys" not in _source().spec()
    assert _source(["b", 1]).spec()["hot_keys"] == ["b", "1"]
