"""Decoded rows of the online store, kept while they cannot have changed.

Laws: what a cache answers is what decoding the row anew would answer, bit for bit: a landed version never changes, and
a row of tiles gives the same values as long as its bytes and the tiles that each window reaches are the same. A cache
never holds more than its share of memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trilane.features.algebra import Floats
from trilane.features.tile import TileLayout

__all__ = ["RowCache"]

_CAPACITY = 32 << 20  # bytes of rows and values, for each view


class RowCache:
    """The values of one view by encoded key; each key has `shards` rows."""

    def __init__(self, layout: TileLayout, *, shards: int = 1) -> None:
        self._shards = shards
        self._layout = layout
        self._scope: object = None
        self._known: dict[bytes, tuple[Sequence[bytes | None], Floats]] = {}
        self._size = 0

    def enter(self, space: str, now: int) -> None:
        """Forgets everything if the rows now come from another space, or if a window reaches other tiles."""
        scope = space if self._layout.is_batch else (space, *self._layout.reach(now))
        if scope != self._scope or self._size > _CAPACITY:
            self._scope, self._size = scope, 0
            self._known.clear()

    def to_read(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those of `keys` whose rows must be read from the store: of a landed version, those not known."""
        return [key for key in keys if key not in self._known] if self._layout.is_batch else keys

    def values(self, keys: Sequence[bytes], read: Sequence[bytes], rows: Sequence[bytes | None], now: int) -> Floats:
        """Values [keys, features] at instant `now`; `rows` are the stored rows of the keys in `read`, in order.

        Raises ValueError for bytes that are no rows of this view.
        """
        known = self._known
        shards = self._shards
        own = [rows[i * shards : i * shards + shards] for i in range(len(read))]
        changed = [i for i, key in enumerate(read) if (entry := known.get(key)) is None or entry[0] != own[i]]
        if changed:
            fresh = [row for i in changed for row in own[i]]
            decoded = self._layout.read(fresh, np.full(len(changed), now, np.int64), shards=shards)
            for i, values in zip(changed, decoded, strict=True):
                kept = () if self._layout.is_batch else own[i]
                known[read[i]] = (kept, values)
                self._size += sum(len(row or b"") for row in kept) + values.nbytes
        return np.array([known[key][1] for key in keys])
