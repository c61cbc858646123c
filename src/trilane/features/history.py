"""History: what the batch lane keeps of a nearline view's long windows, so that a row needs few tiles of them.

The history of a boundary B holds, of one key, for each window W that is longer than the tail T the state of
[B - W + T, B), and by hop the tiles of [B - W, B - W + T), which windows of one hop share. A question at q takes the
state, the tiles that its window still reaches, and the nearline tiles of [B, q). It is Chronon's batch IR with tail
hops (spark/GroupByUpload.scala, aggregator/windowing/SawtoothAggregator.scala), at any boundary and hop.

Law: for B <= q <= B + T these are the events of [floor(q - W, h), q), each once; later the state would hold events that
have left the window, so that nothing may be answered from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.errors import DefinitionError
from trilane.features import ragged
from trilane.features.algebra import Columns, Ints
from trilane.features.ragged import Bag, Ragged
from trilane.features.view import View
from trilane.features.window import Window

__all__ = ["LEVEL_BITS", "HistoryLevels", "Level", "Past", "history_of", "step_of"]


Inside: TypeAlias = npt.NDArray[np.bool_]

LEVEL_BITS = 36  # of a slot; 2**36 hops of 1 s reach the year 4147, and there are 2**4 levels


@dataclass(frozen=True, slots=True)
class Past:
    """The history rows of some keys, in order, at a boundary."""

    boundary: int
    rows: Sequence[bytes | None]


@dataclass(frozen=True, slots=True)
class Level:
    """Records of one kind in a history row: tiles of `hop`, or (0) one state; `windows`: who reads it."""

    hop: int
    windows: tuple[int, ...]


def step_of(view: View, window: Window) -> int:
    """The hop at which a nearline view keeps tiles of a window: of a lifetime window with a history, the schedule."""
    return view.schedule if view.has_history and window.is_lifetime else window.hop


def history_of(view: View, windows: Sequence[Window]) -> HistoryLevels | None:
    """The levels of the history of a view, if it has one."""
    return HistoryLevels(view, windows) if view.has_history else None


class HistoryLevels:
    """Which records a history row has, and which of them each window reads."""

    def __init__(self, view: View, windows: Sequence[Window]) -> None:
        self.tail = view.tail
        self.schedule = view.schedule
        self._windows = tuple(windows)
        self.long: tuple[int, ...] = tuple(i for i, window in enumerate(windows) if view.is_long(window))
        sliding = [i for i in self.long if not windows[i].is_lifetime]
        hops = sorted({windows[i].hop for i in sliding})
        tails = [Level(hop, tuple(i for i in sliding if windows[i].hop == hop)) for hop in hops]
        self.levels: tuple[Level, ...] = (*tails, *(Level(0, (i,)) for i in self.long))
        if len(self.levels) > 16:
            raise DefinitionError("more than 16 windows", where=f"view {view.name!r}", remedy="Split the view")
        self._tail_levels = [(i, hops.index(windows[i].hop)) for i in sliding]
        self._state_levels = [(i, len(hops) + place) for place, i in enumerate(self.long)]

    def records(
        self,
        times: Ints,
        boundary: int,
        lifted: Sequence[Columns | Ragged],
        readers: Sequence[Set[int]],
        bags: Mapping[int, Bag],
    ) -> tuple[list[Inside], Ints, list[Columns | Ragged]]:
        """Of events at `times` with the states `lifted`: for each level which belong to it, and the slots and the
        states of those, level after level. A bag is kept where one of its `readers` (windows) looks.
        """
        members = [self._members(level, times, boundary) for level in self.levels]
        slots = [positions | (level << LEVEL_BITS) for level, (_, positions) in enumerate(members)]
        states: list[Columns | Ragged] = []
        for place, state in enumerate(lifted):
            if not isinstance(state, Ragged):
                states.append(tuple(np.concatenate([part[inside] for inside, _ in members]) for part in state))
                continue
            chosen = [
                state.chosen(inside)
                if not readers[place].isdisjoint(level.windows)
                else ragged.empty(bags[place], len(positions))
                for level, (inside, positions) in zip(self.levels, members, strict=True)
            ]
            states.append(ragged.join(chosen))
        return [inside for inside, _ in members], np.concatenate(slots), states

    def _members(self, level: Level, times: Ints, boundary: int) -> tuple[Inside, Ints]:
        """Which events at `times` belong to a level, and the position of those in it."""
        inside = np.zeros(len(times), bool)
        for window in (self._windows[i] for i in level.windows):
            left, middle = self._cut(window, boundary)
            low, high = (left, middle) if level.hop else (middle, boundary)
            inside |= (times >= low) & (times < high)
        return inside, times[inside] // level.hop if level.hop else np.zeros(int(inside.sum()), np.int64)

    def _cut(self, window: Window, boundary: int) -> tuple[int, int]:
        """Where a window at the boundary begins, and from where on no question lets go of its events."""
        if window.is_lifetime:
            return 0, 0
        return max(boundary - window.length, 0), max(boundary - window.length + self.tail, 0)

    def ranges(self, instants: Ints, boundary: int) -> tuple[Ints, Ints]:
        """From and up to which slot each window reads: of its tiles and of its state [2, windows, instants]."""
        low = np.zeros((2, len(self._windows), len(instants)), np.int64)
        high = np.zeros_like(low)
        for i, level in self._tail_levels:
            window = self._windows[i]
            left = np.maximum((instants - window.length) // window.hop, 0)
            low[0, i] = left | (level << LEVEL_BITS)
            high[0, i] = (self._cut(window, boundary)[1] // window.hop) | (level << LEVEL_BITS)
        for i, level in self._state_levels:
            low[1, i], high[1, i] = level << LEVEL_BITS, (level << LEVEL_BITS) + 1
        return low, high
