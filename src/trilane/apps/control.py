"""The control role: the scheduler of the batch lane.

Laws: every version that should have landed by now is computed, oldest first, once; a job that fails is recorded and
tried again after a pause, while the version before it serves; newly applied definitions are noticed within a second.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass

from trilane.apps.batch_job import archive_sources, is_settled, land_version, withdraw_views
from trilane.apps.expectations import findings
from trilane.apps.processes import die_with_parent, stop_flag
from trilane.apps.project import Project
from trilane.apps.swap import pending, swap
from trilane.apps.watch import Watch
from trilane.clock import SteadyClock, format_instant
from trilane.errors import SetupError, TrilaneError
from trilane.features.view import View
from trilane.lanes.batch.materialize import due
from trilane.stores.online.versions import versions

__all__ = ["Scheduler", "boundaries", "run"]

logger = logging.getLogger(__name__)

_POLL, _REPLAY_POLL = 1.0, 0.02  # seconds; in a replay an hour may pass between two polls of a second
_REREAD = 1.0  # seconds between looks for newly applied definitions and for versions that others landed
_ARCHIVE = 60.0  # seconds between two archivings of what no job has asked for
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_KEPT = 3  # how many versions of a view a landing keeps


def run(project: Project) -> None:
    """Keeps the batch lane up to date until SIGTERM or SIGINT."""
    die_with_parent()
    scheduler = Scheduler(project)
    with contextlib.suppress(TrilaneError):  # each job tries again
        project.registry.abandon_dead()
    pause = _REPLAY_POLL if project.config.replay else _POLL
    with stop_flag() as stop:
        while not stop.is_set():
            scheduler.step(time.monotonic())
            stop.wait(pause)


def boundaries(view: View, now: int) -> list[int]:
    """The versions of a batch view or a history that should exist at instant `now`: the one that answers, and those
    after it whose events have settled.
    """
    return list(range(max(view.boundary(now), 0), due(view, now) + 1, view.schedule))


@dataclass
class _Retry:
    at: float
    pause: float


class Scheduler:
    """The scheduler's state between two steps; `seconds` is any clock that runs with real time."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._views: dict[str, View] = {}
        self._landed: dict[str, set[int]] = {}
        self._unsettled: dict[str, set[int]] = {}
        self._leaving: list[str] = []
        self._retries: dict[str, _Retry] = {}
        self._broken: set[tuple[str, str]] = set()
        self._watch, self._steady, self._awaits = Watch(project.metadata), SteadyClock(), False
        self._reread_at = self._archive_at = float("-inf")

    def step(self, seconds: float) -> None:
        """Does what is due; whatever goes wrong is logged, never raised."""
        try:
            if seconds >= self._reread_at:
                self._reread_at = seconds + _REREAD
                self._reread()
            self._materialize(seconds)
            if seconds >= self._archive_at:
                self._archive_at = seconds + _ARCHIVE
                archive_sources(self._project, list(self._views.values()))
                self._look_at_sources()
                self._settle(seconds)
        except TrilaneError as error:
            self._watch.forget()
            logger.error("%s", error)

    def _swap(self) -> None:
        """Lets what is filled by now answer."""
        for switch in swap(self._project):
            logger.info("%s: what was built answers from now on (%s)", switch.name, switch.target[:16])
        self._awaits = bool(pending(self._project))

    def _look_at_sources(self) -> None:
        """Logs each expectation that is broken now and was not before, and each that is met again."""
        for found in findings(self._project):
            name = (found.source, found.expectation)
            if not found.met and name not in self._broken:
                logger.warning("%s does not bring what is expected: %s", found.source, found.text)
                self._broken.add(name)
            elif found.met and name in self._broken:
                logger.info("%s brings what is expected again: %s", found.source, found.text)
                self._broken.discard(name)

    def _reread(self) -> None:
        if self._watch.moved(self._steady.now()) or self._awaits:
            if self._project.applied_digest() is None:
                return
            views = self._project.live_views()
            if set(views) != set(self._views):
                self._leaving = self._landed_before({view.landed_as for view in views.values()})
            self._views = views
            self._swap()
        if self._leaving:
            with contextlib.suppress(SetupError):  # another process loads; there is no hurry
                self._leaving = withdraw_views(self._project, self._leaving)
        online = self._project.online
        found = {space: versions(online, view.landed_as) for space, view in self._views.items() if view.is_landed}
        self._landed = {space: {version.boundary for version in landed} for space, landed in found.items()}
        self._unsettled = {
            space: {version.boundary for version in landed if not version.final}
            for space, landed in found.items()
            if self._views[space].has_history
        }

    def _landed_before(self, kept: set[str]) -> list[str]:
        """Under which names views of earlier definitions have landed rows that nobody keeps any longer."""
        specs = [spec for record in self._project.registry.history() for spec in record.specs]
        names = {
            f"{'batch' if spec['lane'] == 'batch' else 'history'}/{spec['name']}@{spec['version'][:16]}"
            for spec in specs
            if spec.get("kind") == "view" and spec.get("schedule")
        }
        return [name for name in sorted(names - kept) if versions(self._project.online, name)]

    def _materialize(self, seconds: float) -> None:
        now = self._project.clock.now()
        for space, landed in self._landed.items():
            view = self._views[space]
            for boundary in boundaries(view, now):
                retry = self._retries.get(space)
                if boundary in landed or (retry is not None and seconds < retry.at):
                    continue
                if len(landed) >= _KEPT and boundary < sorted(landed)[-_KEPT]:
                    continue  # later ones have driven it out
                self._land(view, boundary, landed, seconds)

    def _settle(self, seconds: float) -> None:
        """Computes histories again of which events had been missing, once no more of them can come."""
        for space, boundaries_ in self._unsettled.items():
            view, retry = self._views[space], self._retries.get(space)
            for boundary in sorted(boundaries_):
                if is_settled(self._project, view, boundary) and (retry is None or seconds >= retry.at):
                    self._land(view, boundary, self._landed[space], seconds)

    def _land(self, view: View, boundary: int, landed: set[int], seconds: float) -> None:
        where = f"{view.name} at {format_instant(boundary)}"
        try:
            version = land_version(self._project, view, boundary)
        except Exception as error:  # noqa: BLE001 - a bug in one view must not stop the others
            pause = self._put_off(view.space, seconds)
            logger.error("%s could not be computed, next try in %g s: %s", where, pause, error)
        else:
            self._retries.pop(view.space, None)
            landed.add(boundary)
            if version is not None and not version.final and view.has_history:
                self._unsettled.setdefault(view.space, set()).add(boundary)
            else:
                self._unsettled.get(view.space, set()).discard(boundary)
            logger.info("%s has landed with %d keys", where, version.rows if version else 0)

    def _put_off(self, space: str, seconds: float) -> float:
        before = self._retries.get(space)
        pause = min(before.pause * 2, _LONGEST_PAUSE) if before else _FIRST_PAUSE
        self._retries[space] = _Retry(seconds + pause, pause)
        return pause
