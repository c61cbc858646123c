"""Windows over rows that can be taken back, as batch versions see them: anew from the rows that remain at a boundary.

Law: the values are those of a version that was computed at the boundary from the changes made before it.
"""

from __future__ import annotations

import numpy as np

from trilane.features.algebra import Floats, Ints
from trilane.features.event_windows import windows_of
from trilane.features.remaining import Remaining
from trilane.features.tile import Events, TileLayout
from trilane.training.gathered import left_of

__all__ = ["ChangedWindows"]


class ChangedWindows:
    """Rows of one view with signs, and when each was `changed`; each boundary is computed by itself."""

    def __init__(self, layout: TileLayout, events: Events, changed: Ints) -> None:
        self._layout, self._times, self._changed = layout, events.times, changed
        self._remaining = Remaining(events)

    def at(self, codes: Ints, instants: Ints) -> Floats:
        """Feature values [queries, features], each asked at its boundary."""
        values = np.empty((len(codes), len(self._layout.view.features)))
        for boundary in np.unique(instants).tolist():
            asks = instants == boundary
            inside = (self._times >= left_of(self._layout, boundary)) & (self._times < boundary)
            events = self._remaining.rows(inside & (self._changed < boundary))
            values[asks] = windows_of(self._layout, events, codes[asks], instants[asks])
        return values
