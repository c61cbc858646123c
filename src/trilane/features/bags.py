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
from trilane.features.ragged import Bag

__all__ = ["Counted", "Distinct", "HopSums", "Instants", "Largest", "Quantiles", "Registers", "keys_of"]

_OCTAVES = 63
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
class Instants(Bag):
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

    def items(self, times: Ints, values: Array) -> Columns:
        return times, values

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[1], parts[0], of)))
        place, size = _places(of)
        return _taken(of, parts, place >= size - self.k if self.latest else place < self.k)


@dataclass(frozen=True, slots=True)
class Largest(Bag):
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

    def items(self, times: Ints, values: Array) -> Columns:
        return (values,)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[0], of)))
        place, size = _places(of)
        return _taken(of, parts, place >= size - self.k if self.largest else place < self.k)


@dataclass(frozen=True, slots=True)
class Distinct(Bag):
    """The distinct values, of which the smallest `most` are kept: exact below `most`."""

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"),)

    @property
    def limit(self) -> int:
        return self.most

    def items(self, times: Ints, values: Array) -> Columns:
        return (keys_of(values),)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        of, parts = _taken(of, parts, np.lexsort((parts[0], of)))
        of, parts = _taken(of, parts, _runs(of, parts[0]))
        return _taken(of, parts, _places(of)[0] < self.most)


def _counted(of: Ints, keys: Ints, number: Ints) -> tuple[Ints, Ints, Ints]:
    """Adds up the numbers of items that agree in row and key."""
    order = np.lexsort((keys, of))
    of, keys, number = of[order], keys[order], number[order]
    starts = _runs(of, keys)
    return of[starts], keys[starts], np.add.reduceat(number, starts)


@dataclass(frozen=True, slots=True)
class Counted(Bag):
    """How often each value comes; of more than `most` distinct values nothing is kept but that they were too many."""

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"), ("n", "<i8"))

    @property
    def limit(self) -> int:
        return self.most

    def items(self, times: Ints, values: Array) -> Columns:
        return keys_of(values), np.ones(len(values), np.int64)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        _, number = parts
        over = np.unique(of[number < 0])
        of, key, number = _counted(of, parts[0], parts[1])
        over = np.union1d(over, of[_places(of)[1] > self.most])
        bad = np.isin(of, over)
        marked = np.concatenate([of[~bad], over])
        order = np.argsort(marked, kind="stable")
        key = np.concatenate([key[~bad], np.zeros(len(over), np.int64)])
        number = np.concatenate([number[~bad], np.full(len(over), -1)])
        return _taken(marked, (key, number), order)


@dataclass(frozen=True, slots=True)
class Quantiles(Bag):
    """How often each value comes, exactly for up to `most` distinct values in an octave; beyond, values share buckets.

    An octave is all floats of one sign and exponent. A bucket is all floats that agree but for their lowest `level`
    bits; the level of an octave is the least at which at most `most` of its buckets are occupied, so it depends on the
    set of values alone (the uniform collapse of UDDSketch, Epicoco et al. 2020, in each octave by itself). A bucket's
    width is below 2 / most of its values. Of more than 63 octaves those nearest to zero count as zero. KLL would be
    smaller, but draws random numbers: no two lanes could agree.
    """

    most: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("key", "<i8"), ("level", "<u1"), ("n", "<i8"))

    @property
    def limit(self) -> int:
        return self.most * (_OCTAVES + 1)

    def items(self, times: Ints, values: Array) -> Columns:
        size = len(values)
        return keys_of(values.astype(np.float64)), np.zeros(size, np.uint8), np.ones(size, np.int64)

    def settle(self, of: Ints, parts: Columns) -> tuple[Ints, Columns]:
        key, level, number = parts
        key = self._without_least(of, key)
        level = np.where(key == 0, 0, level)
        octaves, group = np.unique((of << 12) | (key >> 52) + 2048, return_inverse=True)
        highest = np.zeros(len(octaves), np.uint8)
        np.maximum.at(highest, group, level.astype(np.uint8))
        shift = highest[group].astype(np.int64)
        group, key, number = _counted(group, (key >> shift) << shift, number)
        crowded = np.unique(group[_places(group)[1] > self.most])
        if len(crowded):
            bounds = np.searchsorted(group, np.stack([crowded, crowded + 1])).T.tolist()
            highest[crowded] = [self._level(key[low:high]) for low, high in bounds]
            shift = highest[group].astype(np.int64)
            group, key, number = _counted(group, (key >> shift) << shift, number)
        return octaves[group] >> 12, (key, highest[group], number)

    def _without_least(self, of: Ints, key: Ints) -> Ints:
        """Turns the values of all but the largest octaves of each row to zero."""
        exponent = np.where(key < 0, key ^ _SIGN, key) >> 52 & 0x7FF
        place = (of << 12) | (exponent << 1) | (key < 0)
        octaves = np.unique(place[key != 0])
        if len(octaves) <= _OCTAVES:
            return key
        number, size = _places(octaves >> 12)
        gone = octaves[number < size - _OCTAVES]
        return np.where(np.isin(place, gone) & (key != 0), 0, key) if len(gone) else key

    def _level(self, keys: Ints) -> int:
        """The least level at which sorted distinct `keys` occupy at most `most` buckets."""
        differ = (keys[1:] ^ keys[:-1]).view(np.uint64)
        high = np.frexp((differ >> np.uint64(32)).astype(np.float64))[1]
        bits = np.where(high > 0, high + 32, np.frexp((differ & np.uint64(0xFFFFFFFF)).astype(np.float64))[1])
        # At level L two neighbours are apart if they differ in a bit at L or above: bits > L.
        kept = self.most - 1
        return int(np.partition(bits, len(bits) - 1 - kept)[len(bits) - 1 - kept])


@dataclass(frozen=True, slots=True)
class Registers(Bag):
    """The registers of a HyperLogLog sketch of 2**lg_k, those that are not zero."""

    lg_k: int

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("slot", "<u2"), ("rank", "<u1"))

    @property
    def limit(self) -> int:
        return 1 << self.lg_k

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
class HopSums(Bag):
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
        left = np.logical_or.reduce([part != 0 for part in (added[0], *packed)])  # else all was taken back
        return of[starts][left], (
            parts[0][starts][left],
            added[0][left],
            *(part.astype(kind)[left] for part, kind in zip(packed, kinds, strict=True)),
        )
