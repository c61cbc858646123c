"""What apply does is what plan said, and only what fits is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.apps.conftest import START, Opener
from trilane.apps import deploy, training_job
from trilane.apps.deploy import Plan
from trilane.clock import SimulatedClock, duration, instant
from trilane.errors import ConflictError, DefinitionError, ModelError


def _actions(plan: Plan) -> dict[str, str]:
    return {f"{effect.kind} {effect.name}": effect.action for effect in plan.effects}


def _edit(folder: Path, old: str, new: str) -> None:
    path = folder / "definitions.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_new_project_adds_everything_and_waits_for_its_model(opened: Opener) -> None:
    found = deploy.plan(opened())
    assert {change.what for change in found.changes} == {"added"}
    assert _actions(found) == {
        "view daily": "rebuild",
        "view recent": "rebuild",
        "model stays": "train",
        "endpoint ask": "wait",
    }
    assert found.applied is None
    assert opened().applied_digest() is None


def test_applying_twice_changes_nothing(opened: Opener) -> None:
    deploy.apply(opened())
    assert deploy.plan(opened()).does_nothing
    again = deploy.apply(opened())
    assert again.changes == ()
    assert len(opened().registry.history()) == 1


def test_before_the_first_apply_nothing_runs(opened: Opener) -> None:
    with pytest.raises(ConflictError, match="no definitions were applied"):
        _ = opened().definitions


def test_what_runs_is_the_frozen_copy_not_the_working_tree(opened: Opener, folder: Path) -> None:
    deploy.apply(opened())
    (folder / "definitions.py").write_text("broken(")
    assert sorted(opened().definitions.views) == ["daily", "recent"]


def test_training_deploys_on_the_next_apply_and_the_same_inputs_give_the_same_artifact(opened: Opener) -> None:
    deploy.apply(opened())
    first = training_job.train(opened(), "stays")
    second = training_job.train(opened(), "stays")
    assert (first.is_new, second.is_new) == (True, False)
    assert second.artifact.digest == first.artifact.digest
    assert _actions(deploy.apply(opened()))["endpoint ask"] == "deploy"
    bundle = opened().bundles()["ask"]
    assert bundle.model_digest == first.artifact.digest
    assert deploy.plan(opened()).does_nothing


def test_a_changed_view_keeps_the_old_bundle_and_its_stores_until_the_model_is_trained_again(
    opened: Opener, folder: Path, clock: SimulatedClock
) -> None:
    deploy.apply(opened())
    training_job.train(opened(), "stays")
    deploy.apply(opened())
    before = opened().bundles()["ask"]
    old_space = opened().definitions.views["recent"].space
    _edit(folder, 'tl.count(window="60m")', 'tl.count(window="30m")')
    found = deploy.apply(opened())
    (change,) = [change for change in found.changes if change.kind == "view"]
    assert (change.name, change.what) == ("recent", "changed")
    assert "version" in change.details
    assert _actions(found) == {"view recent": "rebuild", "model stays": "train", "endpoint ask": "keep"}
    project = opened()
    assert project.bundles()["ask"] == before
    assert {old_space, project.definitions.views["recent"].space} <= set(project.live_views())
    training_job.train(opened(), "stays")
    deploy.apply(opened())
    assert opened().bundles()["ask"] != before
    assert old_space in opened().live_views(), "one may return to it"
    clock.move_to(START + duration("1d"))
    assert old_space not in opened().live_views()


def test_a_change_of_freshness_rebuilds_nothing(opened: Opener, folder: Path) -> None:
    deploy.apply(opened())
    training_job.train(opened(), "stays")
    deploy.apply(opened())
    _edit(folder, 'freshness="60s"', 'freshness="90s"')
    assert _actions(deploy.plan(opened())) == {"view recent": "reconfigure", "endpoint ask": "deploy"}


def test_a_model_is_not_trained_on_what_is_not_applied(opened: Opener, folder: Path) -> None:
    deploy.apply(opened())
    _edit(folder, 'window="60m"', 'window="30m"')
    with pytest.raises(ConflictError, match="differ from the applied ones") as caught:
        training_job.train(opened(), "stays")
    assert "trilane apply" in caught.value.remedy


def test_an_unknown_model_is_refused_with_those_there_are(opened: Opener) -> None:
    deploy.apply(opened())
    with pytest.raises(DefinitionError, match="no model 'nope'") as caught:
        training_job.train(opened(), "nope")
    assert "stays" in caught.value.remedy


def test_a_fault_of_the_train_function_names_the_authors_line_and_is_recorded(opened: Opener, folder: Path) -> None:
    _edit(
        folder,
        "return DecisionTreeClassifier(max_depth=2, random_state=0)",
        "return 1 / 0 or DecisionTreeClassifier(max_depth=2, random_state=0)",
    )
    line = (folder / "definitions.py").read_text().splitlines().index(
        "    return 1 / 0 or DecisionTreeClassifier(max_depth=2, random_state=0).fit(rows.matrix, rows.label)"
    ) + 1
    deploy.apply(opened())
    with pytest.raises(ModelError, match="ZeroDivisionError") as caught:
        training_job.train(opened(), "stays")
    assert caught.value.facts["file"] == f"{folder / 'definitions.py'}:{line}"
    (run, *_) = opened().metadata.runs(kind="train")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["code"] == "model"


def test_a_pinned_artifact_is_deployed_in_place_of_a_newer_one(
    opened: Opener, folder: Path, clock: SimulatedClock
) -> None:
    deploy.apply(opened())
    older = training_job.train(opened(), "stays").artifact.digest
    deploy.apply(opened())
    before = opened().bundles()["ask"]
    clock.move_to(START + 1)
    newer = training_job.train(opened(), "stays", until=instant("2026-03-06T00:00:00Z")).artifact.digest
    deploy.apply(opened())
    assert opened().bundles()["ask"].model_digest == newer != older
    pin = f"stays@{older[:6]}"
    assert _actions(deploy.plan(opened(), [pin])) == {"endpoint ask": "deploy"}
    assert opened().bundles()["ask"].model_digest == newer
    deploy.apply(opened(), [pin])
    assert opened().bundles()["ask"] == before
    assert deploy.plan(opened(), [pin]).does_nothing
    assert not deploy.plan(opened()).does_nothing, "without the pin, the newest"


def test_an_artifact_that_does_not_fit_is_refused_with_the_reason_and_nothing_is_changed(
    opened: Opener, folder: Path
) -> None:
    deploy.apply(opened())
    old = training_job.train(opened(), "stays").artifact.digest
    _edit(folder, 'tl.count(window="60m")', 'tl.count(window="30m")')
    with pytest.raises(ConflictError, match=r"does not fit.*view recent in version"):
        deploy.apply(opened(), [f"stays@{old[:12]}"])
    _edit(folder, "features=[daily, recent]", "features=[daily]")
    with pytest.raises(ConflictError, match=r"needs the feature recent\.visits_60m, which is gone"):
        deploy.plan(opened(), [f"stays@{old[:12]}"])
    assert len(opened().registry.history()) == 1


@pytest.mark.parametrize(
    ("pins", "error", "words"),
    [
        (["stays"], DefinitionError, "pins no artifact"),
        (["stays@12345"], DefinitionError, "pins no artifact"),
        (["stays@123456", "stays@123456"], ConflictError, "begin with 123456"),
        (["nope@123456"], DefinitionError, "no model 'nope'"),
        (["stays@00000000000000"], ConflictError, "no artifacts of it begin with"),
    ],
)
def test_a_pin_that_names_nothing_is_refused(
    opened: Opener, pins: list[str], error: type[Exception], words: str
) -> None:
    deploy.apply(opened())
    with pytest.raises(error, match=words):
        deploy.apply(opened(), pins)


def test_a_pinned_artifact_that_is_damaged_is_refused_here_and_not_by_the_server(opened: Opener) -> None:
    deploy.apply(opened())
    made = training_job.train(opened(), "stays").artifact
    made.model_path.chmod(0o644)
    made.model_path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        deploy.apply(opened(), [f"stays@{made.digest}"])
    assert opened().bundles() == {}
