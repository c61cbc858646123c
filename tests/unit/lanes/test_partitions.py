"""Several partitions write rows of their own, and a read merges them to the bits that one partition gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.shop import MINUTE, T0, event, make_project
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.rows import applied, is_of, shard_keys, shards_of, stamp, unstamp

NOW = T0 + 60 * MINUTE
SHOPS = "abc"


def _project(folder: Path, partitions: int, *, partition_by: str = "order_id") -> Project:
    with make_project(folder, apply=False):
        definitions = folder / "definitions.py"
        extra = f'event_id="order_id", partitions={partitions}, partition_by="{partition_by}"'
        definitions.write_text(definitions.read_text().replace('event_id="order_id"', extra))
    from trilane.apps import deploy
    from trilane.apps.config import load_config

    project = Project(load_config(folder, environment={}), clock=SimulatedClock(NOW))
    deploy.apply(project)
    return project


def _values(project: Project, events: list[tuple[str, bytes]], partitions: int) -> np.ndarray:
    for number, (_, text) in enumerate(events):
        project.log.append("orders", number % partitions, [text], NOW)
    worker = Worker(project)
    while worker.step():
        pass
    view = project.definitions.views["shop_now"]
    keys = [encode_key((shop,)) or b"" for shop in SHOPS]
    [rows] = project.online.read([(view.space, shards_of(keys, partitions))])
    return TileLayout(view).read(rows, np.full(len(keys), NOW), shards=partitions)


@pytest.mark.parametrize("partitions", [2, 3])
def test_three_partitions_give_the_bits_that_one_gives(partitions: int, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    events = []
    for number in range(600):
        shop, amount = str(random.choice(list(SHOPS))), float(random.normal(0, 1e6))
        at = NOW - int(random.integers(1, 3_600)) * SECOND
        events.append((shop, event(number, shop=shop, at=max(at, NOW - 9 * MINUTE), amount=amount)))
    with _project(tmp_path / "one", 1) as one, _project(tmp_path / "more", partitions) as more:
        single, several = _values(one, events, 1), _values(more, events, partitions)
    assert single.tobytes() == several.tobytes()
    assert not np.isnan(single).all()


def test_rows_of_partitions_have_names_of_their_own() -> None:
    keys = [b"a", b"b"]
    written = [shard_keys(keys, partition, 2) for partition in range(2)]
    assert sorted(key for part in written for key in part) == sorted(shards_of(keys, 2))
    assert all(is_of(key, partition, 2) for partition, part in enumerate(written) for key in part)
    assert shard_keys(keys, 0, 1) == shards_of(keys, 1) == keys


def test_a_stamp_says_what_is_applied_and_comes_off() -> None:
    stored = stamp(b"tiles", 41)
    assert (applied(stored), applied(None)) == (41, 0)
    assert unstamp([stored, None]) == [b"tiles", None]
