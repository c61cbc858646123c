"""Of rows that were added and taken back, those that remain: what is computed anew from whole rows needs no inverse.

Law: which rows remain depends on the set of changes alone. A row that is taken back more often than it was added does
not remain, and takes no other with it; where states are turned round instead, tiles fall below zero, which is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Count, Ints
from trilane.features.ragged import Ragged
from trilane.features.tile import Events, TileLayout

__all__ = ["Remaining", "below_zero", "first_kept"]


class Remaining:
    """Rows with signs, in which those are found that are the same but for their sign."""

    def __init__(self, events: Events) -> None:
        self._events, size = events, len(events.codes)
        self._signs = np.ones(size, np.int64) if events.signs is None else events.signs
        columns = [events.codes, events.times]
        for values, valid in events.columns.values():
            columns += [np.where(valid, values, 0).view(np.int64), valid.astype(np.int64)]
        order = np.lexsort(columns)
        fresh = np.zeros(size, np.int64)
        for column in columns:
            ordered = column[order]
            fresh[1:] |= ordered[1:] != ordered[:-1]
        numbers = np.cumsum(fresh)
        self._same: Ints = np.empty(size, np.int64)
        self._same[order] = numbers
        self._first = order[np.searchsorted(numbers, np.arange(int(numbers[-1]) + 1 if size else 0))]

    def rows(self, known: npt.NDArray[np.bool_]) -> Events:
        """What remains if the changes are those that are `known`."""
        number = np.zeros(len(self._first), np.int64)
        np.add.at(number, self._same[known], self._signs[known])
        left = self._events.chosen(np.repeat(self._first, np.maximum(number, 0)))
        return replace(left, signs=None)


def first_kept(layout: TileLayout, newest: int) -> int:
    """The event time before which no query after `newest` sees anything (microseconds)."""
    return int(((newest - layout.backs) // layout.steps * layout.steps).min())


def below_zero(layout: TileLayout, rows: Sequence[bytes | None]) -> Ints:
    """Of each stored row, in how many tiles more was taken back than was added."""
    codes, tiles = layout.format.decode(rows)
    wrong = np.zeros(len(codes), bool)
    for kept, state in zip(layout._kept, layout.format.unpack(tiles), strict=True):
        if isinstance(state, Ragged):
            wrong[state.of[state.parts[1] < 0]] = True
        elif isinstance(kept.state, Count):
            wrong |= state[0] < 0
    return np.bincount(codes[wrong], minlength=len(rows))
