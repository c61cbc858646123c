"""The registry remembers what is and what was, and says what would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from trilane.clock import SimulatedClock
from trilane.errors import ConflictError, DefinitionError
from trilane.lifecycle.metadata.protocol import FAILED, RunRecord
from trilane.lifecycle.metadata.sql import open_metadata
from trilane.lifecycle.registry import Change, Registry, compare

VIEW = {"kind": "view", "name": "v", "window": "60m", "features": [{"name": "a", "op": "sum"}, {"name": "b"}]}


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(1_000)


@pytest.fixture
def registry(tmp_path: Path, clock: SimulatedClock) -> Registry:
    return Registry(open_metadata(f"sqlite://{tmp_path}/metadata.db"), clock)


def test_before_anything_happened_nothing_is_known(registry: Registry) -> None:
    assert registry.applied() is None
    assert registry.artifact("model", "m") is None
    assert registry.deployed("e") is None
    assert not [*registry.history(), *registry.artifacts(), *registry.deployments()]


def test_definitions_applied_twice_are_one_state(registry: Registry, tmp_path: Path) -> None:
    assert registry.apply_definitions("d1", [VIEW], tmp_path)
    assert not registry.apply_definitions("d1", [VIEW], tmp_path)
    applied = registry.applied()
    assert applied is not None
    assert (applied.digest, applied.applied_at, applied.specs) == ("d1", 1_000, (VIEW,))


def test_diff_names_what_was_added_removed_and_changed(registry: Registry, tmp_path: Path) -> None:
    gone = {"kind": "entity", "name": "gone"}
    registry.apply_definitions("d1", [VIEW, gone], tmp_path)
    changed = {**VIEW, "window": "30m", "features": [{"name": "a", "op": "max"}, {"name": "c"}]}
    assert registry.diff([changed, {"kind": "model", "name": "new"}]) == [
        Change(kind="entity", name="gone", what="removed"),
        Change(kind="model", name="new", what="added"),
        Change(
            kind="view",
            name="v",
            what="changed",
            details=("features.a.op", "features.b", "features.c", "window"),
        ),
    ]


def test_a_tuple_is_the_list_that_was_stored(registry: Registry, tmp_path: Path) -> None:
    registry.apply_definitions("d1", [{"kind": "k", "name": "n", "keys": ("a", "b")}], tmp_path)
    assert registry.diff([{"kind": "k", "name": "n", "keys": ("a", "b")}]) == []


def test_another_order_of_named_members_is_a_change() -> None:
    turned = {**VIEW, "features": [{"name": "b"}, {"name": "a", "op": "sum"}]}
    assert compare([VIEW], [turned]) == [Change(kind="view", name="v", what="changed", details=("features",))]


@pytest.mark.parametrize("specs", [[VIEW, VIEW], [{"kind": "view"}]])
def test_specs_without_names_of_their_own_are_refused(
    specs: list[dict[str, object]], registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(DefinitionError, match="name of its own"):
        registry.apply_definitions("d1", specs, tmp_path)
    assert registry.applied() is None


def test_the_latest_artifact_is_found_and_an_older_one_by_its_digest(registry: Registry, tmp_path: Path) -> None:
    assert registry.record_artifact("model", "m", "1", tmp_path, {"auc": 0.5})
    assert registry.record_artifact("model", "m", "2", tmp_path)
    assert not registry.record_artifact("model", "m", "1", tmp_path)
    latest, older = registry.artifact("model", "m"), registry.artifact("model", "m", "1")
    assert latest is not None
    assert older is not None
    assert (latest.digest, older.facts) == ("2", {"auc": 0.5})


def test_a_rollback_is_one_more_deployment(registry: Registry) -> None:
    for bundle in ("x", "y", "x"):
        registry.deploy("e", bundle, {"by": "test"})
    assert [record.bundle for record in registry.deployments("e")] == ["x", "y", "x"]
    deployed = registry.deployed("e")
    assert deployed is not None
    assert (deployed.bundle, deployed.at) == ("x", 1_000)


def test_a_run_whose_process_died_is_found_by_age_and_abandoned_once(registry: Registry, clock: SimulatedClock) -> None:
    left = RunRecord(id="r1", kind="train", subject="m", facts={"rows": 3}, started_at=clock.now())
    registry.store.start_run(left)
    assert registry.stale_runs(older_than=10) == []
    clock.move_to(2_000)
    (stale,) = registry.stale_runs(older_than=10)
    assert stale == left
    registry.abandon(left.id, reason="its machine was switched off")
    assert registry.stale_runs(older_than=10) == []
    (ended,) = registry.store.runs(id=left.id)
    assert (ended.status, ended.facts, ended.ended_at) == (FAILED, {"rows": 3}, 2_000)
    assert ended.error is not None
    assert ended.error["what"] == "its machine was switched off"
    with pytest.raises(ConflictError, match="does not run"):
        registry.abandon(left.id, reason="again")
