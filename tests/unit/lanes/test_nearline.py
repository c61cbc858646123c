"""The nearline lane over real stores: what it admits, refuses, forgets and keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock
from trilane.features.entity import encode_key
from trilane.features.tile import TileLayout
from trilane.lanes.progress import LANES, Progress, decode, lane_key

LATER = T0 + 700 * MINUTE  # when all that the tests tell has happened


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(LATER)


@pytest.fixture
def project(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    with make_project(tmp_path, clock=clock) as project:
        yield project


def _run(project: Project) -> Worker:
    worker = Worker(project)
    while worker.step():
        pass
    return worker


def _features(project: Project, shop: str, at: int) -> dict[str, float]:
    view = project.definitions.views["shop_now"]
    [[row]] = project.online.read([(view.space, [encode_key((shop,)) or b""])])
    values = TileLayout(view).read([row], np.array([at]))[0].tolist()
    return dict(zip(view.feature_names, values, strict=True))


def _progress(project: Project) -> Progress:
    [[row]] = project.online.read([(LANES, [lane_key("orders", 0)])])
    return decode(row)


def test_events_become_features(project: Project) -> None:
    append(project, [event(1, at=T0, amount=2.0), event(2, at=T0 + MINUTE, amount=4.0)], arrived_at=T0 + MINUTE)
    _run(project)
    found = _features(project, "a", T0 + 2 * MINUTE)
    assert found == {"n_10m": 2, "sum_1h": 6, "mean_1h": 3, "std_1h": 1, "max_10m": 4, "last_1h": 4}


def test_a_repeated_event_counts_once_even_across_a_restart(project: Project) -> None:
    append(project, [event(1, at=T0), event(1, at=T0)], arrived_at=T0)
    first = _run(project)
    first.close()
    append(project, [event(1, at=T0), event(2, at=T0)], arrived_at=T0)
    _run(project)
    assert _features(project, "a", T0 + MINUTE)["n_10m"] == 2
    assert (_progress(project).applied, _progress(project).duplicates) == (2, 2)


def test_bad_late_and_future_events_go_to_the_dead_letters_and_the_rest_counts(project: Project) -> None:
    values = [
        event(1, at=T0),
        b'{"order_id": "x", "shop": 7}',
        b"not json",
        event(2, at=T0 - 11 * MINUTE),
        event(3, at=T0 + 5 * MINUTE),
        event(4, at=T0 - 9 * MINUTE),
    ]
    append(project, values, arrived_at=T0)
    _run(project)
    assert _features(project, "a", T0 + MINUTE)["sum_1h"] == 2
    assert project.dead_letters.count() == {
        ("orders", "type"): 1, ("orders", "json"): 1, ("orders", "late"): 1, ("orders", "future"): 1
    }  # fmt: skip
    letters = {letter.code: letter for letter in project.dead_letters.read("orders")}
    assert letters["type"].path == "$.shop"
    assert letters["late"].payload == values[3]
    assert letters["late"].offset == 3


def test_a_letter_is_written_once_however_often_the_batch_is_tried(project: Project) -> None:
    append(project, [b"broken", event(1, at=T0)], arrived_at=T0)
    worker = Worker(project)
    worker.step()
    worker.close()
    with project.online.writer("nearline").transaction() as transaction:
        transaction.delete(LANES, [lane_key("orders", 0)])  # as if the commit had been lost
    assert project.dead_letters.count() == {("orders", "json"): 1}


def test_a_drained_lane_says_so_again_and_again(project: Project, clock: SimulatedClock) -> None:
    append(project, [event(1, at=T0)], arrived_at=T0)
    worker = _run(project)
    clock.move_to(LATER + 5 * MINUTE)
    worker.step()
    assert _progress(project).caught_up_at == LATER + 5 * MINUTE


def test_tiles_that_no_window_can_see_are_dropped(project: Project) -> None:
    append(project, [event(n, at=T0 + n * MINUTE) for n in range(600)], arrived_at=T0 + 600 * MINUTE)
    _run(project)
    view = project.definitions.views["shop_now"]
    [[row]] = project.online.read([(view.space, [b"a"])])
    assert row is not None
    # Twenty minutes and an hour of hops, and what the allowed disorder adds.
    assert len(row) // TileLayout(view).record.itemsize < 200


def test_a_new_view_catches_up_from_the_beginning_of_the_log(project: Project, tmp_path: Path) -> None:
    from trilane.apps import deploy
    from trilane.apps.config import load_config

    append(project, [event(n, at=T0 + n) for n in range(5)], arrived_at=T0)
    worker = _run(project)
    path = tmp_path / "definitions.py"
    path.write_text(path.read_text().replace('"n_10m": tl.count(window="10m")', '"n_10m": tl.count(window="20m")'))
    with Project(load_config(tmp_path, environment={}), clock=SimulatedClock(LATER)) as changed:
        deploy.apply(changed)
        worker.close()
        again = _run(changed)
        append(changed, [event(9, at=T0 + MINUTE)], arrived_at=T0 + MINUTE)
        while again.step():
            pass
        assert _features(changed, "a", T0 + 2 * MINUTE)["n_10m"] == 6
        again.close()


def test_a_name_has_one_worker(project: Project) -> None:
    from trilane.errors import SetupError

    worker = Worker(project)
    with pytest.raises(SetupError, match="writ"):
        Worker(project)
    worker.close()


def test_an_event_from_ahead_of_our_clock_waits_until_its_time_has_come(tmp_path: Path) -> None:
    clock = SimulatedClock(T0)
    with make_project(tmp_path, clock=clock) as project:
        append(project, [event(1, at=T0 - 1), event(2, at=T0), event(3, at=T0 + 20 * SECOND)], arrived_at=T0)
        worker = _run(project)
        assert _features(project, "a", T0)["n_10m"] == 1
        clock.move_to(T0 + 10 * SECOND)
        worker.step()
        assert _features(project, "a", T0 + 10 * SECOND)["n_10m"] == 2
        worker.close()
        clock.move_to(T0 + 30 * SECOND)
        _run(project)
        assert _features(project, "a", T0 + 30 * SECOND)["n_10m"] == 3
        assert _progress(project).applied == 3
