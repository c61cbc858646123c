"""States of variable size: rows of items, and the merge of any runs of rows.

A bag is a state that is a canonical set of items: which items a row holds depends on the set of its events alone, so
that its merge is associative, commutative and equal bit for bit however the events came. All a bag says is which items
of many are kept (`settle`); lifting, folding, windows and bytes follow here, once for all bags.

Law: settling what was settled before with more beside it gives what settling everything at once gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Array, Columns, Ints

__all__ = ["Bag", "Ragged", "between", "decode", "empty", "encode", "fold", "item_type", "join", "lift"]

_BLOCK = 16
_GATHERED = 1 << 21  # items looked at in one go, so that memory stays bounded however wide the windows are


@dataclass(frozen=True, slots=True)
class Ragged:
    """`size` rows of items: item i belongs to row `of[i]`, ascending; `parts` are the items' columns."""

    size: int
    of: Ints
    parts: Columns

    def starts(self) -> Ints:
        """Where the items of each row begin, and where the last end [size + 1]."""
        return np.searchsorted(self.of, np.arange(self.size + 1))

    def chosen(self, rows: npt.NDArray[np.bool_]) -> Ragged:
        """The rows for which `rows` is true."""
        inside = rows[self.of]
        renumbered = np.cumsum(rows) - 1
        return Ragged(int(rows.sum()), renumbered[self.of[inside]], tuple(part[inside] for part in self.parts))

    def slice(self, first: int, stop: int) -> Ragged:
        """Rows from `first` to before `stop`."""
        low, high = np.searchsorted(self.of, [first, stop]).tolist()
        return Ragged(stop - first, self.of[low:high] - first, tuple(part[low:high] for part in self.parts))


class Bag(Protocol):
    """A state that is a bounded set of items."""

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Name and packed NumPy dtype of each part of an item."""
        ...

    @property
    def limit(self) -> int:
        """The most items that a state of any number of events holds."""
        ...

    @property
    def limit_per_tile(self) -> int:
        """The most items of the events of one hop."""
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        """The items of single events that have a value, one for each."""
        ...

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        """Of items in any order, those that are kept: ascending in `of`, in canonical order within a row."""
        ...


def item_type(bag: Bag) -> np.dtype[np.void]:
    """The packed form of one item."""
    return np.dtype([(name, kind) for name, kind in bag.parts])


def empty(bag: Bag, size: int) -> Ragged:
    """`size` states of no events: the identity of the merge."""
    return Ragged(size, np.zeros(0, np.int64), tuple(np.zeros(0, kind) for _, kind in bag.parts))


def _settled(bag: Bag, size: int, of: Ints, parts: Columns) -> Ragged:
    return Ragged(size, *bag.settle(of, parts)) if len(of) else Ragged(size, of, parts)


def lift(bag: Bag, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Ragged:
    """The states of single events; where `valid` is false, no item."""
    rows = np.flatnonzero(valid)
    items = bag.items(times[rows], values[rows])
    return Ragged(len(times), rows, tuple(part.astype(kind) for part, (_, kind) in zip(items, bag.parts, strict=True)))


def fold(bag: Bag, state: Ragged, rows: Ints, size: int) -> Ragged:
    """Merges states: row i of `state` goes to row rows[i] of `size`; where that is negative, nowhere."""
    of, parts = rows[state.of], state.parts
    if len(of) and int(of.min()) < 0:
        inside = of >= 0
        of, parts = of[inside], tuple(part[inside] for part in parts)
    return _settled(bag, size, of, parts)


def join(states: Sequence[Ragged]) -> Ragged:
    """The rows of all `states`, one after the other."""
    ends = np.cumsum([0, *(state.size for state in states)]).tolist()
    of = [state.of + first for state, first in zip(states, ends, strict=False)]
    columns = zip(*(state.parts for state in states), strict=True)
    return Ragged(ends[-1], np.concatenate(of), tuple(np.concatenate(column) for column in columns))


def between(bag: Bag, state: Ragged, low: Ints, high: Ints) -> Ragged:
    """For each query i, the merge of rows low[i] up to high[i]; no item where there are none.

    Wide windows over many rows are put together from merged blocks of 16, 256, ... rows, so that a window costs the
    logarithm of its rows.
    """
    low, high = np.minimum(low, state.size), np.minimum(np.maximum(high, low), state.size)
    starts = state.starts()
    costs = starts[high] - starts[low]
    if state.size <= 2 * _BLOCK or int(costs.sum()) <= 4 * len(state.of) + 4_096:
        return _gathered(bag, state, starts, low, high)
    first, last = -(-low // _BLOCK), high // _BLOCK
    has_blocks = last > first
    blocks = fold(bag, state, np.arange(state.size) // _BLOCK, -(-state.size // _BLOCK))
    zero = np.zeros_like(low)
    inner = between(bag, blocks, np.where(has_blocks, first, zero), np.where(has_blocks, last, zero))
    # A window without a whole block is all head.
    heads = _gathered(bag, state, starts, low, np.where(has_blocks, first * _BLOCK, high))
    tails = _gathered(bag, state, starts, np.where(has_blocks, last * _BLOCK, high), high)
    size = len(low)
    return fold(bag, join([inner, heads, tails]), np.tile(np.arange(size), 3), size)


def _gathered(bag: Bag, state: Ragged, starts: Ints, low: Ints, high: Ints) -> Ragged:
    begin, size = starts[low], starts[high] - starts[low]
    ends = np.cumsum(size)
    found, first = [], 0
    while first < len(low):
        base = int(ends[first - 1]) if first else 0
        stop = max(int(np.searchsorted(ends, base + _GATHERED, "right")), first + 1)
        lengths = size[first:stop]
        of = np.repeat(np.arange(stop - first), lengths)
        at = np.arange(len(of)) + np.repeat(begin[first:stop] - (ends[first:stop] - lengths - base), lengths)
        found.append(_settled(bag, stop - first, of, tuple(part[at] for part in state.parts)))
        first = stop
    if not found:
        return empty(bag, 0)
    return found[0] if len(found) == 1 else join(found)


def encode(bag: Bag, state: Ragged) -> bytes:
    """The items of all rows, one after the other."""
    packed = np.empty(len(state.of), item_type(bag))
    for (name, _), part in zip(bag.parts, state.parts, strict=True):
        packed[name] = part
    return packed.tobytes()


def decode(bag: Bag, raw: bytes, lengths: Ints) -> Ragged:
    """The inverse of `encode`; `lengths`: how many items each row has."""
    packed = np.frombuffer(raw, item_type(bag))
    of = np.repeat(np.arange(len(lengths)), lengths)
    if len(of) != len(packed):
        raise ValueError("the heap of a row does not fit its records")
    return Ragged(len(lengths), of, tuple(np.ascontiguousarray(packed[name]) for name, _ in bag.parts))
