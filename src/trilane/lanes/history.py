"""Which landed history answers for a view's long windows at an instant.

Laws: one is used up to its tail and no longer, as it would count what has left the window; before the first has landed
the tiles answer alone, if none that a window needs was ever dropped, and the log that they are made from was never cut;
where neither can, it is said how late the history is. A history that was computed while events before its boundary
could still come gives way to an older, final one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from trilane.clock import format_duration, format_instant
from trilane.features.algebra import Ints
from trilane.features.tile import TileLayout
from trilane.features.view import View
from trilane.lanes import progress
from trilane.lanes.progress import Progress
from trilane.sources.event import EventSource
from trilane.stores.online.versions import Version

__all__ = ["NOTHING", "Choice", "HistoryChoice", "Landed", "fitting"]

NOTHING = 1 << 62  # the oldest event of a lane in which none counted yet


class Landed(Protocol):
    """A history that landed: in a store, or as training remembers it."""

    @property
    def boundary(self) -> int:
        """Up to when it holds events."""

    @property
    def visible_from(self) -> int:
        """From when on it may answer."""

    @property
    def final(self) -> bool:
        """Whether no event of before its boundary could come after it was computed."""


_Landed = TypeVar("_Landed", bound=Landed)


def fitting(landed: Sequence[_Landed], now: int, tail: int) -> _Landed | None:
    """Which of the histories, by ascending boundary, answers at instant `now`; None if none may."""
    fit = [one for one in landed if one.visible_from <= now <= one.boundary + tail]
    return next((one for one in reversed(fit) if one.final), fit[-1] if fit else None)


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
        chosen = fitting(versions, now, self._view.tail)
        if chosen is not None:
            return Choice(chosen)
        if all(self._lane_has_all(progress.decode(row), now) for row in lanes):
            return Choice()
        landed = [version for version in versions if version.visible_from <= now]
        if not landed:
            return Choice(lack="no history has landed yet, and the tiles do not reach back as far")
        last, allowed = landed[-1].boundary, format_duration(self._view.tail)
        late = f"{(now - last) / 3.6e9:.1f} h ago, {allowed} allowed"
        return Choice(lack=f"the last history is of {format_instant(last)}, {late}")

    def has_all(self, instants: Ints, oldest: Ints, newest: Ints) -> npt.NDArray[np.bool_]:
        """At which instants the tiles alone answer, of a partition that had come from `oldest` to `newest`."""
        return self._layout.is_whole(instants, oldest=oldest, newest=newest, slack=self._slack)

    def _lane_has_all(self, lane: Progress, now: int) -> bool:
        if lane.newest is None or not lane.applied:
            return True
        if lane.oldest is None:  # it was not noted from the beginning
            return False
        return bool(self.has_all(np.array([now]), np.array([lane.oldest]), np.array([lane.newest]))[0])
