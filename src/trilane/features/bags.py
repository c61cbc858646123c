"""The bags: first and last k, largest k, distinct values, counted values, quantiles, HLL registers, sums per hop.

Laws: see `trilane.features.ragged`. What cannot be kept exactly in bounded space is coarsened by a rule that looks at
the set of events alone (never at their order or grouping): the coarseness of a union is at least that of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Array, Columns, Floats, Ints, WideSum
from trilane.features.hashing import coupons

__all__ = ["Counted", "Distinct", "HopSums", "Instants", "Largest", "Quantiles", "Registers", "keys_of"]

_SIGN = np.int64(np.iinfo(np.int64).max)


def keys_of(values: Array) -> Ints:
    """Values as integers of the same order: themselves, or the ordered bits of floats."""
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    bits = values.astype(np.float64).view(np.int64)
    return np.where(bits < 0, bits ^ _SIGN, bits)


def floats_of(keys: Ints) -> Floats:
    """The inverse of `keys_of` for floats."""
    return np.where(keys < 0, keys ^ _SIGN, keys).view(np.float64)


def _places(of: Ints) -> tuple[Ints, Ints]:
    """Of items sorted by row: each item's place within its row, and how many items the row has."""
    fresh = np.ones(len(of), bool)
    fresh[1:] = of[1:] != of[:-1]
    starts = np.flatnonzero(fresh)
    sizes = np.diff(np.append(starts, len(of)))
    return np.arange(len(of)) - np.repeat(starts, sizes), np.repeat(sizes, sizes)


def _runs(*columns: npt.NDArray[Any]) -> Ints:
    """Where a new combination begins in sorted columns."""
    fresh = np.ones(len(columns[0]), bool)
    fresh[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(fresh)


def _taken(of: Ints, parts: Columns, rows: npt.NDArray[Any]) -> tuple[Ints, Columns]:
    return of[rows], tuple(part[rows] for part in parts)


@dataclass(frozen=True, slots=True)
class Instants:
    """The k events at the earliest or latest times; those of one instant are ordered by value."""

    k: int
    latest: bool
    kind: str

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("time", "<i8"), ("value", f"<{self.kind}"))

    @property
    def limit(self) -> int:
        return self.k

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        return times, values

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[1], parts[0], of)))
        place, size = _places(of)
        return _taken(of, parts, place >= size - self.k if self.latest else place < self.k)


@dataclass(frozen=True, slots=True)
class Largest:
    """The k largest or smallest values, repeated ones as often as they come."""

    k: int
    largest: bool
    kind: str

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("value", f"<{self.kind}"),)

    @property
    def limit(self) -> int:
        return self.k

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        return (values,)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[0], of)))
        place, size = _places(of)
        return _taken(of, parts, place >= size - self.k if self.largest else place < self.k)


@dataclass(frozen=True, slots=True)
class Distinct:
    """The distinct values, of which the smallest `most` are kept: exact below `most`."""

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"),)

    @property
    def limit(self) -> int:
        return self.most

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        return (keys_of(values),)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[0], of)))
        of, parts = _taken(of, parts, _runs(of, parts[0]))
        return _taken(of, parts, _places(of)[0] < self.most)


def _counted(of: Ints, *parts: Any) -> tuple[Ints, list[Any]]:
    """Adds up the last part of items that agree in row and the other parts."""
    *keys, number = parts
    order = np.lexsort((*keys[::-1], of))
    of, keys, number = of[order], [key[order] for key in keys], number[order]
    starts = _runs(of, *keys)
    return of[starts], [*(key[starts] for key in keys), np.add.reduceat(number, starts)]


@dataclass(frozen=True, slots=True)
class Counted:
    """How often each value comes; of more than `most` distinct values nothing is kept but that they were too many."""

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"), ("n", "<i8"))

    @property
    def limit(self) -> int:
        return self.most

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        return keys_of(values), np.ones(len(values), np.int64)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        _, number = parts
        over = np.unique(of[number < 0])
        of, [key, number] = _counted(of, *parts)
        over = np.union1d(over, of[_places(of)[1] > self.most])
        bad = np.isin(of, over)
        marked = np.concatenate([of[~bad], over])
        order = np.argsort(marked, kind="stable")
        key = np.concatenate([key[~bad], np.zeros(len(over), np.int64)])
        number = np.concatenate([number[~bad], np.full(len(over), -1)])
        return _taken(marked, (key, number), order)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """How often each value comes, exactly for up to `most` distinct values; beyond, values share buckets.

    A bucket is all floats that agree but for their lowest `level` bits; the level of a state is the least at which at
    most `most` buckets are occupied, so it depends on the set of values alone (the uniform collapse of UDDSketch,
    Epicoco et al. 2020, taken to the bits of the float). KLL would be smaller, but draws random numbers.
    """

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"), ("level", "<u1"), ("n", "<i8"))

    @property
    def limit(self) -> int:
        return self.most

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        size = len(values)
        return keys_of(values.astype(np.float64)), np.zeros(size, np.uint8), np.ones(size, np.int64)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        key, level, number = parts
        highest = np.zeros(int(of.max()) + 1, np.uint8)
        np.maximum.at(highest, of, level)
        level = highest[of].astype(np.int64)
        of, [key, number] = _counted(of, (key >> level) << level, number)
        crowded = np.unique(of[_places(of)[1] > self.most])
        if len(crowded):
            for row in crowded.tolist():
                low, high = np.searchsorted(of, [row, row + 1])
                highest[row] = self._level(key[low:high])
            level = highest[of].astype(np.int64)
            of, [key, number] = _counted(of, (key >> level) << level, number)
        return of, (key, highest[of], number)

    def _level(self, keys: Ints) -> int:
        """The least level at which sorted distinct `keys` occupy at most `most` buckets."""
        differ = (keys[1:] ^ keys[:-1]).view(np.uint64)
        high = np.frexp((differ >> np.uint64(32)).astype(np.float64))[1]
        bits = np.where(high > 0, high + 32, np.frexp((differ & np.uint64(0xFFFFFFFF)).astype(np.float64))[1])
        # At level L two neighbours are apart if they differ in a bit at L or above: bits > L.
        kept = self.most - 1
        return int(np.partition(bits, len(bits) - 1 - kept)[len(bits) - 1 - kept])


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers of a HyperLogLog sketch of 2**lg_k, those that are not zero."""

    lg_k: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("slot", "<u2"), ("rank", "<u1"))

    @property
    def limit(self) -> int:
        return 1 << self.lg_k

    @property
    def limit_per_tile(self) -> int:
        return self.limit

    def items(self, times: Ints, values: Array) -> Columns:
        return coupons(keys_of(values), self.lg_k)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        slot, rank = parts
        place = (of << 16) | slot
        order = np.lexsort((rank, place))
        place, rank = place[order], rank[order]
        starts = _runs(place)
        place = place[starts]
        return place >> 16, ((place & 0xFFFF).astype(np.uint16), np.maximum.reduceat(rank, starts))


@dataclass(frozen=True, slots=True)
class HopSums:
    """The number and the exact sum of the values of each hop, for at most `most` hops: what a decay weighs."""

    hop: int
    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("hop", "<i8"), ("n", "<i8"), *WideSum().parts)

    @property
    def limit(self) -> int:
        return self.most

    @property
    def limit_per_tile(self) -> int:
        return 1

    def items(self, times: Ints, values: Array) -> Columns:
        size = len(times)
        sums = WideSum().lift(times, values, np.ones(size, bool))
        return times // self.hop, np.ones(size, np.int64), *WideSum().pack(sums)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        order = np.lexsort((parts[0], of))
        of, parts = _taken(of, parts, order)
        starts = _runs(of, parts[0])
        added = [np.add.reduceat(part.astype(np.int64), starts) for part in parts[1:]]
        packed = WideSum().pack(tuple(added[1:]))
        kinds = [kind for _, kind in WideSum().parts]
        return of[starts], (
            parts[0][starts],
            added[0],
            *(part.astype(kind) for part, kind in zip(packed, kinds, strict=True)),
        )
