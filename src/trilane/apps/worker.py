"""The nearline worker: applies its share of the event log's partitions to the tiles of every live view.

Laws: it may be killed at any instruction, or stopped and continued; what it has is taken over by the other workers, and
what it then still believes changes nothing. A fault of one partition is told and tried again while the others go on. A
change of what is applied changes which views it keeps without a restart.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from functools import partial

from trilane.apps.processes import die_with_parent, stop_flag
from trilane.apps.project import Project
from trilane.apps.watch import Watch
from trilane.clock import SteadyClock
from trilane.errors import ConflictError, SetupError, TrilaneError
from trilane.features.view import View
from trilane.lanes.holding import Holding
from trilane.lanes.nearline import Tools
from trilane.lanes.ownership import REGION
from trilane.sources.dead_letters import DeadLetters
from trilane.sources.event import EventSource
from trilane.sources.log.assignment import Assignment, Place
from trilane.sources.log.protocol import EventLog
from trilane.stores.offline.protocol import MicroBatch
from trilane.stores.online.protocol import Writer
from trilane.stores.online.sharing import LeaseAssignment, part_of

__all__ = ["Worker", "run"]

_log = logging.getLogger(__name__)
_LOOK_FOR_CHANGES = 1_000_000  # microseconds between looks at what is applied
_TRY_TO_TAKE = 50_000  # and between two tries to take what another worker still has
_LONGEST_PAUSE = 5.0


def run(project: Project, *, member: str = "") -> None:
    """Works until SIGTERM or SIGINT, as `member` of the group; raises SetupError if another worker has that name.

    An empty name is that of the process, and another one after each start.
    """
    die_with_parent()
    with stop_flag() as stop:
        Worker(project, member=member).work(stop)


@dataclass(frozen=True, kw_only=True)
class _Kit:
    """What all partitions of a worker work with."""

    log: EventLog
    engine: MicroBatch
    dead_letters: DeadLetters
    project: Project
    limit: int = 200_000

    def with_writer(self, writer: Writer) -> Tools:
        return Tools(
            log=self.log,
            writer=writer,
            engine=self.engine,
            dead_letters=self.dead_letters,
            clock=self.project.clock,
            limit=self.limit,
            schemas=self.project.schemas,
            heartbeat=1 if self.project.config.replay else 1_000_000,
        )


@dataclass
class _Reading:
    """A source and the views that read it."""

    source: EventSource
    views: list[View] = field(default_factory=list)


class Worker:
    """Keeps what its assignment says it should have."""

    def __init__(self, project: Project, *, member: str = "") -> None:
        self._project = project
        self._wall = SteadyClock()
        self._looked, self._watch = 0, Watch(project.metadata)
        self._seen: tuple[str, ...] | None = None
        self._readings: dict[str, _Reading] = {}
        self._places: frozenset[Place] = frozenset()
        self._holdings: dict[Place, Holding] = {}
        self._refused: dict[Place, str] = {}
        self._tried = 0
        self.member = _checked(member) if member else _process_name()
        self._tools = _Kit(
            log=project.log,
            engine=project.warehouse.micro_batch(),
            dead_letters=project.dead_letters,
            project=project,
        )
        self._assignment = self._join(static=bool(member))

    @property
    def offsets(self) -> dict[Place, int]:
        """What comes next in each partition that it has."""
        return {place: holding.offset for place, holding in list(self._holdings.items())}

    def work(self, stop: threading.Event) -> None:
        """Steps until `stop` is set; then gives all free. Raises ConflictError if another took its name."""
        pause = failures = 0.0
        try:
            while not stop.is_set():
                try:
                    busy = self.step()
                    failures = 0.0
                    pause = 0.0 if busy else min(max(pause * 1.5, 0.001), self._idle)
                except ConflictError:
                    raise
                except TrilaneError as error:
                    failures = min(failures + 1, 16)
                    pause = min(0.05 * 2**failures, _LONGEST_PAUSE)
                    _log.error("this worker does not know its share, next try in %.1f s: %s", pause, error)
                if pause:
                    stop.wait(pause)
        finally:
            self.close()

    def close(self) -> None:
        """Gives all free, and leaves the group."""
        for place in list(self._holdings):
            self._release(place)
        self._assignment.close()

    @property
    def _idle(self) -> float:
        # A replay's clock jumps, and its driver waits for us; live events may wait a moment for a quiet processor.
        return 0.002 if self._project.config.replay else 0.02

    def step(self) -> bool:
        """Lets each partition that it should have apply one micro-batch; true if any had events."""
        self._look_for_changes()
        wanted = self._assignment.turn(self._places, self._release)
        self._take(wanted)
        busy = False
        for place, holding in list(self._holdings.items()):
            try:
                busy = holding.step(self._wall.now()) or busy
            except TrilaneError as error:
                _log.error("partition %s/%d is given up: %s", *place, error)
                self._release(place)
        self._assignment.note(self.offsets)
        return busy

    def _join(self, *, static: bool) -> Assignment:
        own = self._project.log.assignment(self.member, static=static)
        return own or LeaseAssignment(self._project.online, REGION, self.member, self._wall)

    def _take(self, wanted: frozenset[Place]) -> None:
        """Takes what it should have and nobody has any longer."""
        missing, now = wanted - set(self._holdings), self._wall.now()
        if not missing or (self._refused and now - self._tried < _TRY_TO_TAKE):
            return
        self._tried, refused = now, {}
        for place in sorted(missing):
            source, partition = place
            reading = self._readings[source]
            try:
                self._holdings[place] = Holding(
                    reading.source, partition, reading.views, partial(self._open, place), owner=self.member, now=now
                )
                _log.info("taking %s/%d", source, partition)
            except TrilaneError as error:
                refused[place] = error.what
                if place not in self._refused:
                    _log.warning("partition %s/%d cannot be taken yet: %s", source, partition, error)
        self._refused = refused

    def _open(self, place: Place) -> Tools:
        return self._tools.with_writer(self._project.online.writer(REGION, part_of(place), holder=self.member))

    def _release(self, place: Place) -> None:
        holding = self._holdings.pop(place, None)
        if holding is not None:
            _log.info("giving %s/%d back", *place)
            holding.close()

    def _look_for_changes(self) -> None:
        now = self._wall.now()
        if self._seen is not None and now - self._looked < _LOOK_FOR_CHANGES:
            return
        self._looked = now
        if not self._watch.moved(now):
            return
        try:
            views = {s: v for s, v in self._project.live_views().items() if v.lane == "nearline"}
        except ConflictError:
            return  # nothing is applied yet
        except TrilaneError:
            self._watch.forget()
            raise
        # A source may change and leave every view as it is: then its new contract counts from here on.
        seen = (*sorted(views), self._project.applied_digest() or "")
        if seen != self._seen:
            self._seen = seen
            self._keep(list(views.values()))
            _log.info("keeping %s", ", ".join(sorted(view.name for view in views.values())) or "no view")

    def _keep(self, views: list[View]) -> None:
        self._readings = {}
        for view in views:
            if isinstance(view.source, EventSource):
                self._readings.setdefault(view.source.name, _Reading(view.source)).views.append(view)
        self._places = frozenset(
            (name, partition) for name, one in self._readings.items() for partition in range(one.source.partitions)
        )
        for (source, _), holding in self._holdings.items():
            if source in self._readings:
                holding.keep(self._readings[source].source, self._readings[source].views)


def _process_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{socket.gethostname()}-{os.getpid()}")


def _checked(member: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,200}", member):
        remedy = "Use letters, digits, `.`, `_` and `-`"
        raise SetupError(f"{member!r} is no name for a worker", where="member", remedy=remedy)
    return member
