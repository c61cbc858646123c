"""Tiles: how the partial aggregates of a view are laid out as bytes, merged, and found for many rows at once.

A row of the store holds the tiles of one entity: packed records sorted by slot. A slot is (level, position): the level
picks one of the view's hops, the position counts hops since 1970. Windows of equal hop share their tiles. A batch row
holds one record per distinct window instead (level = window): the state of the window at the boundary; the position
is the boundary in seconds where values age since then, else 0.

Laws: reading a row that was merged in any order, from any cut of the events, gives the same bits; a window reads only
records between its ends; one `Answering` serves tiles (online) and single events (training).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trilane.clock import SECOND
from trilane.errors import DefinitionError
from trilane.features import ragged
from trilane.features.algebra import Array, Columns, Floats, Ints
from trilane.features.answering import Answering, Read
from trilane.features.history import LEVEL_BITS, Past, history_of, step_of
from trilane.features.landed import Landed
from trilane.features.operation import Kept, kept_of
from trilane.features.ragged import Bag, Ragged
from trilane.features.retraction import signed
from trilane.features.row import RowFormat, Tiles
from trilane.features.singly import FEW, Singly
from trilane.features.view import View
from trilane.features.window import Window

__all__ = ["Events", "TileLayout"]

# 2**23 rows a call
_ROW_BITS, _POSITION, _SLOT = 40, (1 << LEVEL_BITS) - 1, (1 << 40) - 1


@dataclass(frozen=True, slots=True)
class Events:
    """Rows that a transform returned: dense entity codes, event times (microseconds), columns with validity.

    `signs`: 1 of a row that is added, -1 of one that is taken back; None: all are added.
    """

    codes: Ints
    times: Ints
    columns: Mapping[str, tuple[Array, npt.NDArray[np.bool_]]]
    signs: Ints | None = None

    def chosen(self, rows: npt.NDArray[Any]) -> Events:
        """The rows that a mask or their numbers choose."""
        columns = {name: (values[rows], valid[rows]) for name, (values, valid) in self.columns.items()}
        signs = None if self.signs is None else self.signs[rows]
        return Events(self.codes[rows], self.times[rows], columns, signs)


class TileLayout:
    """The tile layout of one nearline or batch view.

    `steps` and `backs` [windows, 1]: at which hop and how far back a row keeps tiles of each window; `readers`: by
    position of a state the windows that read it.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.is_batch = view.lane == "batch"
        features = [f.aggregation for f in view.features if f.aggregation is not None]
        aggregations = list(features)
        for aggregation in features:
            aggregations += [part for part in aggregation.over if part not in aggregations]
        self.windows: tuple[Window, ...] = tuple(dict.fromkeys(a.window for a in aggregations))
        self.history = history_of(view, self.windows)
        steps = [step_of(view, window) for window in self.windows]
        self.hops: tuple[int, ...] = tuple(sorted(set(steps)))
        if len(self.windows if self.is_batch else self.hops) > 16:
            raise DefinitionError("more than 16 windows", where=f"view {view.name!r}", remedy="Split the view")
        self._lengths = np.array([[w.length] for w in self.windows])
        self.steps = np.array([[step] for step in steps])
        # How far back a row keeps tiles: of a window with a history, the tail.
        self.backs = np.array([[view.tail if view.is_long(w) else w.length] for w in self.windows])
        levels = range(len(self.windows)) if self.is_batch else [self.hops.index(step) for step in steps]
        self._levels = np.array([[level] for level in levels]) << LEVEL_BITS
        kept: dict[str, Kept] = {}
        needed: dict[str, set[int]] = {}
        readers: dict[str, set[int]] = {}
        reads = []
        kinds = dict(view.columns)
        for aggregation in aggregations:
            kind = "f8" if kinds.get(aggregation.column or "") == "float64" else "i8"
            states = [] if aggregation.over else kept_of(aggregation, kind)
            window = self.windows.index(aggregation.window)
            for entry in states:
                kept.setdefault(entry.name, entry)
                needed.setdefault(entry.name, set()).add(levels[window])
                readers.setdefault(entry.name, set()).add(window)
            places = tuple(list(kept).index(entry.name) for entry in states)
            over = tuple(aggregations.index(part) for part in aggregation.over)
            options = {**dict(aggregation.options), "hop": aggregation.window.hop}
            reads.append(Read(aggregation.op, kind, window, places, aggregation.default, options, over))
        self._kept = tuple(kept.values())
        self._needed = [sorted(needed[name]) for name in kept]
        self.readers = [readers[name] for name in kept]
        self._answering = Answering(self._kept, reads, self.windows, len(features))
        self.format = RowFormat(self._kept)
        self.record = self.format.record
        self._defaults = np.array([np.nan if a.default is None else a.default for a in features])
        self._landed = Landed.of(self._kept, reads, self.format, len(self.windows)) if self.is_batch else None
        reaches = np.concatenate([self._levels, self._lengths, self.steps], axis=1).tolist()
        self._singly = None if self.is_batch else Singly.of(self._kept, reads, self.format, reaches, self._defaults)

    @property
    def columns(self) -> tuple[str, ...]:
        """The transform's columns that the view's aggregations look at."""
        named = [name for f in self.view.features if f.aggregation for name in f.aggregation.columns]
        return tuple(dict.fromkeys(named))

    # -- events to tiles ----------------------------------------------------------------------------------------

    def lift(self, events: Events) -> list[Columns | Ragged]:
        """The states of single events, in their order. Values that cannot be summed exactly count as null."""
        everything = np.ones(len(events.times), bool)
        lifted: list[Columns | Ragged] = []
        for kept in self._kept:
            values, valid = events.columns[kept.column] if kept.column else (events.times, everything)
            if kept.limit < np.inf:
                valid = valid & (np.abs(np.where(valid, values, 0).astype(np.float64)) < kept.limit)
            for condition in kept.where:
                valid = valid & condition.holds(*events.columns[condition.column])
            values = events.times if kept.of_times else values
            if kept.bag is None:
                lifted.append(kept.fixed.lift(events.times, values, valid))
            else:
                lifted.append(ragged.lift(kept.bag, events.times, values, valid))
        if events.signs is None:
            return lifted
        return [signed(state, events.signs) for state in lifted]

    def tiles(self, events: Events) -> tuple[Ints, Tiles]:
        """Nearline tiles of a micro-batch: entity code and tile of each, sorted by code and slot."""
        copies = len(self.hops)
        slots = np.concatenate([(events.times // hop) | (level << LEVEL_BITS) for level, hop in enumerate(self.hops)])
        repeated: list[Columns | Ragged] = []
        for position, state in enumerate(self.lift(events)):
            if isinstance(state, Ragged):
                # A bag is kept at the levels alone that some feature reads it at.
                blank = ragged.empty(self._bag(position), state.size)
                levels = [state if level in self._needed[position] else blank for level in range(copies)]
                repeated.append(ragged.join(levels))
            else:
                repeated.append(tuple(np.tile(part, copies) for part in state))
        return self._folded(np.tile(events.codes, copies), slots, repeated)

    def _bag(self, position: int) -> Bag:
        return self.format.bags[position]

    def merge(
        self, stored: Sequence[bytes | None], codes: Ints, tiles: Tiles, *, newest: int, slack: int
    ) -> list[bytes]:
        """Merges new tiles into the stored rows: row i of `stored` belongs to entity code i.

        Tiles that no query after `newest - slack` (microseconds) can see are dropped.
        """
        old_codes, old = self.format.decode(stored)
        if self.format.bags:
            together = self.format.join(old, tiles)
            states = self.format.unpack(together)
            codes, merged = self._folded(np.concatenate([old_codes, codes]), together.records["slot"], states)
        else:
            codes, merged = self._woven(old_codes, old, codes, tiles)
        slots = merged.records["slot"]
        seen = slots >= self._oldest(newest - slack)[slots >> LEVEL_BITS]
        if not seen.all():
            codes = codes[seen]
            merged = Tiles(merged.records[seen], {p: bag.chosen(seen) for p, bag in merged.bags.items()})
        return self.format.encode(merged, np.searchsorted(codes, np.arange(len(stored) + 1)))

    def _oldest(self, instant: int) -> Ints:
        firsts = np.maximum((instant - self.backs) // self.steps, 0).reshape(-1)
        steps = self.steps.reshape(-1)
        return np.array([firsts[steps == hop].min() | (level << LEVEL_BITS) for level, hop in enumerate(self.hops)])

    def _folded(self, codes: Ints, slots: Ints, states: list[Columns | Ragged]) -> tuple[Ints, Tiles]:
        places = slots | (codes << _ROW_BITS)
        order = np.argsort(places)  # in any order among equals: merging does not depend on it
        places = places[order]
        fresh = np.ones(len(places), bool)
        fresh[1:] = places[1:] != places[:-1]
        starts = np.flatnonzero(fresh)
        folded = np.zeros(len(starts), self.record)
        folded["slot"] = places[starts] & _SLOT
        bags = {}
        for position, state in enumerate(self._merged(states, order, fresh, starts)):
            if isinstance(state, Ragged):
                bags[position] = state
            else:
                self.format.store(folded, position, state)
        return places[starts] >> _ROW_BITS, Tiles(folded, bags)

    def _woven(self, old_codes: Ints, old: Tiles, codes: Ints, tiles: Tiles) -> tuple[Ints, Tiles]:
        """Old and new tiles without bags, each sorted, as one: only those that are in both are unpacked."""
        before = old.records["slot"] | (old_codes << _ROW_BITS)
        fresh = tiles.records["slot"] | (codes << _ROW_BITS)
        at = np.searchsorted(before, fresh)
        both = np.flatnonzero(at < len(before))
        both = both[before[at[both]] == fresh[both]]
        records = old.records.copy()
        pairs = Tiles(np.concatenate([records[at[both]], tiles.records[both]]), {})
        _, merged = self._folded(np.tile(codes[both], 2), pairs.records["slot"], self.format.unpack(pairs))
        records[at[both]] = merged.records
        if len(both) == len(fresh):
            return old_codes, Tiles(records, {})
        alone = np.ones(len(fresh), bool)
        alone[both] = False
        is_new = np.zeros(len(records) + int(alone.sum()), bool)
        is_new[at[alone] + np.arange(int(alone.sum()))] = True
        woven, woven_codes = np.empty(len(is_new), self.record), np.empty(len(is_new), np.int64)
        woven[is_new], woven[~is_new] = tiles.records[alone], records
        woven_codes[is_new], woven_codes[~is_new] = codes[alone], old_codes
        return woven_codes, Tiles(woven, {})

    def _merged(
        self, states: Sequence[Columns | Ragged], order: Ints, fresh: npt.NDArray[np.bool_], starts: Ints
    ) -> list[Columns | Ragged]:
        """Merges rows that are equal, in `order`; `fresh` and `starts` say where others begin."""
        merged: list[Columns | Ragged] = []
        rows = np.empty(len(order), np.int64)
        if self.format.bags:
            rows[order] = np.cumsum(fresh) - 1
        for position, state in enumerate(states):
            if isinstance(state, Ragged):
                merged.append(ragged.fold(self._bag(position), state, rows, len(starts)))
            else:
                ordered = tuple(part[order] for part in state)
                merged.append(self._kept[position].fixed.fold(ordered, starts) if len(starts) else ordered)
        return merged

    def _united(self, rows: Sequence[bytes | None], shards: int) -> tuple[Ints, Tiles]:
        """The tiles of keys that have `shards` rows each."""
        codes, tiles = self.format.decode(rows)
        codes = codes // shards
        filled = np.array([bool(row) for row in rows]).reshape(-1, shards).sum(axis=1)
        if filled.max(initial=0) <= 1:  # whatever chose the partition is the key itself
            return codes, tiles
        return self._folded(codes, tiles.records["slot"], self.format.unpack(tiles))

    # -- tiles and events to answers ----------------------------------------------------------------------------

    def read(
        self, rows: Sequence[bytes | None], instants: Ints, *, shards: int = 1, past: Past | None = None
    ) -> Floats:
        """Feature values [keys, features] of stored rows, each asked at its instant; NaN where there is none.

        Each key has `shards` rows, one after another, whose tiles are merged first. With `past`, the history of the
        keys, windows longer than the tail are put together from it and the tiles since its boundary.
        """
        if self._singly is not None and shards == 1 and past is None and 0 < len(rows) <= FEW:
            return self._singly.read(rows, instants)
        if self._landed is None:
            return self._search(rows, instants, shards=shards, past=past)
        there = [row for row in rows if row]
        found = self._landed.read(there)
        if found is None:
            return self._search(rows, instants)
        if np.isnan(found).any():
            found = np.where(np.isnan(found), self._defaults, found)
        if len(there) == len(rows):
            return found
        answers = np.repeat(self._search([None], instants[:1]), len(rows), axis=0)
        answers[[bool(row) for row in rows]] = found
        return answers

    def _search(
        self, rows: Sequence[bytes | None], instants: Ints, *, shards: int = 1, past: Past | None = None
    ) -> Floats:
        """What `read` gives, of rows in which the tiles of a window must be found first."""
        if not rows:
            return np.empty((0, len(self.view.features)))
        codes, tiles = self.format.decode(rows) if shards == 1 else self._united(rows, shards)
        records = tiles.records
        places = records["slot"] | (codes << _ROW_BITS)
        keys = np.arange(len(instants)) << _ROW_BITS
        levels = self._levels | keys
        if self.is_batch:
            low, high = levels, levels + (1 << LEVEL_BITS)
            if self._answering.needs_instants and len(records):
                firsts = np.minimum(np.searchsorted(codes, np.arange(len(instants))), len(records) - 1)
                instants = (records["slot"][firsts] & _POSITION) * SECOND
        else:
            left = np.maximum((instants - self._lengths) // self.steps, 0)
            if past is not None and self.history is not None:
                long = list(self.history.long)
                left[long] = np.maximum(left[long], past.boundary // self.steps[long])
            low, high = levels | left, levels | -(-instants // self.steps)
        bounds = np.searchsorted(places, np.stack([low, high]))
        if past is not None and self.history is not None:
            codes, older = self.format.decode(past.rows)
            ends = np.stack(self.history.ranges(instants, past.boundary)) | keys
            found = np.searchsorted(older.records["slot"] | (codes << _ROW_BITS), ends) + len(records)
            bounds = np.concatenate([bounds[:, None], found], axis=1)
            tiles = self.format.join(tiles, older)
        return self._answer(tiles, bounds, instants)

    def _answer(self, tiles: Tiles, bounds: Ints, instants: Ints) -> Floats:
        records = tiles.records
        stack = np.empty((self._answering.added, len(records)), np.int64)
        words = records["words"].shape[1]
        stack[:words] = records["words"].T
        stack[words:] = records["limbs"].T
        prefix = self._answering.prefix([stack[self.format.block_order]], len(records))
        others: list[Columns | Ragged | None] = [
            None
            if kept.is_added
            else tiles.bags[position]
            if position in tiles.bags
            else tuple(records[field] for field, _ in self.format.parts[position])
            for position, kept in enumerate(self._kept)
        ]
        return self._answering.answer(prefix, others, bounds[0], bounds[1], instants)

    def reach(self, instant: int) -> tuple[int, ...]:
        """The first and the last tile of each window at `instant`: while it is the same, so are a row's values.

        Where values age between tiles, the instant itself is a part of it.
        """
        first, last = (instant - self._lengths) // self.steps, -(-instant // self.steps)
        moment = (instant,) if self._answering.needs_instants and not self.is_batch else ()
        return (*first[:, 0].tolist(), *last[:, 0].tolist(), *moment)

    def is_whole(self, instants: Ints, *, oldest: Ints, newest: Ints, slack: int) -> npt.NDArray[np.bool_]:
        """At which instants tiles alone answer windows with a history, of a lane that has seen events from `oldest` to
        `newest`: whether `merge` cannot have dropped any tile that they need.
        """
        if self.history is None:
            return np.ones(len(instants), bool)
        firsts = np.maximum((newest - slack - self.backs) // self.steps, 0)
        kept = np.stack([firsts[self.steps[:, 0] == step].min(axis=0) for step in self.steps[:, 0]])
        needed = np.maximum(instants - self._lengths, oldest) // self.steps
        return np.asarray((needed >= kept)[list(self.history.long)].all(axis=0))

    def lefts(self, instants: Ints) -> Ints:
        """Where each window begins [windows, queries] at each instant."""
        return np.asarray((instants - self._lengths) // self.steps * self.steps)

    def boundary_rows(self, events: Events, entities: int, boundary: int) -> list[bytes]:
        """The batch rows of entity codes 0 to `entities`, for windows that end at `boundary`."""
        order = np.lexsort((events.times, events.codes))
        codes, times = events.codes[order], events.times[order]
        lifted = self.lift(events)
        found = np.zeros((entities, len(self.windows)), self.record)
        position_of_boundary = boundary // SECOND if self._answering.needs_instants else 0
        for number, window in enumerate(self.windows):
            inside = (times >= window.left(boundary)) & (times < boundary)
            seen, starts = np.unique(codes[inside], return_index=True)
            row = np.zeros(entities, self.record)
            row["slot"] = (number << LEVEL_BITS) | position_of_boundary
            for position, state in enumerate(lifted):
                if isinstance(state, Ragged):
                    continue
                fixed = self._kept[position].fixed
                self.format.store(row, position, tuple(np.full(entities, part) for part in fixed.zero()))
                if len(starts):
                    merged = fixed.fold(tuple(p[order][inside] for p in state), starts)
                    self.format.store(row, position, merged, seen)
            found[:, number] = row
        bags = {p: self._boundary_bag(p, s, events, entities, boundary) for p, s in enumerate(lifted) if _is_bag(s)}
        ends = np.arange(entities + 1) * len(self.windows)
        return self.format.encode(Tiles(found.reshape(-1), bags), ends)

    def history_rows(self, events: Events, entities: int, boundary: int) -> list[bytes]:
        """The history rows of entity codes 0 to `entities` at `boundary`; of none in the window an empty one."""
        history = self.history
        if history is None:
            raise DefinitionError("the view has no history", where=f"view {self.view.name!r}")
        lifted = self.lift(events)
        members, slots, states = history.records(events.times, boundary, lifted, self.readers, self.format.bags)
        codes = np.concatenate([events.codes[inside] for inside in members])
        codes, tiles = self._folded(codes, slots, states)
        return self.format.encode(tiles, np.searchsorted(codes, np.arange(entities + 1)))

    def _boundary_bag(
        self, position: int, state: Columns | Ragged, events: Events, entities: int, boundary: int
    ) -> Ragged:
        bag, size = self._bag(position), entities * len(self.windows)
        if not isinstance(state, Ragged):
            return ragged.empty(bag, size)
        rows = []
        for number in self._needed[position]:
            left = self.windows[number].left(boundary)
            inside = (events.times >= left) & (events.times < boundary)
            rows.append(np.where(inside, events.codes * len(self.windows) + number, -1))
        return ragged.fold(bag, ragged.join([state] * len(rows)), np.concatenate(rows), size)


def _is_bag(state: Columns | Ragged) -> bool:
    return isinstance(state, Ragged)
