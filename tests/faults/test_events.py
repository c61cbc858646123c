"""Events that must not count cost nobody else anything: each is told by its code, counted, and kept as it came."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.scrape import scrape
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock, format_instant
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.batch.archive import archive

HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
NOW = T0 + 2 * DAY

Open = Callable[..., Project]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Makes a project, with a part of its definitions written otherwise, and opens it."""
    projects: list[Project] = []

    def open_(old: str = "", new: str = "", *, name: str = "shop") -> Project:
        folder = tmp_path / name
        make_project(folder, apply=False).close()
        definitions = folder / "definitions.py"
        text = definitions.read_text()
        assert old in text
        definitions.write_text(text.replace(old, new, 1))
        projects.append(Project(load_config(folder, environment={}), clock=SimulatedClock(NOW)))
        deploy.apply(projects[-1])
        return projects[-1]

    yield open_
    for project in projects:
        project.close()


def _applied(project: Project, values: Sequence[bytes], *, each: int = 1_000_000, arrived_at: int = NOW) -> None:
    """Takes events, `each` in a log's batch, and lets a worker of its own apply each batch."""
    for start in range(0, len(values), each):
        append(project, values[start : start + each], arrived_at=arrived_at)
        worker = Worker(project)
        while worker.step():
            pass
        worker.close()


def _rows(project: Project) -> dict[bytes, bytes]:
    return dict(project.online.scan(project.definitions.views["shop_now"].space))


def _features(project: Project, shop: str, at: int) -> dict[str, float]:
    view = project.definitions.views["shop_now"]
    [[row]] = project.online.read([(view.space, [encode_key((shop,)) or b""])])
    values = TileLayout(view).read([row], np.array([at]))[0].tolist()
    return dict(zip(view.feature_names, values, strict=True))


def _good(number: int = 60) -> list[bytes]:
    return [event(n, shop="ab"[n % 2], at=NOW - HOUR + n * MINUTE, amount=n / 8) for n in range(number)]


def _mixed(good: Sequence[bytes], bad: Sequence[bytes]) -> list[bytes]:
    """The bad ones spread evenly among the good."""
    found = list(good)
    for number, one in enumerate(bad):
        found.insert((2 * number + 1) * len(found) // (2 * len(bad)), one)
    return found


@pytest.mark.parametrize("each", [23, 1_000])
def test_a_producer_an_hour_ahead_and_one_a_day_behind_harm_nobody_else(opened: Open, each: int) -> None:
    alone, together = opened(name="alone"), opened(name="together")
    ahead = [event(1_000 + n, shop="ahead", at=NOW + HOUR + n) for n in range(5)]
    behind = [event(2_000 + n, shop="behind", at=NOW - DAY - HOUR + n) for n in range(5)]
    first = event(999, shop="a", at=NOW - HOUR - MINUTE)  # whoever comes first is on time, and sets the watermark
    _applied(alone, [first, *_good()], each=each)
    _applied(together, [first, *_mixed(_good(), _mixed(ahead, behind))], each=each)
    assert _rows(together) == _rows(alone)
    metric = scrape(together)
    assert metric("trilane_lane_events", source="orders", fate="future") == 5
    assert metric("trilane_lane_events", source="orders", fate="late") == 5
    assert metric("trilane_lane_events", source="orders", fate="applied") == 61
    assert metric("trilane_dead_letters", source="orders", code="late", state="refused") == 5
    reasons = {letter.code: letter.reason for letter in together.dead_letters.read("orders")}
    assert "further in the future than the source allows" in reasons["future"]
    assert "later than the source's disorder allows" in reasons["late"]


def test_an_event_counts_once_in_its_batch_across_batches_and_after_a_restart_and_never_past_the_horizon(
    opened: Open,
) -> None:
    project = opened()
    again = event(7, at=NOW - HOUR)
    _applied(project, [again, again])  # in one batch
    _applied(project, [again, again], each=1)  # across batches, each with a worker of its own
    assert scrape(project)("trilane_lane_events", fate="duplicate") == 3
    _applied(project, [event(8, at=NOW - HOUR + 11 * MINUTE)])
    _applied(project, [event(9, at=NOW - HOUR + 12 * MINUTE)])  # by now its id is forgotten
    _applied(project, [again])  # and so is its time: what is no longer known as a repetition is late
    metric = scrape(project)
    assert metric("trilane_lane_events", fate="applied") == 3
    assert metric("trilane_lane_events", fate="duplicate") + metric("trilane_lane_events", fate="late") == 4
    assert metric("trilane_lane_events", fate="late") == 1
    assert _features(project, "a", NOW)["sum_1h"] == 3
    source = project.definitions.sources["orders"]
    assert archive(project.log, project.warehouse, source, limit=2) == 3  # nor does it count in the other lanes
    with project.warehouse.connect(threads=1) as connection:
        sql = f"SELECT order_id, _late FROM {project.warehouse.events_sql(source)} ORDER BY _offset"
        assert connection.query(sql).fetchall() == [("o7", False), ("o8", False), ("o9", False)]


def test_an_id_that_two_keys_use_counts_for_each_of_their_partitions(opened: Open) -> None:
    project = opened('event_id="order_id"', 'event_id="order_id", partitions=2')
    for partition, shop in enumerate("ab"):
        one = event(1, shop=shop, at=NOW - MINUTE)
        project.log.append("orders", partition, [one, one], NOW)
    worker = Worker(project)
    while worker.step():
        pass
    worker.close()
    metric = scrape(project)
    assert metric("trilane_lane_events", fate="applied") == 2
    assert metric("trilane_lane_events", fate="duplicate") == 2


def _order(**changed: object) -> bytes:
    return json.dumps({**json.loads(event(5, at=NOW - MINUTE)), **changed}).encode()


POISON = {
    "no json": (b"not json", "json"),
    "half an event": (event(1, at=NOW)[:-9], "json"),
    "nothing": (b"", "json"),
    "a field of another type": (_order(shop=7), "type"),
    "a field too few": (b'{"order_id": "x"}', "type"),
    "deeply nested": (b'{"order_id": ' + b"[" * 200_000, "type"),
    "deeply nested beside": (b'{"more": ' + b"[" * 200_000, "json"),
    "bytes that are no UTF-8": (b'{"order_id": "\xff\xfe", "shop": "a", "at": "2026-03-04T00:00:00Z"}', "json"),
    "zeros": (b"\x00" * 100, "json"),
    "an instant that is none": (_order(at="yesterday"), "type"),
    "a number beyond all": (event(1, at=NOW - MINUTE).replace(b"1.0", b"1e999"), "type"),
}


def test_poison_is_told_by_its_code_and_costs_none_of_its_company(opened: Open) -> None:
    alone, together = opened(name="alone"), opened(name="together")
    _applied(alone, _good())
    bad = [value for value, _ in POISON.values()]
    _applied(together, _mixed(_good(), bad))
    assert _rows(together) == _rows(alone)
    kept = {letter.payload: letter for letter in together.dead_letters.read("orders")}
    assert {name: kept[value].code for name, (value, _) in POISON.items()} == {
        name: code for name, (_, code) in POISON.items()
    }
    assert all(letter.reason for letter in kept.values())
    metric = scrape(together)
    codes = [code for _, code in POISON.values()]
    for code in set(codes):
        assert metric("trilane_lane_events", source="orders", fate=code) == codes.count(code)
    assert archive(together.log, together.warehouse, together.definitions.sources["orders"]) == 60


def test_giant_and_odd_but_sound_values_count(opened: Open) -> None:
    project = opened()
    giant = "g" * 5_000_000
    odd = [_order(order_id=giant), _order(order_id="nul\x00nul"), _order(order_id="nul\x00")]
    odd += [_order(order_id="🜁"), _order(order_id="")]
    _applied(project, [*odd, *odd])
    metric = scrape(project)
    assert metric("trilane_lane_events", fate="applied") == len(odd)
    assert metric("trilane_lane_events", fate="duplicate") == len(odd)
    assert project.dead_letters.count() == {}
    assert archive(project.log, project.warehouse, project.definitions.sources["orders"]) == len(odd)


def test_a_key_longer_than_the_store_takes_counts_and_hinders_nobody(opened: Open) -> None:
    alone, together = opened(name="alone"), opened(name="together")
    _applied(alone, _good())
    at = format_instant(NOW - HOUR)
    odd = [_order(shop=shop, order_id=f"x{len(shop)}", at=at) for shop in ("s" * 99_999, "0\x00")]
    _applied(together, [*odd, *_good()])
    rows = _rows(together)
    assert {key: rows[key] for key in _rows(alone)} == _rows(alone)
    assert scrape(together)("trilane_partition_failing", source="orders") == 0
    assert _features(together, "0\x00", NOW)["sum_1h"] == 1
    assert _features(together, "s" * 99_999, NOW)["sum_1h"] == 1


def test_a_transform_that_fails_on_an_event_costs_that_event_in_its_view_alone(opened: Open) -> None:
    fails = "orders.mutate(amount=orders.order_id.cast('float64'))"
    project = opened("orders.filter(orders.amount.isnull() | (orders.amount >= 0))", fails)
    good = [_order(order_id=str(n), shop="ab"[n % 2]) for n in range(100)]
    bad = [_order(order_id=name) for name in ("one", "two", "three")]
    _applied(project, _mixed(good, bad))
    assert _features(project, "a", NOW)["sum_1h"] == sum(range(0, 100, 2))
    assert _features(project, "b", NOW)["sum_1h"] == sum(range(1, 100, 2))
    letters = {json.loads(one.payload)["order_id"]: one for one in project.dead_letters.read("orders")}
    assert set(letters) == {"one", "two", "three"}
    assert {one.code for one in letters.values()} == {"transform:shop_now"}
    assert "Could not convert" in letters["one"].reason
    metric = scrape(project)
    assert metric("trilane_dead_letters", source="orders", code="transform:shop_now") == 3
    assert metric("trilane_partition_failing", source="orders") == 0
    # In the archive, where the other views find it, it is.
    assert archive(project.log, project.warehouse, project.definitions.sources["orders"]) == 103


def test_events_of_an_older_and_a_newer_schema_interleave(opened: Open) -> None:
    project = opened("    amount: tl.Float64 | None\n", "    amount: tl.Float64 | None\n    tip: tl.Int64 | None\n")
    tipped = [_order(order_id=f"t{n}", tip=n) for n in range(30)]
    wrong = [_order(order_id=f"w{n}", tip="much") for n in range(3)]
    newer = [_order(order_id=f"n{n}", tip=1, channel="web") for n in range(3)]  # a field that nobody declared yet
    older = [_order(order_id=f"o{n}") for n in range(30)]
    _applied(project, _mixed(older, [*tipped, *wrong, *newer]), each=11)
    metric = scrape(project)
    assert metric("trilane_lane_events", fate="applied") == 63
    assert metric("trilane_lane_events", fate="type") == 3
    assert {letter.path for letter in project.dead_letters.read("orders")} == {"$.tip"}
    source = project.definitions.sources["orders"]
    archive(project.log, project.warehouse, source, limit=7)
    with project.warehouse.connect(threads=1) as connection:
        sql = f"SELECT count(*), count(tip), sum(tip) FROM {project.warehouse.events_sql(source)}"
        assert connection.query(sql).fetchall() == [(63, 33, sum(range(30)) + 3)]


def test_more_disorder_than_promised_is_told_with_the_time_of_the_event(opened: Open) -> None:
    project = opened()
    _applied(project, [event(1, at=NOW - 1), event(2, at=NOW - 11 * MINUTE), event(3, at=NOW - 9 * MINUTE)])
    [letter] = project.dead_letters.read("orders")
    assert (letter.code, letter.path) == ("late", "$.at")
    assert json.loads(letter.payload)["at"] == format_instant(NOW - 11 * MINUTE)
    assert scrape(project)("trilane_lane_events", fate="late") == 1
    assert _features(project, "a", NOW)["sum_1h"] == 2
