"""Decisions are recorded beside the answer's way, found again by their ids, and what cannot be kept is counted."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trilane.errors import ContractError, SetupError
from trilane.features.fallback import STATUSES
from trilane.feedback.record import Recorder, Records
from trilane.serving.engine import Answers
from trilane.serving.reading import Fault, Reading

NAMES = ("v.a", "v.b")
Row = msgspec.defstruct("Row", [("shop", str | None), ("n", int)])


def _answers(id: str, *, at: int = 5, rows: int = 2, shop: str = "ä") -> Answers:
    values = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2)
    values[0, 1] = np.nan
    statuses = np.zeros((rows, 2), np.uint8)
    statuses[0, 1] = 4
    faults = (Fault("v: late"), Fault("model: odd", frozenset([1])))
    reading = Reading(values, statuses, np.full((rows, 2), 9, np.int64), faults[:1])
    rungs = np.where(np.arange(rows) == 1, 2, 1).astype(np.uint8)
    asked = [Row(shop, number) for number in range(rows)]
    return Answers(id, "b" * 64, at, asked, np.arange(rows) / 3, reading, faults, rungs, {1: "0d-7"})


def _written(path: Path, *blocks: tuple[str, Answers]) -> Recorder:
    recorder = Recorder(path, period=0.001)
    for endpoint, answers in blocks:
        recorder.put(endpoint, NAMES, answers)
    recorder.close()
    return recorder


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    records = Records(tmp_path / "r.db")
    yield records
    records.close()


def test_a_decision_is_found_by_its_id_with_all_that_made_it(tmp_path: Path, records: Records) -> None:
    assert _written(tmp_path / "r.db", ("e", _answers("0f"))).written == 2
    found = records.find("0f-1")
    assert found is not None
    assert (found.id, found.endpoint, found.bundle, found.at) == ("0f-1", "e", "b" * 64, 5)
    assert (found.inputs, found.score) == ({"shop": "ä", "n": 1}, 1 / 3)
    assert (found.features, found.statuses) == ({"v.a": 2.0, "v.b": 3.0}, {"v.a": "fresh", "v.b": "fresh"})
    assert (found.ages, found.degraded) == ({"v.a": 9, "v.b": 9}, True)
    assert (found.why, found.by_model) == (("v: late", "model: odd"), False)
    first = records.find("0f-0")
    assert first is not None
    assert np.isnan(first.features["v.b"])
    assert (found.rung, found.origin, first.rung, first.origin) == ("cached", "0d-7", "stale", None)
    assert (first.statuses["v.b"], first.why, first.by_model) == ("missing", ("v: late",), True)


@pytest.mark.parametrize("id", ["0f-2", "0e-0", "x-0", "-0-0"])
def test_an_unknown_id_is_not_found(tmp_path: Path, records: Records, id: str) -> None:
    _written(tmp_path / "r.db", ("e", _answers("0f")))
    assert records.find(id) is None


@pytest.mark.parametrize("id", ["", "0f", "0f-", "-1", "0f-x", "0f--", "0f-1.0", "0f-²", "0f-" + "9" * 5_000])
def test_what_is_no_id_is_refused(tmp_path: Path, records: Records, id: str) -> None:
    _written(tmp_path / "r.db", ("e", _answers("0f")))
    with pytest.raises(ContractError, match="is no decision id"):
        records.find(id)


def test_before_anything_was_recorded_nothing_is_found(tmp_path: Path, records: Records) -> None:
    assert records.find("0f-1") is None
    assert list(records.read("e")) == []


def test_decisions_are_read_by_endpoint_and_period_as_columns(tmp_path: Path, records: Records) -> None:
    blocks = [("e", _answers("c", at=30)), ("e", _answers("a", at=10)), ("other", _answers("b", at=20))]
    _written(tmp_path / "r.db", *blocks, ("e", _answers("d", at=40)))
    batches = list(records.read("e", since=10, until=40))
    assert [batch.column("id").to_pylist() for batch in batches] == [["a-0", "a-1"], ["c-0", "c-1"]]
    one = batches[0].to_pydict()
    assert one["score"] == [0, 1 / 3]
    assert one["by_model"] == [True, False]
    assert one["rung"] == ["stale", "cached"]
    assert one["degraded"] == [True, True]
    assert one["v.a"] == [0, 2]
    assert one["status:v.b"] == ["missing", "fresh"]
    assert [one["age:v.a"], one["age:v.b"]] == [[9, 9], [9, 9]]
    assert list(records.read("nobody")) == []


def test_beyond_its_capacity_the_newest_is_dropped_and_counted(tmp_path: Path, records: Records) -> None:
    heard: list[tuple[str, int]] = []
    recorder = Recorder(tmp_path / "r.db", capacity=2, period=3_600, told=lambda fate, n: heard.append((fate, n)))
    for number in range(4):
        recorder.put("e", NAMES, _answers(f"{number}", rows=3))
    assert recorder.dropped == 6
    recorder.close()
    assert (recorder.written, recorder.dropped) == (6, 6)
    assert heard == [("dropped", 3), ("dropped", 3), ("written", 6)]
    assert [records.find(f"{number}-0") is not None for number in range(4)] == [True, True, False, False]


def test_many_blocks_are_written_before_the_period_is_over(tmp_path: Path, records: Records) -> None:
    recorder = Recorder(tmp_path / "r.db", period=3_600)
    for number in range(16):
        recorder.put("e", NAMES, _answers(f"{number:02}"))
    while recorder.written < 32:
        pass  # a condition, not a time: the writer's thread will get there, or the test's limit ends it
    recorder.close()
    assert records.find("15-1") is not None


def test_what_cannot_be_written_is_counted_and_the_recorder_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"not a folder")
    recorder = _written(tmp_path / "file" / "r.db", ("e", _answers("0")), ("e", _answers("1")))
    assert (recorder.written, recorder.dropped) == (0, 4)
    assert "4 decisions could not be recorded" in caplog.text


def test_rows_that_no_record_can_hold_are_counted_and_later_ones_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    recorder = Recorder(tmp_path / "r.db", period=0.001)
    recorder.put("e", NAMES, _answers("bad", shop="\ud800"))
    while not recorder.dropped:
        pass  # a condition, not a time: the writer's thread will get there, or the test's limit ends it
    recorder.put("e", NAMES, _answers("good"))
    recorder.close()
    assert (recorder.written, recorder.dropped) == (2, 2)


def test_a_file_that_is_no_record_is_the_operators_business(tmp_path: Path, records: Records) -> None:
    (tmp_path / "r.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(SetupError, match="not a sound SQLite database"):
        records.find("0-0")


def test_a_block_of_an_earlier_release_tells_its_rungs_by_what_it_kept(tmp_path: Path, records: Records) -> None:
    _written(tmp_path / "r.db", ("e", _answers("0f")))
    with closing(sqlite3.connect(tmp_path / "r.db", isolation_level=None)) as file:
        [(packed,)] = file.execute("SELECT payload FROM block").fetchall()
        earlier = msgspec.msgpack.encode(msgspec.msgpack.decode(packed)[:8])
        file.execute("UPDATE block SET payload = ?", (earlier,))
    found = [records.find(f"0f-{row}") for row in range(2)]
    assert [one and one.rung for one in found] == ["stale", "constant"]
    assert list(records.requests("e")) == [(5, (1, 1))]  # which requests they were is not known: a row each


@pytest.mark.parametrize("ages", [[[9, 9], [9, 9]], [[0, 1], [2, 3]]], ids=["alike", "each its own"])
@pytest.mark.parametrize("statuses", [[[0, 0], [0, 0]], [[0, 0], [1, 4]]], ids=["all fresh", "some worse"])
def test_statuses_and_ages_come_back_however_few_bytes_hold_them(
    tmp_path: Path, records: Records, ages: list[list[int]], statuses: list[list[int]]
) -> None:
    given = _answers("0f")
    reading = Reading(given.reading.values, np.array(statuses, np.uint8), np.array(ages, np.int64), ())
    _written(tmp_path / "r.db", ("e", dataclasses.replace(given, reading=reading)))
    for row in range(2):
        found = records.find(f"0f-{row}")
        assert found is not None
        assert [*found.ages.values()] == ages[row]
        assert [*found.statuses.values()] == [STATUSES[code] for code in statuses[row]]
    [batch] = records.read("e")
    assert [batch.column("age:v.a").to_pylist(), batch.column("age:v.b").to_pylist()] == np.transpose(ages).tolist()


def test_the_requests_of_a_block_are_told_apart_by_endpoint_and_period(tmp_path: Path, records: Records) -> None:
    recorder = Recorder(tmp_path / "r.db", period=0.001)
    recorder.put("e", NAMES, _answers("02", at=7, rows=6), (3, 1, 2))
    recorder.put("e", NAMES, _answers("01", at=5, rows=2))
    recorder.put("f", NAMES, _answers("03", at=6, rows=4), (4,))
    recorder.close()
    assert list(records.requests("e")) == [(5, (1, 1)), (7, (3, 1, 2))]
    assert list(records.requests("e", since=6)) == [(7, (3, 1, 2))]
    assert list(records.requests("f", since=6, until=7)) == [(6, (4,))]
    assert list(records.requests("f", until=6)) == []
