"""Windows straight from single events, for the point-in-time join of the training lane.

Law: the values are those that tiles give, bit for bit; with `seen_at`, those of tiles to which only the events were
applied that could be read by then.
"""

from __future__ import annotations

import numpy as np

from trilane.features.algebra import Columns, Floats, Ints
from trilane.features.ragged import Ragged
from trilane.features.tile import Events, TileLayout
from trilane.features.unseen import Unseen

__all__ = ["EventWindows", "blended", "windows_of"]


def windows_of(layout: TileLayout, events: Events, codes: Ints, instants: Ints) -> Floats:
    """Feature values [queries, features] of few queries; `EventWindows` for more."""
    return EventWindows(layout, events).at(codes, instants)


class EventWindows:
    """Events of one view, made ready to answer any queries."""

    def __init__(self, layout: TileLayout, events: Events) -> None:
        self._layout, self._codes, kept = layout, events.codes, layout._kept
        self._order = order = np.lexsort((events.times, events.codes))
        self._ranks, place = np.unique(events.times[order], return_inverse=True)
        self._span = len(self._ranks) + 1
        places = events.codes[order] * self._span + place
        self._fresh = fresh = np.diff(places, prepend=-1) != 0
        starts = np.flatnonzero(fresh)
        self._places = places[starts]
        self._lifted = layout.lift(events)
        states = layout._merged(self._lifted, order, fresh, starts)
        self._others = [None if k.is_added else state for k, state in zip(kept, states, strict=True)]
        added = [part for state, k in zip(states, kept, strict=True) if k.is_added for part in _fixed(state)]
        self._prefix = layout._answering.prefix(added, len(starts))

    def _bounds(self, codes: Ints, instants: Ints, ends: Ints | None = None) -> tuple[Ints, Ints]:
        """The rows from which each window [windows, queries] begins, and before which the queries end."""
        base = codes * self._span
        low = np.searchsorted(self._places, base + np.searchsorted(self._ranks, self._layout.lefts(instants)))
        ends = instants if ends is None else ends
        return low, np.searchsorted(self._places, base + np.searchsorted(self._ranks, ends))

    def at(self, codes: Ints, instants: Ints, ends: Ints | None = None) -> Floats:
        """Feature values [queries, features]: what `TileLayout.read` would give at each (code, instant).

        For a batch view the instants are boundaries. With `ends`, of tiles that have only the events before these.
        """
        low, high = self._bounds(codes, instants, ends)
        high = np.maximum(high, low)  # a lane may be farther behind than a window reaches
        return self._layout._answering.answer(self._prefix, self._others, low, high, instants)

    def seen_at(self, codes: Ints, instants: Ints, visible: Ints, values: Floats) -> Floats:
        """`values`, which are those of `at`, with the answers of queries that could not read all events yet.

        `visible`: from when on each event could be read, later than it happened. Queries come sorted.
        """
        lacking = self._lacking(codes, instants, visible)
        if not len(lacking):
            return values
        values = values.copy()
        values[lacking] = self._layout._answering.finished(self._seen_parts(codes[lacking], instants[lacking], visible))
        return values

    def seen_parts(self, codes: Ints, instants: Ints, visible: Ints) -> Floats:
        """What the values of `seen_at` are finished from; see `Answering.parts`."""
        low, high = self._bounds(codes, instants)
        found = self._layout._answering.parts(
            self._prefix, self._others, low, np.broadcast_to(high, low.shape), instants
        )
        lacking = self._lacking(codes, instants, visible)
        if len(lacking):
            found[:, lacking] = self._seen_parts(codes[lacking], instants[lacking], visible)
        return found

    def _seen_parts(self, codes: Ints, instants: Ints, visible: Ints) -> Floats:
        low, high = self._bounds(codes, instants)
        rows, bags = np.cumsum(self._fresh) - 1, [kept.bag for kept in self._layout._kept]
        of_rows = self._places // self._span
        unseen = Unseen.of(of_rows, rows, self._order, visible, codes, instants, high, self._lifted, bags)
        high = np.broadcast_to(unseen.high, low.shape)
        return self._layout._answering.parts(self._prefix, self._others, low, high, instants, unseen)

    def _lacking(self, codes: Ints, instants: Ints, visible: Ints) -> Ints:
        """The queries before which more had happened than could be read."""
        if not len(self._places):
            return np.zeros(0, np.int64)
        happened = np.append(np.flatnonzero(self._fresh), len(self._order))[self._bounds(codes, instants)[1]]
        moments = np.unique(instants)
        span = len(moments) + 1
        seen_at = np.sort(self._codes * span + np.searchsorted(moments, visible))
        seen = np.searchsorted(seen_at, codes * span + np.searchsorted(moments, instants), "right")
        return np.flatnonzero(happened > seen)


def blended(layout: TileLayout, near: Floats, far: Floats) -> Floats:
    """Feature values of two answers of `seen_parts`: those of long windows from `far`, the others from `near`."""
    long = () if layout.history is None else layout.history.long
    return layout._answering.blended(near, far, long)


def _fixed(state: Columns | Ragged) -> Columns:
    return () if isinstance(state, Ragged) else state
