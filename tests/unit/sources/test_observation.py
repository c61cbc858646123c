"""A source that falls silent, or brings too little or too much, is found out from the log alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import SECOND
from trilane.sources.expectation import Volume
from trilane.sources.log.sqlite import SqliteLog
from trilane.sources.observation import look_at

MINUTE = 60 * SECOND


def _source(**options: object) -> tl.EventSource:
    schema = {"id": tl.Int64, "at": tl.Timestamp}
    return tl.EventSource("facts", schema=schema, event_time="at", event_id="id", partitions=2, **options)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log", full_sync=False)
    yield opened
    opened.close()


def test_a_source_from_which_nothing_is_expected_is_not_looked_at(log: SqliteLog) -> None:
    assert look_at(_source(), log, 0) == []


def test_a_source_that_is_silent_for_longer_than_promised_is_told(log: SqliteLog) -> None:
    source = _source(expect_every="5m")
    [never] = look_at(source, log, 0)
    assert (never.met, "none ever came" in never.text) == (False, True)
    log.append("facts", 1, [b"{}"], 7 * MINUTE)
    log.append("facts", 0, [b"{}"], 5 * MINUTE)
    assert [one.met for one in look_at(source, log, 12 * MINUTE)] == [True]
    [silent] = look_at(source, log, 12 * MINUTE + 1)
    assert (silent.met, silent.expectation) == (False, "expect_every")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 9 * 60), max_size=40), st.integers(0, 10 * 60))
def test_the_rows_of_the_last_whole_period_are_counted(tmp_path: Path, arrivals: list[int], now: int) -> None:
    opened = SqliteLog(tmp_path / f"log{abs(hash((*arrivals, now)))}", full_sync=False)
    ordered = sorted(at * SECOND for at in arrivals)
    for number in (0, 1):
        part = ordered[number::2]
        if part and not opened.end("facts", number):
            opened.append("facts", number, [b"{}"] * len(part), part)
    end = now * SECOND // MINUTE * MINUTE
    count = sum(end - MINUTE <= at < end for at in ordered)
    before = sum(end - 2 * MINUTE <= at < end - MINUTE for at in ordered)
    begun = any(at < end - 2 * MINUTE for at in ordered)
    bounds = Volume(MINUTE, at_least=2, at_most=6, change=0.5)
    met = 2 <= count <= 6 and not (begun and before and abs(count - before) > 0.5 * before)
    [found] = look_at(_source(volume=bounds), opened, now * SECOND)
    opened.close()
    assert found.met == met, found
    assert found.text.startswith(f"{count:,} rows in")
