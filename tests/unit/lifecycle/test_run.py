"""A run records its start, its end, its failure and its edges."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.clock import SimulatedClock
from trilane.errors import ConflictError, ModelError
from trilane.lifecycle.graph import Graph
from trilane.lifecycle.metadata.protocol import FAILED, RUNNING, SUCCEEDED
from trilane.lifecycle.metadata.sql import SqlMetadata, open_metadata
from trilane.lifecycle.run import new_run_id, run

SOURCE, MODEL = "trilane://training_set/t@1", "trilane://model/m@2"


@pytest.fixture
def store(tmp_path: Path) -> SqlMetadata:
    return open_metadata(f"sqlite://{tmp_path}/metadata.db")


def test_a_run_that_ends_records_what_it_did(store: SqlMetadata) -> None:
    clock = SimulatedClock(5)
    with run(store, "train", "m", clock=clock, facts={"rows": 1}, new_id=lambda now: f"r{now}") as present:
        assert [record.status for record in store.runs(id="r5")] == [RUNNING]
        present.reads(SOURCE)
        present.reads(SOURCE)
        present.writes(MODEL)
        present.note(auc=0.7)
        clock.move_to(9)
        assert store.edges() == []
    (ended,) = store.runs()
    assert (ended.status, ended.started_at, ended.ended_at) == (SUCCEEDED, 5, 9)
    assert ended.facts == {"rows": 1, "auc": 0.7}
    assert Graph(store.edges()).upstream(MODEL) == ["trilane://run/r5", SOURCE]
    assert {edge.last_seen for edge in store.edges()} == {9}


def _fails(store: SqlMetadata) -> None:
    with run(store, "train", "m", clock=SimulatedClock()) as present:
        present.reads(SOURCE)
        raise ModelError("this is no model", where="m", remedy="Train it", rows=3)


def test_a_failure_is_recorded_with_its_payload_and_raised_on(store: SqlMetadata) -> None:
    with pytest.raises(ModelError, match="is no model"):
        _fails(store)
    (ended,) = store.runs(status=FAILED)
    assert ended.error == {
        "code": "model",
        "what": "this is no model",
        "where": "m",
        "remedy": "Train it",
        "rows": 3,
    }
    assert len(store.edges()) == 1


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt()])
def test_any_other_failure_is_recorded_too(store: SqlMetadata, error: BaseException) -> None:
    with pytest.raises(type(error)), run(store, "train", "m", clock=SimulatedClock()):
        raise error
    (ended,) = store.runs(status=FAILED)
    assert ended.error is not None
    assert ended.error["code"] == "unexpected"
    assert str(ended.error["what"]).startswith(type(error).__name__)


def _abandoned(store: SqlMetadata, error: Exception | None = None) -> None:
    with run(store, "train", "m", clock=SimulatedClock()) as present:
        store.end_run(present.id, status=FAILED, ended_at=0, facts={})
        if error:
            raise error


def test_a_run_that_was_abandoned_meanwhile_hears_of_it(store: SqlMetadata) -> None:
    with pytest.raises(ConflictError, match="does not run"):
        _abandoned(store)


def test_the_failure_of_the_work_is_not_hidden_by_a_store_that_fails(store: SqlMetadata) -> None:
    with pytest.raises(ModelError, match="the work failed"):
        _abandoned(store, ModelError("the work failed"))


def test_run_ids_sort_by_time_and_differ() -> None:
    ids = [new_run_id(now) for now in (1, 1, 2, 2**50)]
    assert len(set(ids)) == 4
    assert ids[1:] == sorted(ids[1:])
