"""Whether a log still has all that a view's windows reach, before a view is built from it.

Law: what is said to be lacking is what the log's own offsets and arrivals show to be gone and in reach; a log that
begins with its first event lacks nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from trilane.clock import format_instant
from trilane.features.view import View
from trilane.sources.event import EventSource
from trilane.sources.log.protocol import EventLog

__all__ = ["Shortfall", "shortfall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """A partition of a source begins at the event `first`, which arrived at `since` (None: none is left), but a window
    reaches back to `needed`.
    """

    source: str
    partition: int
    first: int
    since: int | None
    needed: int

    def __str__(self) -> str:
        begins = "has yet to come" if self.since is None else f"arrived at {format_instant(self.since)}"
        reach = f"to {format_instant(self.needed)}" if self.needed else "to the first"
        return (
            f"the log of {self.source}/{self.partition} was cut: it begins with the event {self.first}, "
            f"which {begins}, and a window reaches back {reach}; what is gone is not counted"
        )


def shortfall(log: EventLog, view: View, partition: int, now: int) -> Shortfall | None:
    """What the log lacks to build the tiles of `view` in one partition at instant `now`; None if it has all.

    Windows that a history answers need no more of the log than the tail.
    """
    source = view.source
    if not isinstance(source, EventSource) or not (end := log.end(source.name, partition)):
        return None
    rows = log.read(source.name, partition, 0, 1)
    first = int(rows.column("offset")[0].as_py()) if rows.num_rows else end
    if first == 0:
        return None
    since = int(rows.column("arrived_at")[0].as_py()) if rows.num_rows else None
    windows = [window for feature in view.features for window in feature.windows]
    tail = [now - view.tail] if view.has_history else []
    needed = min([*tail, *(window.left(now) for window in windows if not view.is_long(window))], default=now)
    # What is gone arrived before the first that is left, and happened `future` later at most.
    if since is not None and since + source.future <= needed:
        return None
    return Shortfall(source=source.name, partition=partition, first=first, since=since, needed=max(needed, 0))
