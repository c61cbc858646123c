"""A log that was cut behind what a changed view needs: it is told before and during the build, what answers goes on."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.shop import MINUTE, T0, event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.filling import fillings
from trilane.apps.project import Project
from trilane.apps.rebuild import rebuilds
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.features.view import View

HOURS = 60 * MINUTE
NOW = T0 + 24 * HOURS
COUNT = 360
LEFT = 240  # minutes of which the log still has the events
LIVE = '"sum_1h": tl.sum("amount", window="1h")'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project whose log had an event a minute for six hours, and has those of the last four."""
    with make_project(tmp_path, clock=SimulatedClock(NOW)) as project:
        for number in range(COUNT):
            at = NOW - (COUNT - number) * MINUTE
            project.log.append("orders", 0, [event(number, at=at, amount=1.0)], at)
        worker = Worker(project)
        while worker.step():
            pass
        worker.step()
        worker.close()
    [path] = (tmp_path / ".trilane").rglob("orders.sqlite")
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM chunk WHERE key < ?", (COUNT - LEFT,))
    connection.commit()
    connection.close()
    return tmp_path


def _redefined(folder: Path, window: str) -> Project:
    path = folder / "definitions.py"
    path.write_text(path.read_text().replace(LIVE, f'"sum_long": tl.sum("amount", window="{window}")'))
    return Project(load_config(folder, environment={}), clock=SimulatedClock(NOW))


def _lacking(project: Project) -> list[str]:
    found = deploy.plan(project)
    built = rebuilds(project, project.working, deploy.costs(project, found.changes))
    return [lack for one in built for lack in one.lacking]


def _value(project: Project, view: View, name: str) -> float:
    [rows] = project.online.read([(view.space, [encode_key(("a",)) or b""])])
    place = [feature.name for feature in view.features].index(name)
    return float(TileLayout(view).read(rows, np.array([NOW]))[0][place])


def test_what_a_log_still_has_is_enough_for_a_shorter_window(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with _redefined(folder, "3h") as project:
        assert _lacking(project) == []
        deploy.apply(project)
        worker = Worker(project)
        while worker.step():
            pass
        worker.close()
        assert _value(project, project.definitions.views["shop_now"], "sum_long") == 180
    assert "built from less" not in caplog.text


def test_a_view_that_needs_more_than_the_log_retains_is_told_of_before_and_while_it_is_built(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Project(load_config(folder, environment={}), clock=SimulatedClock(NOW)) as project:
        live = project.definitions.views["shop_now"]
        before = _value(project, live, "sum_1h")
    with _redefined(folder, "6h") as project:
        [lack] = _lacking(project)
        assert "orders/0 was cut: it begins with the event 120, which arrived at 2026-03-02T20:00:00Z" in lack
        assert "a window reaches back to 2026-03-02T18:00:00Z" in lack
        deploy.apply(project, hold=True)
        worker = Worker(project)
        worker._tools = replace(worker._tools, limit=50)  # so that the build has a middle
        worker.step()
        [building] = fillings(project, [project.definitions.views["shop_now"]])
        assert not building.filled
        assert building.fault == lack, "and so `trilane status` tells it"
        assert "shop_now is built from less than its windows reach: the log of orders/0 was cut" in caplog.text
        while worker.step():
            pass
        worker.close()
        assert _value(project, project.definitions.views["shop_now"], "sum_long") == LEFT
        assert _value(project, live, "sum_1h") == before == 60, "what answers is untouched"
