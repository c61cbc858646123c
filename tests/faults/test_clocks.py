"""A wall clock that is set back, or far ahead: what is served tells its age, and nothing waits for the old time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.scrape import scrape
from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.batch_job import archive_sources
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout

HOUR = 60 * MINUTE
NOW = T0 + 24 * HOUR


class Steps:
    """A clock that may be set to any instant, as a machine's may."""

    def __init__(self, at: int) -> None:
        self.at = at

    def now(self) -> int:
        return self.at


def _drain(worker: Worker) -> None:
    while worker.step():
        pass


def _sum(project: Project, at: int) -> float:
    view = project.definitions.views["shop_now"]
    [[row]] = project.online.read([(view.space, [encode_key(("a",)) or b""])])
    return float(TileLayout(view).read([row], np.array([at]))[0, view.feature_names.index("sum_1h")])


def test_a_lane_takes_back_what_it_said_by_a_clock_that_was_set_back(tmp_path: Path) -> None:
    clock = Steps(NOW)
    with make_project(tmp_path, clock=clock) as project:
        worker = Worker(project)
        append(project, [event(1, at=NOW - MINUTE)], arrived_at=NOW)
        _drain(worker)
        clock.at = NOW - HOUR
        _drain(worker)
        assert scrape(project)("trilane_partition_lag_seconds", source="orders") == 0
        worker.close()  # it dies; had it not taken back that it knows all up to the old time, nobody would see it
        clock.at += 5 * MINUTE
        assert scrape(project)("trilane_partition_lag_seconds", source="orders") == 300


def test_events_that_arrive_after_the_clock_was_set_back_count_as_ever(tmp_path: Path) -> None:
    clock = Steps(NOW)
    with make_project(tmp_path, clock=clock) as project:
        worker = Worker(project)
        append(project, [event(1, at=NOW - 2 * MINUTE)], arrived_at=NOW)
        _drain(worker)
        clock.at = NOW - MINUTE
        append(project, [event(2, at=NOW - 90 * 1_000_000), event(1, at=NOW - 2 * MINUTE)], arrived_at=clock.at)
        _drain(worker)
        assert _sum(project, clock.at) == 2
        clock.at = NOW - HOUR  # so far that what is right by the old clock is from the future by this one
        append(project, [event(3, at=NOW)], arrived_at=clock.at)
        _drain(worker)
        worker.close()
        metric = scrape(project)
        assert metric("trilane_lane_events", fate="future") == 1
        assert metric("trilane_lane_events", fate="duplicate") == 1
        assert metric("trilane_partition_failing", source="orders") == 0
        assert archive_sources(project, list(project.live_views().values())) == 2


def test_an_event_that_waits_for_its_time_survives_a_step_back_and_counts_once(tmp_path: Path) -> None:
    clock = Steps(NOW)
    with make_project(tmp_path, clock=clock) as project:
        worker = Worker(project)
        append(project, [event(1, at=NOW + 20 * 1_000_000)], arrived_at=NOW)
        for at in (NOW, NOW - HOUR, NOW + 30 * 1_000_000, NOW - HOUR, NOW + MINUTE):
            clock.at = at
            _drain(worker)
        worker.close()
        assert _sum(project, clock.at) == 1
        assert scrape(project)("trilane_lane_events", fate="applied") == 1
