"""Windows straight from single events, for the point-in-time join of the training lane.

Law: the values are those that tiles give, bit for bit; with `seen_at`, those of tiles to which only the events were
applied that could be read by then.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trilane.features.algebra import Columns, Floats, Ints
from trilane.features.ragged import Ragged
from trilane.features.tile import Events, TileLayout
from trilane.features.unseen import Unseen

__all__ = ["EventWindows", "blended", "windows_of"]

_LONGEST = 1 << 62


def windows_of(layout: TileLayout, events: Events, codes: Ints, instants: Ints) -> Floats:
    """Feature values [queries, features] of few queries; `EventWindows` for more."""
    return EventWindows(layout, events).at(codes, instants)


@dataclass(frozen=True, slots=True)
class _Line:
    """Entities and instants on one line of integers, by entity and then by instant.

    An instant counts from `first`, as far as `span` reaches, which is before and behind all that lie on the line; where
    a line of all instants would be too long for an integer, by its place among `ranks`.
    """

    first: int
    span: int
    entities: int
    ranks: Ints | None

    @staticmethod
    def of(codes: Ints, instants: Ints) -> _Line:
        """A line that tells all these apart."""
        entities = int(codes.max(initial=-1)) + 1
        first, last = (int(instants.min()), int(instants.max())) if len(instants) else (0, 0)
        if (entities + 1) * (last - first + 2) < _LONGEST:
            return _Line(first, last - first + 2, entities, None)
        ranks = np.unique(instants)
        return _Line(first, len(ranks) + 1, entities, ranks)

    def at(self, codes: Ints, instants: Ints) -> Ints:
        """Where these lie, or would lie: with what comes next."""
        base = np.minimum(codes, self.entities) * self.span
        if self.ranks is not None:
            return np.asarray(base + np.searchsorted(self.ranks, instants))
        return np.asarray(base + (np.clip(instants, self.first, self.first + self.span - 1) - self.first))

    def entity_of(self, places: Ints) -> Ints:
        """Whose places these are."""
        return places // self.span


class EventWindows:
    """Events of one view, made ready to answer any queries."""

    def __init__(self, layout: TileLayout, events: Events) -> None:
        self._layout, self._codes, kept = layout, events.codes, layout._kept
        self._line = line = _Line.of(events.codes, events.times)
        places = line.at(events.codes, events.times)
        if (places[1:] >= places[:-1]).all():  # as the join sorts them
            self._order = order = np.arange(len(places))
        else:
            self._order = order = np.argsort(places, kind="stable")
            places = places[order]
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
        low = np.searchsorted(self._places, self._line.at(codes, self._layout.lefts(instants)))
        return low, self._ends(codes, instants if ends is None else ends)

    def _ends(self, codes: Ints, instants: Ints) -> Ints:
        return np.searchsorted(self._places, self._line.at(codes, instants))

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
        of_rows = self._line.entity_of(self._places)
        unseen = Unseen.of(of_rows, rows, self._order, visible, codes, instants, high, self._lifted, bags)
        high = np.broadcast_to(unseen.high, low.shape)
        return self._layout._answering.parts(self._prefix, self._others, low, high, instants, unseen)

    def _lacking(self, codes: Ints, instants: Ints, visible: Ints) -> Ints:
        """The queries before which more had happened than could be read."""
        if not len(self._places):
            return np.zeros(0, np.int64)
        happened = np.append(np.flatnonzero(self._fresh), len(self._order))[self._ends(codes, instants)]
        line = _Line.of(np.maximum(codes, self._codes.max()), instants)
        seen_at = np.sort(line.at(self._codes, visible))
        seen = np.searchsorted(seen_at, line.at(codes, instants), "right")
        return np.flatnonzero(happened > seen)


def blended(layout: TileLayout, near: Floats, far: Floats) -> Floats:
    """Feature values of two answers of `seen_parts`: those of long windows from `far`, the others from `near`."""
    long = () if layout.history is None else layout.history.long
    return layout._answering.blended(near, far, long)


def _fixed(state: Columns | Ragged) -> Columns:
    return () if isinstance(state, Ragged) else state
