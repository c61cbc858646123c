"""How served values differ from ideal ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import training_job
from trilane.apps.project import Project
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock
from trilane.errors import DefinitionError
from trilane.training.build import build
from trilane.training.skew import skew_of, worst_first
from trilane.training.staleness import drawn, measured


def test_equal_columns_have_no_skew() -> None:
    column = np.array([1.0, np.nan, -3.0])
    found = skew_of(column, column)
    assert (found.differ, found.smape, found.only_ideal, found.only_served) == (0, 0, 0, 0)
    assert found.absolute == found.relative == (0, 0, 0)


def test_differences_are_summed_up_over_the_rows_that_differ() -> None:
    ideal = np.array([0.0, 10.0, 10.0, 7.0, np.nan, 5.0])
    served = np.array([2.0, 5.0, 9.0, 7.0, 1.0, np.nan])
    found = skew_of(ideal, served)
    assert (found.rows, found.differ, found.only_ideal, found.only_served) == (6, 5 / 6, 1, 1)
    assert found.absolute == pytest.approx((8 / 3, 2, 4.94))
    assert found.relative == pytest.approx((0.3, 0.3, 0.496))
    assert found.smape == pytest.approx((2 + 10 / 15 + 2 / 19) / 4)


def test_columns_without_values_have_no_skew() -> None:
    nothing = np.full(3, np.nan)
    assert skew_of(nothing, nothing).differ == 0
    assert skew_of(nothing[:0], nothing[:0]).rows == 0


def test_the_worst_comes_first() -> None:
    ideal = np.array([1.0, 2.0])
    skews = {"a": skew_of(ideal, ideal), "b": skew_of(ideal, ideal + 5), "c": skew_of(ideal, ideal + 1)}
    assert [name for name, _ in worst_first(skews)] == ["b", "c", "a"]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A shop whose worker rested from the fifth hour to the tenth."""
    clock = SimulatedClock(T0)
    with make_project(tmp_path, clock=clock, replay=True) as project:
        worker = Worker(project)
        for minute in range(0, 48 * 60, 2):
            now = T0 + minute * MINUTE
            clock.move_to(now)
            append(
                project, [event(minute, shop="abc"[minute // 2 % 3], at=now - SECOND, amount=minute)], arrived_at=now
            )
            if not 300 <= minute < 600:
                worker.step()
        worker.close()
        clock.move_to(T0 + 49 * 60 * MINUTE)
        yield project


def test_a_set_as_served_knows_when_the_worker_rested(project: Project) -> None:
    done = training_job.train(project, "big", training="as_served")
    manifest = done.training_set.manifest
    assert manifest.training == "as_served"
    assert manifest.recorded == {"shop_now": 1.0, "shop_daily": 0.0}
    statuses = manifest.statuses["shop_now.n_10m"]
    assert statuses["fresh"] > 0
    assert statuses["default"] > 0
    assert sum(statuses.values()) == len(done.training_set)
    assert manifest.skew["shop_now.n_10m"].differ > 0
    assert manifest.skew["basket.basket"].differ == 0
    assert manifest.skew == training_job.skews(project, "big")
    assert done.training_set.digest != training_job.train(project, "big", training="ideal").training_set.digest


def test_a_kind_that_does_not_exist_is_refused(project: Project) -> None:
    model = project.definitions.models["big"]
    where = {"warehouse": project.warehouse, "root": project.config.root, "out": project.training_folder}
    with pytest.raises(DefinitionError, match="'served' is no kind of training set"):
        build(model.plan, model.spine, label="big", training="served", **where)  # type: ignore[arg-type]


def test_lags_are_drawn_as_they_were_measured(project: Project) -> None:
    done = training_job.train(project, "big", training="sampled")
    plan = project.definitions.models["big"].plan
    view = project.definitions.views["shop_now"]
    lags = measured(project.warehouse, view, np.zeros(0, np.int64))
    assert lags is not None
    found = drawn(plan, {"shop_now": lags}, 20_000)["shop_now"]
    apart = [abs(float(np.mean(found <= at) - np.mean(lags.values <= at))) for at in np.unique(lags.values)]
    assert max(apart) < 0.02
    assert lags.values[-1] > 4 * 3_600 * SECOND  # the worker rested for five hours
    told = done.training_set.manifest.lags["shop_now"]
    assert told.measured
    assert done.training_set.manifest.statuses["shop_now.mean_1h"]["fresh"] > 0
