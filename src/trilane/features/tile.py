"""Tiles: how the partial aggregates of a view are laid out as bytes, merged, and found for many rows at once.

A row of the store holds the tiles of one entity: packed records sorted by slot. A slot is (level, position): the level
picks one of the view's hops, the position counts hops since 1970. Windows of equal hop share their tiles. A batch row
holds one record per distinct window instead (level = window, position 0): the state of the window at the boundary.

Laws: reading a row that was merged in any order, from any cut of the events, gives the same bits; a window reads only
records between its ends; one `Answering` serves tiles (online) and single events (training).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.errors import DefinitionError
from trilane.features import algebra
from trilane.features.algebra import Array, Columns, Floats, Ints
from trilane.features.answering import Answering, Kept, Read
from trilane.features.view import View
from trilane.features.window import Window

__all__ = ["Events", "TileLayout"]

_LEVEL_BITS, _ROW_BITS = 36, 40  # 2**36 hops of 1 s reach the year 4147; 2**4 levels; 2**23 rows a call
_LARGEST_SUMMED = {1: 2.0**62, 2: 2.0**53}
_WORD, _LIMB = "<i8", "<u4"


@dataclass(frozen=True, slots=True)
class Events:
    """Rows that a transform returned: dense entity codes, event times (microseconds), columns with validity."""

    codes: Ints
    times: Ints
    columns: Mapping[str, tuple[Array, npt.NDArray[np.bool_]]]


class TileLayout:
    """The tile layout of one nearline or batch view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.is_batch = view.lane == "batch"
        aggregations = [f.aggregation for f in view.features if f.aggregation is not None]
        self.windows: tuple[Window, ...] = tuple(dict.fromkeys(a.window for a in aggregations))
        self.hops: tuple[int, ...] = tuple(sorted({w.hop for w in self.windows}))
        if len(self.windows if self.is_batch else self.hops) > 16:
            raise DefinitionError("more than 16 windows", where=f"view {view.name!r}", remedy="Split the view")
        self._lengths = np.array([[w.length] for w in self.windows])
        self._steps = np.array([[w.hop] for w in self.windows])
        levels = range(len(self.windows)) if self.is_batch else [self.hops.index(w.hop) for w in self.windows]
        self._levels = np.array([[level] for level in levels]) << _LEVEL_BITS
        kept: dict[str, Kept] = {}
        wanted = []
        kinds = dict(view.columns)
        for aggregation in aggregations:
            kind = "f8" if kinds.get(aggregation.column or "") == "float64" else "i8"
            states = [
                Kept(f"{short}:{aggregation.column or '*'}", aggregation.column, state)
                for short, state in algebra.states_of(aggregation.op, kind)
            ]
            kept.update({entry.name: entry for entry in states if entry.name not in kept})
            wanted.append((aggregation, kind, [entry.name for entry in states]))
        order = list(kept)
        self._kept = tuple(kept.values())
        reads = [
            Read(a.op, kind, self.windows.index(a.window), tuple(order.index(n) for n in names), a.default)
            for a, kind, names in wanted
        ]
        self._answering = Answering(self._kept, reads, len(self.windows))
        self._parts = [self._places(position) for position in range(len(self._kept))]

    def _places(self, position: int) -> list[tuple[str, int]]:
        """For each part of a state: the field of the record that holds it, and the place within the field."""
        entry = self._kept[position]
        if not entry.is_added:
            return [(f"{position}.{name}", -1) for name, _ in entry.state.parts]
        before = [kind for k in self._kept[:position] if k.is_added for _, kind in k.state.parts]
        places = []
        for _, kind in entry.state.parts:
            places.append(("words" if kind == _WORD else "limbs", before.count(kind)))
            before.append(kind)
        return places

    @functools.cached_property
    def record(self) -> np.dtype[np.void]:
        """The packed record of one tile. What is added up lies together, so that a read sums it in one go."""
        added = [kind for entry in self._kept if entry.is_added for _, kind in entry.state.parts]
        others = [
            (f"{position}.{name}", kind)
            for position, entry in enumerate(self._kept)
            if not entry.is_added
            for name, kind in entry.state.parts
        ]
        packed = [("words", _WORD, (added.count(_WORD),)), ("limbs", _LIMB, (added.count(_LIMB),))]
        return np.dtype([("slot", "<i8"), *packed, *others])

    @functools.cached_property
    def _block_order(self) -> Ints:
        """Where each added part, in the order of the states, lies in the stack of all words, then all limbs."""
        words = sum(field == "words" for parts in self._parts for field, _ in parts)
        flat = [
            place + (words if field == "limbs" else 0) for parts in self._parts for field, place in parts if place >= 0
        ]
        return np.array(flat, np.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        """The transform's columns that are aggregated."""
        return tuple(dict.fromkeys(kept.column for kept in self._kept if kept.column is not None))

    # -- events to tiles ----------------------------------------------------------------------------------------

    def lift(self, events: Events) -> list[Columns]:
        """The states of single events, in their order. Values that cannot be summed exactly count as null."""
        size = len(events.times)
        everything = np.ones(size, bool)
        lifted = []
        for kept in self._kept:
            values, valid = events.columns[kept.column] if kept.column else (events.times, everything)
            if isinstance(kept.state, algebra.WideSum) or values.dtype.kind == "f":
                limit = _LARGEST_SUMMED[kept.state.power] if isinstance(kept.state, algebra.WideSum) else np.inf
                valid = valid & (np.abs(np.where(valid, values, 0).astype(np.float64)) < limit)
            lifted.append(kept.state.lift(events.times, values, valid))
        return lifted

    def tiles(self, events: Events) -> tuple[Ints, npt.NDArray[np.void]]:
        """Nearline tiles of a micro-batch: entity code and record of each, sorted by code and slot."""
        lifted = self.lift(events)
        copies = len(self.hops)
        slots = np.concatenate([(events.times // hop) | (level << _LEVEL_BITS) for level, hop in enumerate(self.hops)])
        repeated = [tuple(np.tile(part, copies) for part in state) for state in lifted]
        return self._folded(np.tile(events.codes, copies), slots, repeated)

    def merge(
        self, stored: Sequence[bytes | None], codes: Ints, records: npt.NDArray[np.void], *, newest: int, slack: int
    ) -> list[bytes]:
        """Merges new tiles into the stored rows: row i of `stored` belongs to entity code i.

        Tiles that no query after `newest - slack` (microseconds) can see are dropped.
        """
        old_codes, old = self._join(stored)
        together = np.concatenate([old, records])
        codes, merged = self._folded(np.concatenate([old_codes, codes]), together["slot"], self.unpack(together))
        kept = merged["slot"] >= self._oldest(newest - slack)[merged["slot"] >> _LEVEL_BITS]
        codes, merged = codes[kept], merged[kept]
        ends = np.searchsorted(codes, np.arange(len(stored) + 1)) * self.record.itemsize
        raw = merged.tobytes()
        return [raw[ends[i] : ends[i + 1]] for i in range(len(stored))]

    def _oldest(self, instant: int) -> Ints:
        return np.array(
            [
                (min(w.left(instant) for w in self.windows if w.hop == hop) // hop) | (level << _LEVEL_BITS)
                for level, hop in enumerate(self.hops)
            ]
        )

    def _folded(self, codes: Ints, slots: Ints, states: list[Columns]) -> tuple[Ints, npt.NDArray[np.void]]:
        order = np.lexsort((slots, codes))
        codes, slots = codes[order], slots[order]
        fresh = np.ones(len(codes), bool)
        fresh[1:] = (codes[1:] != codes[:-1]) | (slots[1:] != slots[:-1])
        starts = np.flatnonzero(fresh)
        folded = np.zeros(len(starts), self.record)
        folded["slot"] = slots[starts]
        for position, (kept, state) in enumerate(zip(self._kept, states, strict=True)):
            merged = kept.state.fold(tuple(part[order] for part in state), starts) if len(starts) else state
            self._store(folded, position, merged)
        return codes[starts], folded

    def _store(
        self, records: npt.NDArray[np.void], position: int, state: Columns, at: Ints | slice = slice(None)
    ) -> None:
        packed = self._kept[position].state.pack(state)
        for (field, place), part in zip(self._parts[position], packed, strict=True):
            (records[field] if place < 0 else records[field][:, place])[at] = part

    def unpack(self, records: npt.NDArray[np.void]) -> list[Columns]:
        """The states of packed records."""
        return [
            tuple(records[field] if place < 0 else records[field][:, place].astype(np.int64) for field, place in places)
            for places in self._parts
        ]

    def _join(self, rows: Sequence[bytes | None]) -> tuple[Ints, npt.NDArray[np.void]]:
        found = [row for row in rows if row]
        sizes = np.array([len(row) if row else 0 for row in rows], np.int64) // self.record.itemsize
        return np.repeat(np.arange(len(rows)), sizes), np.frombuffer(b"".join(found), self.record)

    # -- tiles and events to answers ----------------------------------------------------------------------------

    def read(self, rows: Sequence[bytes | None], instants: Ints) -> Floats:
        """Feature values [rows, features] of stored rows, each asked at its instant; NaN where there is none."""
        if not rows:
            return np.empty((0, len(self.view.features)))
        codes, records = self._join(rows)
        places = records["slot"] | (codes << _ROW_BITS)
        levels = self._levels | (np.arange(len(rows)) << _ROW_BITS)
        if self.is_batch:
            low, high = levels, levels + 1
        else:
            low = levels | np.maximum((instants - self._lengths) // self._steps, 0)
            high = levels | -(-instants // self._steps)
        bounds = np.searchsorted(places, np.stack([low, high]))
        stack = np.empty((self._answering.added, len(records)), np.int64)
        words = records["words"].shape[1]
        stack[:words] = records["words"].T
        stack[words:] = records["limbs"].T
        prefix = self._answering.prefix([stack[self._block_order]], len(records))
        others = [
            None if kept.is_added else tuple(records[field] for field, _ in places)
            for kept, places in zip(self._kept, self._parts, strict=True)
        ]
        return self._answering.answer(prefix, others, bounds[0], bounds[1])

    def reach(self, instant: int) -> tuple[int, ...]:
        """The first and the last tile of each window at `instant`: while it is the same, so are a row's values."""
        ends = ((instant - w.length) // w.hop for w in self.windows), (-(-instant // w.hop) for w in self.windows)
        return (*ends[0], *ends[1])

    def windows_of(self, events: Events, codes: Ints, instants: Ints) -> Floats:
        """Feature values [queries, features] straight from events: what `read` would give at each (code, instant).

        For a batch view the instants are boundaries. This is the point-in-time join of the training lane.
        """
        order, states = self._sorted_by_time(events)
        ranks, place = np.unique(events.times[order], return_inverse=True)
        span = len(ranks) + 1
        places = events.codes[order] * span + place
        fresh = np.ones(len(places), bool)
        fresh[1:] = places[1:] != places[:-1]
        starts = np.flatnonzero(fresh)
        if len(starts):
            states = [k.state.fold(s, starts) for k, s in zip(self._kept, states, strict=True)]
        places = places[starts]
        left = (instants - self._lengths) // self._steps * self._steps
        low = np.searchsorted(places, codes * span + np.searchsorted(ranks, left))
        high = np.searchsorted(places, codes * span + np.searchsorted(ranks, instants))
        added = [part for kept, state in zip(self._kept, states, strict=True) if kept.is_added for part in state]
        others = [None if kept.is_added else state for kept, state in zip(self._kept, states, strict=True)]
        prefix = self._answering.prefix(added, len(places))
        return self._answering.answer(prefix, others, low, np.broadcast_to(high, low.shape))

    def boundary_rows(self, events: Events, entities: int, boundary: int) -> list[bytes]:
        """The batch rows of entity codes 0 to `entities`, for windows that end at `boundary`."""
        order, states = self._sorted_by_time(events)
        codes, times = events.codes[order], events.times[order]
        found = np.zeros((entities, len(self.windows)), self.record)
        for number, window in enumerate(self.windows):
            inside = (times >= window.left(boundary)) & (times < boundary)
            seen, starts = np.unique(codes[inside], return_index=True)
            row = np.zeros(entities, self.record)
            row["slot"] = number << _LEVEL_BITS
            for position, (kept, state) in enumerate(zip(self._kept, states, strict=True)):
                self._store(row, position, tuple(np.full(entities, part) for part in kept.state.zero()))
                if len(starts):
                    self._store(row, position, kept.state.fold(tuple(p[inside] for p in state), starts), seen)
            found[:, number] = row
        return [found[i].tobytes() for i in range(entities)]

    def _sorted_by_time(self, events: Events) -> tuple[Ints, list[Columns]]:
        order = np.lexsort((events.times, events.codes))
        return order, [tuple(part[order] for part in state) for state in self.lift(events)]
