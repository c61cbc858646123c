"""On Zipf traffic the partitions get alike, and every count is exact, whenever keys are split and events repeated."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from tests.shop import MINUTE, T0, event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.rows import shards_of
from trilane.sources.hot_keys import HotKeys
from trilane.sources.ingest import sort_events

PARTITIONS, EVENTS, PORTION, SHOPS = 8, 12_000, 200, 200


def _project(folder: Path, clock: SimulatedClock) -> Project:
    with make_project(folder, apply=False):
        definitions = folder / "definitions.py"
        extra = f'event_id="order_id", partitions={PARTITIONS}, partition_by="shop", hot_keys=["s1"]'
        definitions.write_text(definitions.read_text().replace('event_id="order_id"', extra))
    project = Project(load_config(folder, environment={}), clock=clock)
    deploy.apply(project)
    return project


def test_no_update_is_lost_or_counted_twice_while_keys_are_split_in_mid_stream(tmp_path: Path) -> None:
    chance, clock = random.Random(3), SimulatedClock(T0)
    weights = np.arange(1, SHOPS + 1) ** -1.3
    shops = np.random.default_rng(3).choice(SHOPS, EVENTS, p=weights / weights.sum()).tolist()
    with _project(tmp_path, clock) as project:
        source = project.definitions.sources["orders"]
        doors = [HotKeys(project.log, source) for _ in range(2)]
        texts: list[bytes] = []
        for start in range(0, EVENTS, PORTION):
            clock.move_to(T0 + start * SECOND // 40)
            for number in range(start, start + PORTION):
                at = clock.now() - chance.randint(0, 30) * SECOND
                texts.append(event(number, shop=f"s{shops[number]}", at=at))
            # Any door may get an event, and one of the last minutes comes again by any other.
            again = chance.sample(texts[-20 * PORTION :], PORTION)
            coming = [(chance.randrange(2), text) for text in (*texts[-PORTION:], *again)]
            for number, door in enumerate(doors):
                if door.is_due(clock.now()):
                    door.look(clock.now())
                found = sort_events(
                    source, [text for sent_to, text in coming if sent_to == number], door, now=clock.now()
                )
                for partition, values in found.accepted.items():
                    project.log.append("orders", partition, values, clock.now())
        clock.move_to(clock.now() + SECOND)  # the last have happened, too
        worker = Worker(project)
        while worker.step():
            pass
        view = project.definitions.views["shop_now"]
        keys = [encode_key((f"s{shop}",)) or b"" for shop in range(SHOPS)]
        [rows] = project.online.read([(view.space, shards_of(keys, PARTITIONS))])
        asked = np.full(SHOPS, clock.now() + MINUTE)
        sums = TileLayout(view).read(rows, asked, shards=PARTITIONS)[:, view.feature_names.index("sum_1h")]
        splits = {door: set(door.splits) for door in doors}
        applied = [one.progress for holding in worker._holdings.values() for one in holding.consumers]
        worker.close()
    assert np.nan_to_num(sums).tolist() == np.bincount(shops, minlength=SHOPS).tolist()  # each order is of one euro
    assert sum(progress.applied for progress in applied) == EVENTS
    assert sum(progress.duplicates for progress in applied) == EVENTS
    assert all({"s0", "s1", "s2"} <= found for found in splits.values())
