"""What was in flight: of the events before an instant, those that nobody could read yet, taken out of the windows.

A query at q sees the events that were visible by q. Their latest one bounds what it reads from above, so that a lane
that lags evenly costs nothing more; what came out of order before that is taken out again: from exact sums by
subtraction, whatever the number of queries, from other states by merging the runs between.

Law: the bits are those of a state that never held the unseen events. Queries come in order of entity and instant, and
no event is visible before it happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trilane.features import ragged
from trilane.features.algebra import Columns, Ints
from trilane.features.operation import Kept
from trilane.features.ragged import Bag, Ragged

__all__ = ["Unseen"]

State: TypeAlias = Columns | Ragged

_PAIRS = 1 << 20  # (query, row) pairs looked at in one go


@dataclass(frozen=True, slots=True)
class Unseen:
    """Rows (all events of an entity at one time) and the events of those that some query saw in part or not at all.

    `high`: before which row the last seen event of each query lies. Of each doubtful row: its number, and from which
    query on and before which it lacks something. Of each event in them, the same (`since`, `until`), its row, and its
    lifted states.
    """

    high: Ints
    rows: Ints
    rows_since: Ints
    rows_until: Ints
    events: Ints
    since: Ints
    until: Ints
    lifted: Sequence[State]

    @staticmethod
    def of(
        row_codes: Ints,
        row_of: Ints,
        order: Ints,
        visible: Ints,
        codes: Ints,
        instants: Ints,
        high: Ints,
        lifted: Sequence[State],
        bags: Sequence[Bag | None],
    ) -> Unseen:
        """`row_codes`: the entity of each row; `order`: the events in order of entity and time, `row_of` their rows;
        `visible`: of the events as they came; `codes`, `instants`, `high`: of the queries, sorted.
        """
        moments = np.unique(instants)
        span = len(moments) + 1
        asked = codes * span + np.searchsorted(moments, instants)
        seen_at = np.searchsorted(moments, visible[order])  # the number of the first moment that sees the event
        starts = np.flatnonzero(np.diff(row_of, prepend=-1))
        base = row_codes * span
        first, last = base + np.minimum.reduceat(seen_at, starts), base + np.maximum.reduceat(seen_at, starts)
        by_sight = np.argsort(first, kind="stable")
        latest = np.append(np.maximum.accumulate(by_sight), -1)  # at -1: nothing was seen before the query
        high = np.minimum(high, latest[np.searchsorted(first[by_sight], asked, "right") - 1] + 1)
        doubtful = last > np.minimum.accumulate(first[::-1])[::-1]  # something later in time was seen sooner
        rows = np.flatnonzero(doubtful)
        places = np.flatnonzero(doubtful[row_of])
        events = row_of[places]
        return Unseen(
            high,
            rows,
            np.searchsorted(high, rows, "right"),
            np.searchsorted(asked, last[rows]),
            events,
            np.searchsorted(high, events, "right"),
            np.searchsorted(asked, base[events] + seen_at[places]),
            [_chosen(state, order[places], bag) for state, bag in zip(lifted, bags, strict=True)],
        )

    def added(self, parts: Sequence[Ints], low: Ints) -> Ints:
        """What to subtract from the sums [parts, windows, queries], `parts` of the doubtful events."""
        windows, queries = low.shape
        found = np.zeros((len(parts), windows, queries + 1), np.int64)
        for window in range(windows):
            until = np.maximum(np.minimum(self.until, np.searchsorted(low[window], self.events, "right")), self.since)
            for part, change in zip(parts, found[:, window], strict=True):
                np.add.at(change, self.since, part)
                np.subtract.at(change, until, part)
        np.cumsum(found, axis=-1, out=found)
        return found[..., :queries]

    def without(self, position: int, entry: Kept, states: State, whole: State, low: Ints) -> State:
        """The answers `whole` of one window over rows `low` to `high`, those of queries that lack something corrected.

        `position`: of the state among the lifted ones; `states`: of all rows.
        """
        ends = np.searchsorted(low, self.rows, "right")  # the first query whose window begins after the row
        until = np.maximum(np.minimum(self.rows_until, ends), self.rows_since)
        counts = np.zeros(len(low) + 1, np.int64)
        np.add.at(counts, self.rows_since, 1)
        np.subtract.at(counts, until, 1)
        pairs = np.cumsum(np.cumsum(counts[:-1]))
        first = 0
        while first < len(low) and pairs[-1]:
            base = int(pairs[first - 1]) if first else 0
            stop = max(int(np.searchsorted(pairs, base + _PAIRS, "right")), first + 1)
            if pairs[stop - 1] > base:
                whole = self._corrected(position, entry, states, whole, low, until, (first, stop))
            first = stop
        return whole

    def _corrected(
        self, position: int, entry: Kept, states: State, whole: State, low: Ints, until: Ints, block: tuple[int, int]
    ) -> State:
        """Merges anew, for the queries of a block, the runs between doubtful rows and what was seen of those."""
        number, queries = _ranges(np.clip(self.rows_since, *block), np.clip(until, *block))
        rows = self.rows[number]
        order = np.lexsort((rows, queries))
        rows, queries = rows[order], queries[order]
        fresh = np.diff(queries, prepend=-1) != 0
        asked, of = queries[fresh], np.cumsum(fresh) - 1
        begins = np.where(fresh, low[queries], np.roll(rows, 1) + 1)
        tails = rows[np.append(fresh[1:], True)] + 1
        runs = _between(
            entry,
            states,
            np.concatenate([begins, tails]),
            np.concatenate([rows, np.maximum(self.high[asked], tails)]),
        )
        mine = np.searchsorted(self.rows, self.events)
        since = np.maximum(self.until, self.rows_since[mine])
        seen, by = _ranges(np.clip(since, *block), np.clip(np.maximum(until[mine], since), *block))
        single = _between(entry, self.lifted[position], seen, seen + 1, alone=True)
        places = np.concatenate([of, np.arange(len(asked)), np.searchsorted(asked, by)])
        return _put(entry, whole, asked, _folded(entry, runs, single, places, len(asked)))


def _ranges(first: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """The numbers from first[i] to before stop[i] for each i, and i with each."""
    sizes = stop - first
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return owners, np.arange(len(owners)) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)


def _chosen(state: State, at: Ints, bag: Bag | None) -> State:
    if not isinstance(state, Ragged) or bag is None:
        return tuple(part[at] for part in state) if isinstance(state, tuple) else state
    rows = np.full(state.size, -1)
    rows[at] = np.arange(len(at))
    return ragged.fold(bag, state, rows, len(at))


def _between(entry: Kept, state: State, low: Ints, high: Ints, *, alone: bool = False) -> State:
    """The merge of each run of rows; `alone`: each is one row."""
    if isinstance(state, Ragged):
        return ragged.between(entry.bag, state, low, high) if entry.bag else state
    return tuple(part[low] for part in state) if alone else entry.fixed.between(state, low, high)


def _folded(entry: Kept, runs: State, single: State, places: Ints, size: int) -> State:
    """Merges both, each of their rows into its place of `size`, none of which stays empty."""
    if isinstance(runs, Ragged) and isinstance(single, Ragged):
        return ragged.fold(entry.bag, ragged.join([runs, single]), places, size) if entry.bag else runs
    order = np.argsort(places, kind="stable")
    joined = tuple(np.concatenate(parts)[order] for parts in zip(runs, single, strict=True))  # type: ignore[arg-type]
    return entry.fixed.fold(joined, np.searchsorted(places[order], np.arange(size)))


def _put(entry: Kept, whole: State, at: Ints, found: State) -> State:
    if isinstance(whole, Ragged) and isinstance(found, Ragged):
        kept = np.arange(whole.size)
        kept[at] = -1
        both = ragged.join([whole, found])
        return ragged.fold(entry.bag, both, np.concatenate([kept, at]), whole.size) if entry.bag else whole
    changed = []
    for part, new in zip(whole, found, strict=True):  # type: ignore[arg-type]
        changed.append(np.array(part))
        changed[-1][at] = new
    return tuple(changed)
