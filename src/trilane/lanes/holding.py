"""One partition in the hands of a worker: its writer, its consumers, and what hinders it.

Laws: a fault of one partition is told, kept where others see it, and tried again after ever longer pauses, while the
other partitions go on; after a fault nothing is believed, and all is read anew from the store; a partition that another
worker took over is given up. A view that is being built and fails hinders no other; what leaves is removed when there
is nothing else to do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from trilane.errors import ConflictError, SetupError, TrilaneError, UnavailableError
from trilane.features.view import View
from trilane.lanes import ownership
from trilane.lanes.leaving import Leaving
from trilane.lanes.nearline import Consumer, Tools
from trilane.lanes.retained import shortfall
from trilane.sources.event import EventSource

__all__ = ["Holding"]

_log = logging.getLogger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 100_000, 5_000_000  # microseconds


class Holding:
    """Takes the partition with `take`, which gives tools with a writer of its own, or raises SetupError if another
    worker has it. `now` is an instant of the wall's clock throughout.
    """

    def __init__(
        self,
        source: EventSource,
        partition: int,
        views: Sequence[View],
        take: Callable[[], Tools],
        *,
        owner: str,
        now: int,
    ) -> None:
        self.source, self.partition, self.views = source, partition, tuple(views)
        self.consumers: list[Consumer] = []
        self.fault = ""
        self._owner, self._take = owner, take
        self._retry_at = 0
        self._stuck: dict[str, tuple[int, int]] = {}  # by group: when to try again, and after how many failures
        self._leaving: Leaving | None = None
        self._failures = 0
        self._tools: Tools | None = take()
        try:
            self._note(now, "")
        except TrilaneError as error:
            self._fail(error, now)

    @property
    def offset(self) -> int:
        """What comes next; all before it is applied, to all views that are in step."""
        return next((one.progress.offset for one in self.consumers if not one.group), 0)

    def keep(self, source: EventSource, views: Sequence[View]) -> None:
        """From now on keeps these views."""
        if (source, tuple(views)) != (self.source, self.views):
            self.source, self.views, self.consumers = source, tuple(views), []
            self._stuck = {}

    def step(self, now: int) -> bool:
        """Lets each consumer apply one micro-batch; true if any had events. Raises SetupError once it is another's."""
        if now < self._retry_at:
            return False
        try:
            self._reopen(now)
            busy = self._apply(now)
            if not busy and self._leaving is not None:
                busy = self._leaving.step()
            if self.fault:
                self._note(now, "")
        except Exception as error:  # noqa: BLE001 - whatever it is, the other partitions must go on, and it is told
            self._fail(error, now)
            return False
        self.fault, self._failures = "", 0
        return busy

    def close(self) -> None:
        """Gives the partition free."""
        self.consumers = []
        if self._tools is not None:
            self._tools.writer.close()
            self._tools = None

    def _reopen(self, now: int) -> None:
        """Takes the partition anew, unless it is in our hands."""
        if self._tools is None:
            self._tools = self._take()
            self._note(now, self.fault)

    def _note(self, now: int, fault: str) -> None:
        if self._tools is not None:
            writer, source = self._tools.writer, self.source.name
            ownership.note(writer, source, self.partition, owner=self._owner, now=now, fault=fault)

    def _fail(self, error: Exception, now: int) -> None:
        """Tells a fault and sets when to try again; what is believed goes, and the partition stays ours if it can."""
        self.fault = str(error) if isinstance(error, TrilaneError) else f"{type(error).__name__}: {error}"
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = now + pause
        unexpected = None if isinstance(error, TrilaneError) else error
        what = "partition %s/%d stands, next try in %.1f s: %s"
        _log.error(what, self.source.name, self.partition, pause / 1e6, self.fault, exc_info=unexpected)
        self.close()
        try:
            self._reopen(now)
        except SetupError:
            raise
        except TrilaneError:  # the store is away: the next try begins with this
            self.close()

    def _apply(self, now: int) -> bool:
        if not self.consumers and self._tools is not None:
            kept = {view.space for view in self.views}
            self._leaving = Leaving(self.source, self.partition, self._tools.writer, kept)
            self.consumers = self._plan(self._tools)
            for consumer in self.consumers:
                self._tell_lack(consumer, self._tools)
        busy = False
        for consumer in list(self.consumers):
            if not consumer.group:
                busy = consumer.step().read > 0 or busy
            elif self._stuck.get(consumer.group, (0, 0))[0] <= now:
                busy = self._build(consumer, now) or busy
        return busy

    def _build(self, consumer: Consumer, now: int) -> bool:
        """Lets a view that is being built go on; a fault of its own is noted, and tried again."""
        try:
            # No further than the others are, or under steady events it would never come level with them.
            busy = consumer.step(self.offset).read > 0
        except (ConflictError, SetupError, UnavailableError):
            raise  # of the store or the log, which all share
        except Exception as error:  # noqa: BLE001 - whatever it is, those that answer must go on
            failures = self._stuck.get(consumer.group, (0, 0))[1] + 1
            self._stuck[consumer.group] = (now + min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE), min(failures, 16))
            fault = str(error) if isinstance(error, TrilaneError) else f"{type(error).__name__}: {error}"
            _log.error("view %s cannot be built on: %s", consumer.group, fault)
            consumer.note_fault(fault)
            return False
        if self._stuck.pop(consumer.group, None):
            consumer.note_fault("")
        self._join(consumer)
        return busy

    def _plan(self, tools: Tools) -> list[Consumer]:
        """A consumer with the views in step, and one for each view that is new."""
        kept = Consumer(self.source, self.partition, self.views, tools)
        behind = kept.not_in_step()
        if not behind:
            return [kept]
        in_step = [view for view in self.views if view not in behind]
        late = [Consumer(self.source, self.partition, [view], tools, group=view.space) for view in behind]
        return [Consumer(self.source, self.partition, in_step, tools), *late]

    def _tell_lack(self, consumer: Consumer, tools: Tools) -> None:
        """Tells of views that begin anew which of the events that they count the log has no longer."""
        if consumer.progress.offset:
            return
        for view in consumer.views:
            found = shortfall(tools.log, view, self.partition, tools.clock.now())
            if found is not None:
                _log.warning("view %s is built from less than its windows reach: %s", view.name, found)
                if consumer.group:
                    consumer.note_fault(str(found))

    def _join(self, newcomer: Consumer) -> None:
        """Merges a consumer that has caught up into the main one."""
        for position, kept in enumerate(self.consumers):
            if not kept.group and kept.is_level_with(newcomer):
                self.consumers[position] = kept.join(newcomer)
                self.consumers.remove(newcomer)
                _log.info("view %s is in step", ", ".join(view.name for view in newcomer.views))
                return
