"""The nearline worker: applies the event log to the tiles of every live view, as the one writer of its region.

Laws: it may be killed at any instruction; a fault of a store is told, and tried again until it passes; what is applied
anew changes which views it keeps without a restart, and a new view first catches up from the beginning of the log.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from trilane.apps.processes import die_with_parent, stop_flag
from trilane.apps.project import Project
from trilane.clock import WallClock
from trilane.errors import ConflictError, TrilaneError
from trilane.features.view import View
from trilane.lanes.nearline import Consumer, Tools
from trilane.sources.event import EventSource

__all__ = ["Worker", "run"]

_log = logging.getLogger(__name__)
_LOOK_FOR_CHANGES = 1_000_000  # microseconds of wall time between looks at what is applied
_LONGEST_PAUSE = 5.0


def run(project: Project) -> None:
    """Works until SIGTERM or SIGINT. Raises SetupError if another worker has this state."""
    die_with_parent()
    with stop_flag() as stop:
        Worker(project).work(stop)


class Worker:
    """Keeps one consumer for each partition of each source, and one more for each view that is catching up."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._wall = WallClock()
        self._looked = 0
        self._seen: tuple[str, ...] | None = None
        self._consumers: list[Consumer] = []
        self._doubtful = False
        self._tools = Tools(
            log=project.log,
            writer=project.online.writer("nearline"),
            engine=project.warehouse.micro_batch(),
            dead_letters=project.dead_letters,
            clock=project.clock,
            heartbeat=1 if project.config.replay else 1_000_000,
        )

    def work(self, stop: threading.Event) -> None:
        """Steps until `stop` is set; then gives the region free."""
        pause = failures = 0.0
        while not stop.is_set():
            try:
                busy = self.step()
                failures = 0.0
                pause = 0.0 if busy else min(max(pause * 1.5, 0.001), self._idle)
            except TrilaneError as error:
                self._doubtful = True
                failures += 1
                pause = min(0.05 * 2**failures, _LONGEST_PAUSE)
                _log.error("the nearline lane stands, next try in %.1f s: %s", pause, error)
            if pause:
                stop.wait(pause)
        self.close()

    def close(self) -> None:
        """Gives the region free."""
        self._tools.writer.close()

    @property
    def _idle(self) -> float:
        # A replay's clock jumps, and its driver waits for us; live events may wait a moment for a quiet processor.
        return 0.002 if self._project.config.replay else 0.02

    def step(self) -> bool:
        """Lets each consumer apply one micro-batch; true if any had events."""
        if self._doubtful:
            self._reopen()
        self._look_for_changes()
        busy = False
        for consumer in list(self._consumers):
            busy = consumer.step().read > 0 or busy
            if consumer.group:
                self._join(consumer)
        return busy

    def _reopen(self) -> None:
        """After a fault nothing is believed: what was written, and how far the lanes came, is read from the store."""
        self._tools.writer.close()
        self._tools = replace(self._tools, writer=self._project.online.writer("nearline"))
        self._seen, self._consumers, self._doubtful = None, [], False

    def _look_for_changes(self) -> None:
        now = self._wall.now()
        if self._seen is not None and now - self._looked < _LOOK_FOR_CHANGES:
            return
        self._looked = now
        try:
            views = {s: v for s, v in self._project.live_views().items() if v.lane == "nearline"}
        except ConflictError:
            return  # nothing is applied yet
        # A source may change and leave every view as it is: then its new contract counts from here on.
        seen = (*sorted(views), self._project.applied_digest() or "")
        if seen != self._seen:
            self._seen = seen
            self._consumers = self._plan(list(views.values()))
            _log.info("keeping %s", ", ".join(sorted(view.name for view in views.values())) or "no view")

    def _plan(self, views: list[View]) -> list[Consumer]:
        """A consumer for each partition with the views in step, and one for each view that is new to it."""
        consumers = []
        sources = {v.source.name: v.source for v in views if isinstance(v.source, EventSource)}
        for source in sources.values():
            reading = [view for view in views if view.source is not None and view.source.name == source.name]
            for partition in range(source.partitions):
                kept = Consumer(source, partition, reading, self._tools)
                behind = kept.not_in_step()
                if behind:
                    kept = Consumer(source, partition, [v for v in reading if v not in behind], self._tools)
                    consumers += [Consumer(source, partition, [v], self._tools, group=v.space) for v in behind]
                consumers.append(kept)
        return consumers

    def _join(self, newcomer: Consumer) -> None:
        """Merges a consumer that has caught up into the one of its partition."""
        for position, kept in enumerate(self._consumers):
            if not kept.group and kept.is_level_with(newcomer):
                joined = kept.join(newcomer)
                self._consumers[position] = joined
                self._consumers.remove(newcomer)
                _log.info("view %s is in step", ", ".join(view.name for view in newcomer.views))
                return
