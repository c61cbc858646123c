"""`trilane sensitivity` finds the view that matters, and the cheapest lane that loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shop import MINUTE, T0, append, event, make_project
from trilane.apps import training_job
from trilane.apps.prices import Load, Prices, cost_per_million, load_prices
from trilane.apps.project import Project
from trilane.apps.sensitivity import sensitivity
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SimulatedClock, duration
from trilane.errors import ConflictError, SetupError


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    clock = SimulatedClock(T0 + 49 * 60 * MINUTE)
    with make_project(tmp_path, clock=clock, replay=True) as project:
        texts = [
            event(minute, shop="abc"[minute // 2 % 3], at=T0 + minute * MINUTE - SECOND, amount=minute)
            for minute in range(0, 48 * 60, 2)
        ]
        append(project, texts, arrived_at=T0 + 48 * 60 * MINUTE)
        worker = Worker(project)
        worker.step()
        worker.close()
        yield project


def test_what_is_not_trained_is_told(project: Project) -> None:
    with pytest.raises(ConflictError, match="it is not trained"):
        sensitivity(project, "big", lags=[0], tolerance=0.0, rows=100)


def test_no_lag_loses_nothing_and_every_view_gets_a_lane_within_the_tolerance(project: Project) -> None:
    training_job.train(project, "big")
    prices = Prices(cpu_second=1.0, storage_gb_month=1.0, write_million=1.0, read_million=1.0)
    lags = [0, MINUTE, 6 * 60 * MINUTE]
    figure, level, found = sensitivity(
        project, "big", lags=lags, tolerance=1.0, rows=1_000, prices=prices, features=True
    )
    assert figure == "AUC"
    assert 0 <= level <= 1
    views = [one for one in found if not one.feature]
    assert [one.view for one in views] == ["shop_now", "shop_daily"]
    for one in found:
        assert list(one.lags) == lags
        assert one.lags[0].loss == 0
    assert [choice.lane for choice in views[0].choices] == ["nearline", "hourly batch", "daily batch", "drop"]
    assert [choice.lane for choice in views[1].choices] == ["batch every 1d", "drop"]
    assert {one.recommended for one in views} == {"drop"}  # which costs nothing
    none = sensitivity(project, "big", lags=[0], tolerance=-1.0, rows=1_000)[2]
    assert [one.recommended for one in none] == ["nearline", "batch every 1d"]  # nothing else would do
    assert {one.feature for one in found if one.view == "shop_now"} > {"", "shop_now.n_10m"}


def test_a_batch_lane_costs_less_the_rarer_it_loads(project: Project) -> None:
    view = project.definitions.views["shop_now"]
    load = Load(keys=1_000, events_per_day=1e6, reads_per_day=1e6)
    prices = Prices(cpu_second=1e-5, write_million=1.0)
    costs = [cost_per_million(view, schedule, load, prices) for schedule in (duration("1h"), duration("1d"), None)]
    assert costs[1] < costs[0] < costs[2]
    assert cost_per_million(view, None, load, Prices(read_million=3.0)) == pytest.approx(3)


@pytest.mark.parametrize("text", ["storage = 3", "cpu_second = 'much'", "cpu_second ="])
def test_prices_that_cannot_be_read_are_refused_with_what_may_be_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.toml").write_text(text)
    with pytest.raises(SetupError, match="no readable prices") as caught:
        load_prices(tmp_path / "prices.toml")
    assert "storage_gb_month" in str(caught.value.remedy)
    with pytest.raises(SetupError, match="no readable prices"):
        load_prices(tmp_path / "nowhere.toml")
