"""Decoded rows of the online store, kept while they cannot have changed.

Laws: what a cache answers is what decoding the row anew would answer, bit for bit: a landed version never changes, and
a row of tiles gives the same values as long as its bytes and the tiles that each window reaches are the same. A cache
never holds more than its share of memory; one without a share keeps nothing, and every row is read and decoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trilane.features.algebra import Floats
from trilane.features.history import Past
from trilane.features.tile import TileLayout

__all__ = ["CAPACITY", "RowCache"]

CAPACITY = 32 << 20  # bytes of rows and values, for each view
_FEWEST = 256  # rows for which there is room at first


class RowCache:
    """The values of one view by encoded key; each key has `shards` rows. `capacity`: bytes it may keep, 0 for none."""

    def __init__(self, layout: TileLayout, *, shards: int = 1, capacity: int = CAPACITY) -> None:
        self._shards, self._layout, self._capacity = shards, layout, capacity
        self._scope: object = None
        self._places: dict[bytes, int] = {}
        self._rows: list[object] = []
        self._values = np.empty((0, len(layout.view.features)))
        self._size = 0

    def enter(self, space: str, now: int, history: object = None) -> None:
        """Forgets everything if the rows or their `history` come from elsewhere now, or windows reach other tiles."""
        if not self._capacity:
            return
        scope = space if self._layout.is_batch else (space, history, *self._layout.reach(now))
        if scope != self._scope or self._size > self._capacity:
            self._scope, self._size = scope, 0
            self._places.clear()
            self._rows.clear()

    def to_read(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those of `keys` whose rows must be read from the store: of a landed version, those not known."""
        if not (self._places and self._layout.is_batch):
            return keys
        known = self._places
        return [key for key in keys if key not in known]

    def values(
        self,
        keys: Sequence[bytes],
        read: Sequence[bytes],
        rows: Sequence[bytes | None],
        now: int,
        past: Past | None = None,
    ) -> Floats:
        """Values [keys, features] at instant `now`; `rows` are the stored rows of the keys in `read`, in order, and
        `past` their history.

        Raises ValueError for bytes that are no rows of this view.
        """
        if not self._capacity:
            return self._decoded(rows, now, past)
        if self._layout.is_batch:
            self._keep(read, rows, [None] * len(read), now, None)
        else:
            shards = self._shards
            own = rows if shards == 1 else [tuple(rows[i : i + shards]) for i in range(0, len(rows), shards)]
            changed = [i for i, key in enumerate(read) if not self._is_kept(key, own[i])]
            fresh = [rows[i * shards + shard] for i in changed for shard in range(shards)]
            # A landed history never changes: it need not be compared, only read where the row has changed.
            then = None if past is None else Past(past.boundary, [past.rows[i] for i in changed])
            self._keep([read[i] for i in changed], fresh, [own[i] for i in changed], now, then)
        places = self._places
        return self._values[[places[key] for key in keys]]

    def _decoded(self, rows: Sequence[bytes | None], now: int, past: Past | None) -> Floats:
        instants = np.full(len(rows) // self._shards, now, np.int64)
        return self._layout.read(rows, instants, shards=self._shards, past=past)

    def _is_kept(self, key: bytes, row: object) -> bool:
        place = self._places.get(key)
        return place is not None and self._rows[place] == row

    def _keep(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes | None],
        own: Sequence[object],
        now: int,
        past: Past | None,
    ) -> None:
        """Decodes the rows of `keys`, and keeps their values with what each was decoded from."""
        if not keys:
            return
        found = self._decoded(rows, now, past)
        known, kept, places = self._places, self._rows, []
        for key, row in zip(keys, own, strict=True):
            place = known.setdefault(key, len(kept))
            if place == len(kept):
                kept.append(row)
            else:
                kept[place] = row
            places.append(place)
        if len(kept) > len(self._values):
            more = np.empty((max(len(kept), 2 * len(self._values), _FEWEST), found.shape[1]))
            more[: len(self._values)] = self._values
            self._values = more
        self._values[places] = found
        self._size += found.nbytes
        if not self._layout.is_batch:
            self._size += sum([len(row) for row in rows if row])
