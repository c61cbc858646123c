"""Instants, durations, and clocks that never go back."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.clock import (
    SECOND,
    SharedClock,
    SimulatedClock,
    SteadyClock,
    WallClock,
    duration,
    format_duration,
    format_instant,
    instant,
)
from trilane.errors import DefinitionError, SetupError

YEAR_1, YEAR_10000 = -62_135_596_800 * SECOND, 253_402_300_800 * SECOND


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("0s", 0),
        ("7us", 7),
        ("50ms", 50_000),
        ("60s", 60 * SECOND),
        (" 15 m ", 900 * SECOND),
        ("28d", 28 * 86_400 * SECOND),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, microseconds: int) -> None:
    assert duration(text) == microseconds


@pytest.mark.parametrize("text", ["", "5", "s", "1.5s", "-1s", "1 week", "1h30m", "1H", 1.5, None])
def test_what_is_no_duration_is_refused_with_the_way_to_write_one(text: object) -> None:
    with pytest.raises(DefinitionError, match="is not a duration") as refused:
        duration(text)  # type: ignore[arg-type]
    assert "'15m'" in refused.value.remedy


@given(st.integers(0, 10**15))
def test_a_formatted_duration_reads_as_itself(microseconds: int) -> None:
    assert duration(format_duration(microseconds)) == microseconds


@given(st.integers(YEAR_1, YEAR_10000 - 1))
def test_a_formatted_instant_reads_as_itself(microseconds: int) -> None:
    assert instant(format_instant(microseconds)) == microseconds


@given(
    st.datetimes(
        min_value=dt.datetime(1900, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
        timezones=st.timezones() | st.just(dt.timezone(dt.timedelta(hours=-23))),
    )
)
def test_an_instant_is_the_same_in_every_time_zone(when: dt.datetime) -> None:
    assert instant(when) == (when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-03-02T00:00:00", "no time zone"),
        ("2026-03-02", "no time zone"),
        ("soon", "not an instant"),
        ("", "not an"),
    ],
)
def test_an_instant_needs_a_date_and_an_offset(text: str, said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refused:
        instant(text)
    assert "2013-10-01T00:00:00Z" in refused.value.remedy


def test_a_simulated_clock_stands_until_it_is_moved_and_never_goes_back() -> None:
    clock = SimulatedClock(5)
    clock.move_to(5)
    clock.move_to(9)
    assert clock.now() == 9
    with pytest.raises(DefinitionError, match="cannot go back"):
        clock.move_to(8)
    assert clock.now() == 9


def test_a_steady_clock_begins_at_the_wall_clock_and_follows_no_step_of_it() -> None:
    wall = SimulatedClock(10**15)
    steady = SteadyClock(wall)
    first = steady.now()
    wall.move_to(10**16)
    assert 10**15 <= first <= steady.now() < 10**16


def test_a_wall_clock_tells_the_machines_time() -> None:
    before = dt.datetime.now(dt.UTC)
    now = WallClock().now()
    assert instant(before) <= now + SECOND


def test_a_shared_clock_tells_all_processes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "clock"
    clock, other = SharedClock(path, start=3), SharedClock(path, start=7)
    assert (clock.now(), other.now()) == (3, 3)
    clock.move_to(11)
    code = f"from trilane.clock import SharedClock as C; from pathlib import Path; c = C(Path({str(path)!r})); "
    code += "print(c.now()); c.move_to(12)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "11\n"
    assert (clock.now(), other.now()) == (12, 12)
    with pytest.raises(DefinitionError, match="cannot go back"):
        other.move_to(11)


def test_a_clock_file_that_cannot_be_made_is_the_operators_business(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="clock") as refused:
        SharedClock(tmp_path / "file" / "clock")
    assert refused.value.where == str(tmp_path / "file" / "clock")
