"""Rows of a sampled training set have exactly what lanes as late as was drawn would serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import trilane as tl
from tests.unit.training.test_build import DAY, PLAN, SOURCE, SPINE, WHO, daily, fill, live
from trilane.clock import SECOND
from trilane.features.fallback import STATUSES
from trilane.features.plan import FeaturePlan
from trilane.features.view import Step
from trilane.training import build, values_at
from trilane.training.staleness import declared, drawn

MINUTE = 60 * SECOND


def test_draws_have_the_distribution_they_come_from_and_never_change() -> None:
    lags = {"live": declared({"0s": 6, "1m": 3, "1h": 1}), "daily": declared({"0s": 1, "1d": 1})}
    found = drawn(PLAN, lags, 100_000)
    shares = [float(np.mean(found["live"] == lag)) for lag in (0, MINUTE, 60 * MINUTE)]
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=0.006)
    assert abs(float(np.mean(found["daily"] == 0)) - 0.5) < 0.006
    # Lanes are late for reasons of their own.
    assert abs(float(np.corrcoef(found["live"], found["daily"])[0, 1])) < 0.02
    np.testing.assert_array_equal(drawn(PLAN, lags, 500)["live"], found["live"][:500])
    assert (drawn(PLAN, lags, 500, seed=1)["live"] != found["live"][:500]).any()


def test_a_lane_that_is_behind_has_what_had_happened_before_and_looks_back_from_now(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=2_000, asks=200, who=3)
    asks = pq.read_table(tmp_path / "asked.parquet")
    rng = np.random.default_rng(3)
    lags = {"live": rng.integers(0, 90 * MINUTE, 200), "daily": rng.integers(0, 3, 200) * DAY}
    plan = FeaturePlan.of([live, daily], where="test")
    options = {"event_time": "at", "warehouse": warehouse, "root": tmp_path}
    found = values_at(plan, asks, lags=lags, **options)  # type: ignore[arg-type]
    events = warehouse_events(tmp_path, warehouse)
    for row, (at, who) in enumerate(zip(asks["at"].cast("int64").to_pylist(), asks["who"].to_pylist(), strict=True)):
        behind = at - int(lags["live"][row])
        seen = [e for e in events if e[1] == who and (at - 60 * MINUTE) // (5 * MINUTE) * (5 * MINUTE) <= e[0] < behind]
        assert found[row, 0] == len(seen)
        boundary = (at - int(lags["daily"][row]) - 2 * 60 * MINUTE) // DAY * DAY
        one = [e[2] for e in events if e[1] == who and boundary - DAY <= e[0] < boundary]
        np.testing.assert_allclose(found[row, 2], np.mean(one) if one else -1.0)


def warehouse_events(folder: Path, warehouse: object) -> list[tuple[int, str, float]]:
    sql = warehouse.events_sql(SOURCE)  # type: ignore[attr-defined]
    with warehouse.connect(memory_limit="1GiB", temp=folder) as connection:  # type: ignore[attr-defined]
        return list(connection.query(f'SELECT epoch_us("at"), who, x FROM {sql}').fetchall())


def test_a_sampled_set_goes_through_the_cascade_and_says_what_was_drawn(tmp_path: Path) -> None:
    warehouse = fill(tmp_path, events=2_000, asks=300)
    steps: list[Step] = [tl.stale(max_age="10m"), tl.last(daily, max_age="3d"), tl.prior()]
    view = tl.nearline(SOURCE, WHO, freshness="60s", features={"mean": tl.mean("x", window="1d")}, fallback=steps)(
        live.function
    )
    plan = FeaturePlan.of([view, view.age, tl.age(view["mean"])], where="test")
    lags = {"live": declared({"0s": 1, "5m": 1, "1h": 1})}
    options = {"label": "won", "warehouse": warehouse, "root": tmp_path, "training": "sampled", "lags": lags}
    made = build(plan, SPINE, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert build(plan, SPINE, out=tmp_path / "again", **options).digest == made.digest  # type: ignore[arg-type]
    behind = drawn(plan, lags, 300)["live"]
    assert made.manifest.lags["live"].highest == 3_600
    assert not made.manifest.lags["live"].measured
    np.testing.assert_array_equal(made.matrix[:, 1], (behind / 1e6).astype(np.float32))
    counts = made.manifest.statuses["live.mean"]
    assert counts.keys() == set(STATUSES)
    assert counts["batch"] == int((behind == 60 * MINUTE).sum())
    assert counts["stale"] > 0 < counts["fresh"]
