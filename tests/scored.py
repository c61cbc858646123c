"""A trained and deployed shop with events on its lanes, and rows to score: what tests of bulk scoring share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import deploy, training_job
from trilane.apps.batch_job import archive_sources, land_version
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock, duration

__all__ = ["NOW", "make_scored_shop", "write_rows"]

NOW = T0 + duration("1d") + 6 * 60 * MINUTE  # the day before has landed


def make_scored_shop(folder: Path) -> Project:
    """The project, `is_big` deployed; its clock stands at `NOW`."""
    clock = SimulatedClock(NOW)
    project = make_project(folder, clock=clock)
    for number in range(150):
        at = T0 + number * 12 * MINUTE
        append(project, [event(number, shop="abc"[number % 3], at=at, amount=float(number % 17))], arrived_at=at)
    worker = Worker(project)
    while worker.step():
        pass
    worker.close()
    views = project.definitions.views
    archive_sources(project, list(views.values()))
    land_version(project, views["shop_daily"], T0 + duration("1d"))
    training_job.train(project, "big")
    deploy.apply(project)
    return project


def write_rows(path: Path, rows: int, *, seed: int = 3, group: int = 50) -> pa.Table:
    """Rows of `shop` and `basket`, and `asked_at` within the last day before `NOW`."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "note": [f"row {seed}/{number}" for number in range(rows)],
            "shop": random.choice(["a", "b", "c", "nobody knows"], rows),
            "basket": random.uniform(0, 100, rows).round(2),
            "asked_at": pa.array(NOW - random.integers(0, 86_400, rows) * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return table
