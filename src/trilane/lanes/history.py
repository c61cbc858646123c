"""Which landed history answers for a view's long windows at an instant.

Laws: one is used up to its tail and no longer, as it would count what has left the window; before the first has landed
the tiles answer alone, if none that a window needs was ever dropped; where neither can, it is said how late the history
is. A history that was computed while events before its boundary could still come gives way to an older, final one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trilane.clock import format_duration, format_instant
from trilane.features.tile import TileLayout
from trilane.features.view import View
from trilane.lanes import progress
from trilane.lanes.progress import Progress
from trilane.sources.event import EventSource
from trilane.stores.online.versions import Version

__all__ = ["Choice", "HistoryChoice"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The version to read (None: the tiles alone); or why long windows have no answer."""

    version: Version | None = None
    lack: str = ""


class HistoryChoice:
    """Chooses the history of one view; `long` says which of its features need one."""

    def __init__(self, view: View) -> None:
        self._view, self._layout = view, TileLayout(view)
        source = view.source
        self._slack = source.disorder + source.future if isinstance(source, EventSource) else 0
        self.long = np.array([any(map(view.is_long, feature.windows)) for feature in view.features], bool)

    def at(self, now: int, versions: Sequence[Version], lanes: Sequence[bytes | None]) -> Choice:
        """The history at instant `now`; `lanes` are the stored progress of the source's partitions."""
        landed = [version for version in versions if version.visible_from <= now]
        fit = [version for version in landed if now <= version.boundary + self._view.tail]
        if fit:
            return Choice(next((version for version in reversed(fit) if version.final), fit[-1]))
        if all(self._has_all(progress.decode(row), now) for row in lanes):
            return Choice()
        if not landed:
            return Choice(lack="no history has landed yet, and the tiles do not reach back as far")
        last, allowed = landed[-1].boundary, format_duration(self._view.tail)
        late = f"{(now - last) / 3.6e9:.1f} h ago, {allowed} allowed"
        return Choice(lack=f"the last history is of {format_instant(last)}, {late}")

    def _has_all(self, lane: Progress, now: int) -> bool:
        if lane.newest is None:
            return True
        if lane.oldest is None:
            return False
        return self._layout.is_whole(now, oldest=lane.oldest, newest=lane.newest, slack=self._slack)
