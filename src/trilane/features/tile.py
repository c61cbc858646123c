"""Tiles: how the partial aggregates of a view are laid out as bytes, merged, and read over many rows at once.

A row of the store holds the tiles of one entity: packed records sorted by slot. A slot is (level, position): the level
picks one of the view's hops, the position counts hops since 1970. Windows of equal hop share their tiles. A batch row
holds one record per distinct window instead (level = window, position 0): the state of the window at the boundary.

Laws: reading a row that was merged in any order, from any cut of the events, gives the same bits; a window reads only
records between its ends; the same `between` serves tiles (online) and single events (training).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.errors import DefinitionError
from trilane.features import algebra
from trilane.features.algebra import Array, Columns, Floats, Ints, State
from trilane.features.view import View
from trilane.features.window import Window

__all__ = ["Events", "TileLayout"]

_LEVEL_BITS, _ROW_BITS = 36, 40  # 2**36 hops of 1 s reach the year 4147; 2**4 levels; 2**23 rows a call
_LARGEST_SUMMED = {1: 2.0**62, 2: 2.0**53}


@dataclass(frozen=True, slots=True)
class Events:
    """Rows that a transform returned: dense entity codes, event times (microseconds), columns with validity."""

    codes: Ints
    times: Ints
    columns: Mapping[str, tuple[Array, npt.NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class _Kept:
    name: str
    column: str | None
    state: State


@dataclass(frozen=True, slots=True)
class _Read:
    op: str
    kind: str
    window: int
    states: tuple[int, ...]
    default: float | None


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
        kept: dict[str, _Kept] = {}
        reads = []
        kinds = dict(view.columns)
        for aggregation in aggregations:
            kind = "f8" if kinds.get(aggregation.column or "") == "float64" else "i8"
            names = []
            for short, state in algebra.states_of(aggregation.op, kind):
                name = f"{short}:{aggregation.column or '*'}"
                kept.setdefault(name, _Kept(name, aggregation.column, state))
                names.append(name)
            order = list(kept)
            reads.append(
                _Read(
                    aggregation.op,
                    kind,
                    self.windows.index(aggregation.window),
                    tuple(order.index(name) for name in names),
                    aggregation.default,
                )
            )
        self._kept = tuple(kept.values())
        self._reads = tuple(reads)

    @functools.cached_property
    def record(self) -> np.dtype[np.void]:
        """The packed record of one tile."""
        parts = [(f"{i}.{name}", kind) for i, kept in enumerate(self._kept) for name, kind in kept.state.parts]
        return np.dtype([("slot", "<i8"), *parts])

    @property
    def columns(self) -> tuple[str, ...]:
        """The transform's columns that are aggregated."""
        return tuple(dict.fromkeys(kept.column for kept in self._kept if kept.column is not None))

    # -- events to states ---------------------------------------------------------------------------------------

    def lift(self, events: Events) -> list[Columns]:
        """The states of single events, in their order. Values that cannot be summed exactly count as null."""
        size = len(events.times)
        everything = np.ones(size, bool)
        lifted = []
        for kept in self._kept:
            values, valid = events.columns[kept.column] if kept.column else (events.times, everything)
            if values.dtype.kind == "f":
                limit = _LARGEST_SUMMED[kept.state.power] if isinstance(kept.state, algebra.WideSum) else np.inf
                valid = valid & (np.abs(np.where(valid, values, 0.0)) < limit)
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
        self,
        stored: Sequence[bytes | None],
        codes: Ints,
        records: npt.NDArray[np.void],
        *,
        newest: int,
        slack: int,
    ) -> list[bytes]:
        """Merges new tiles into the stored rows: row i of `stored` belongs to entity code i.

        Tiles that no query after `newest - slack` (microseconds) can see are dropped.
        """
        old_codes, old = self._join(stored)
        all_records = np.concatenate([old, records])
        codes, merged = self._folded(np.concatenate([old_codes, codes]), all_records["slot"], self.unpack(all_records))
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
        for i, (kept, state) in enumerate(zip(self._kept, states, strict=True)):
            merged = kept.state.fold(tuple(part[order] for part in state), starts) if len(starts) else state
            for (name, _), part in zip(kept.state.parts, kept.state.pack(merged), strict=True):
                folded[f"{i}.{name}"] = part
        return codes[starts], folded

    def unpack(self, records: npt.NDArray[np.void]) -> list[Columns]:
        """The states of packed records."""
        return [
            tuple(
                records[f"{i}.{name}"].astype(np.float64 if kind == "<f8" else np.int64)
                for name, kind in kept.state.parts
            )
            for i, kept in enumerate(self._kept)
        ]

    def _join(self, rows: Sequence[bytes | None]) -> tuple[Ints, npt.NDArray[np.void]]:
        sizes = np.array([len(row) if row else 0 for row in rows], np.int64) // self.record.itemsize
        records = np.frombuffer(b"".join([row for row in rows if row]), self.record)
        return np.repeat(np.arange(len(rows)), sizes), records

    # -- states to answers --------------------------------------------------------------------------------------

    def read(self, rows: Sequence[bytes | None], instants: Ints) -> Floats:
        """Feature values [rows, features] of stored rows, each asked at its instant; NaN where there is none."""
        codes, records = self._join(rows)
        places = records["slot"] | (codes << _ROW_BITS)
        base = np.arange(len(rows), dtype=np.int64) << _ROW_BITS
        low, high = [], []
        for number, window in enumerate(self.windows):
            if self.is_batch:
                slot = base | (number << _LEVEL_BITS)
                bounds = slot, slot + 1
            else:
                level = base | (self.hops.index(window.hop) << _LEVEL_BITS)
                left = (instants - window.length) // window.hop
                bounds = level | np.maximum(left, 0), level | -(-instants // window.hop)
            low.append(np.searchsorted(places, bounds[0]))
            high.append(np.searchsorted(places, bounds[1]))
        return self._answer(self.unpack(records), np.concatenate(low), np.concatenate(high), len(rows))

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
        right = np.searchsorted(places, codes * span + np.searchsorted(ranks, instants))
        low = []
        for window in self.windows:
            left = (instants - window.length) // window.hop * window.hop
            low.append(np.searchsorted(places, codes * span + np.searchsorted(ranks, left)))
        return self._answer(states, np.concatenate(low), np.tile(right, len(self.windows)), len(codes))

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
            for i, (kept, state) in enumerate(zip(self._kept, states, strict=True)):
                parts = kept.state.pack(kept.state.fold(tuple(p[inside] for p in state), starts)) if len(starts) else ()
                for j, (name, _) in enumerate(kept.state.parts):
                    row[f"{i}.{name}"] = kept.state.zero()[j]
                    if parts:
                        row[f"{i}.{name}"][seen] = parts[j]
            found[:, number] = row
        return [found[i].tobytes() for i in range(entities)]

    def _sorted_by_time(self, events: Events) -> tuple[Ints, list[Columns]]:
        order = np.lexsort((events.times, events.codes))
        return order, [tuple(part[order] for part in state) for state in self.lift(events)]

    def _answer(self, states: list[Columns], low: Ints, high: Ints, size: int) -> Floats:
        between = [kept.state.between(state, low, high) for kept, state in zip(self._kept, states, strict=True)]
        answers = np.empty((size, len(self._reads)))
        for column, read in enumerate(self._reads):
            rows = slice(read.window * size, (read.window + 1) * size)
            values = algebra.finish(read.op, [tuple(p[rows] for p in between[s]) for s in read.states], read.kind)
            if read.default is not None:
                values = np.where(np.isnan(values), read.default, values)
            answers[:, column] = values
        return answers
