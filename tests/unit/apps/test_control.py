"""The batch lane's scheduler: what is due lands once, what fails is tried again."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.apps.conftest import START, Opener
from trilane.apps import deploy
from trilane.apps.control import Scheduler, boundaries
from trilane.apps.project import Project
from trilane.clock import SimulatedClock, duration, format_instant
from trilane.stores.online.versions import versions


def _landed(project: Project) -> list[str]:
    return [format_instant(v.boundary) for v in versions(project.online, project.definitions.views["daily"].space)]


def test_what_is_due_lands_once(opened: Opener) -> None:
    deploy.apply(opened())
    project = opened()
    scheduler = Scheduler(project)
    for second in range(3):
        scheduler.step(float(second))
    assert _landed(project) == ["2026-03-10T00:00:00Z"]
    assert len(project.metadata.runs(kind="materialize")) == 1


def test_after_a_jump_of_the_clock_the_version_that_answers_lands_too(opened: Opener, clock: SimulatedClock) -> None:
    deploy.apply(opened())
    project = opened()
    clock.move_to(START + duration("13h"))  # past midnight, and past the disorder, but before the landing time
    view = project.definitions.views["daily"]
    assert [format_instant(at) for at in boundaries(view, clock.now())] == [
        "2026-03-10T00:00:00Z",
        "2026-03-11T00:00:00Z",
    ]
    Scheduler(project).step(0.0)
    assert _landed(project) == ["2026-03-10T00:00:00Z", "2026-03-11T00:00:00Z"]


def test_without_definitions_it_waits(opened: Opener) -> None:
    project = opened()
    scheduler = Scheduler(project)
    scheduler.step(0.0)
    deploy.apply(opened())
    scheduler.step(2.0)
    assert _landed(project) == ["2026-03-10T00:00:00Z"]


def test_a_job_that_fails_is_recorded_and_tried_again_after_a_pause(opened: Opener, folder: Path) -> None:
    text = (folder / "definitions.py").read_text()
    (folder / "definitions.py").write_text(
        text.replace("@tl.batch(visits, user,", "@tl.batch(labels, user,")
        .replace("def daily(visits", "def daily(labels")
        .replace("    return visits\n\n@tl.nearline", "    return labels\n\n@tl.nearline")
    )
    (folder / "labels.csv").write_text("user,at,stays\nu1,yesterday,true\n")
    deploy.apply(opened())
    project = opened()
    scheduler = Scheduler(project)
    scheduler.step(0.0)
    scheduler.step(0.5)
    (run,) = project.metadata.runs(kind="materialize")
    assert run.status == "failed"
    assert run.error is not None
    (folder / "labels.csv").write_text("user,at,stays\nu1,2026-03-09T10:00:00Z,true\n")
    scheduler.step(1.5)
    assert _landed(project) == ["2026-03-10T00:00:00Z"]


def test_a_history_lands_by_the_schedule_of_its_view_and_again_once_it_is_final(
    opened: Opener, clock: SimulatedClock, folder: Path
) -> None:
    text = (folder / "definitions.py").read_text()
    longer = 'schedule="1d", tail="3d", features={"n_30d": tl.count(window="30d"), '
    assert "@tl.nearline" in text
    before, after = text.split("@tl.nearline", 1)
    (folder / "definitions.py").write_text(before + "@tl.nearline" + after.replace("features={", longer, 1))
    deploy.apply(opened())
    project = opened()
    [view] = [view for view in project.definitions.views.values() if view.has_history]
    scheduler = Scheduler(project)
    scheduler.step(0.0)
    [version] = versions(project.online, view.landed_as)
    assert (format_instant(version.boundary), version.final) == ("2026-03-10T00:00:00Z", False)
    visit = {"id": "v1", "user": "u1", "at": format_instant(START)}
    project.log.append("visits", 0, [json.dumps(visit).encode()], clock.now() + 1)
    scheduler.step(61.0)
    [again] = versions(project.online, view.landed_as)
    assert (again.boundary, again.final) == (version.boundary, True)
    scheduler.step(122.0)
    assert len([run for run in project.metadata.runs(kind="materialize") if run.subject == view.name]) == 2
