"""The definitions of the flights example say what they seem to say."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from examples.flights import definitions as flights
from trilane import instant
from trilane.features.request import compute


@given(st.integers(instant("2008-01-01T00:00:00Z") // 1_000_000, instant("2030-01-01T00:00:00Z") // 1_000_000))
def test_hour_and_weekday_are_those_of_new_york(second: int) -> None:
    columns = {"scheduled_at": np.array([second * 1_000_000]), "distance": np.array([100.0])}
    [[hour, weekday, distance]] = compute(flights.flight_context, columns, 1)
    local = dt.datetime.fromtimestamp(second, ZoneInfo("America/New_York"))
    assert hour == (local.hour * 3600 + local.minute * 60 + local.second) / 3600
    assert (weekday, distance) == (local.weekday(), 100.0)


def test_what_is_left_of_the_planes_time_is_unknown_without_a_last_leg() -> None:
    now = instant("2013-10-01T12:00:00Z")
    columns = {
        "scheduled_at": np.array([now, now]),
        "plane_last_leg.arrived_at": np.array([now - 5 * 3_600e6, np.nan]),
        "plane_last_leg.air_time": np.array([100.0, np.nan]),
    }
    values = compute(flights.plane_rotation, columns, 2)
    assert values[0].tolist() == [300.0, 200.0]
    assert np.isnan(values[1]).all()


def test_the_baseline_has_no_nearline_feature() -> None:
    lanes = {view.lane for view in flights.late_arrival_baseline.plan.views}
    assert lanes == {"batch", "request"}
    assert {view.lane for view in flights.late_arrival.plan.views} == {"batch", "nearline", "request"}


def test_every_nearline_view_says_what_happens_when_its_lane_stops() -> None:
    views = [view for view in flights.late_arrival.plan.views if view.lane == "nearline"]
    assert all([step.spec()["step"] for step in view.fallback][-1] == "default" for view in views)
