"""Rows of tiles to feature values, one row after another, where they are too few to share the work of many columns.

A call of NumPy costs the same for one number as for a hundred, so a lone row is summed in few of them and finished with
Python's numbers.

Law: the values are those that the general way of `TileLayout` gives, bit for bit: the same sums of integers, and the
same floating arithmetic in the same order; what needs more is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Extreme, Floats, Instant, Ints, WideSum
from trilane.features.answering import Read
from trilane.features.operation import Kept
from trilane.features.row import RowFormat

__all__ = ["FEW", "Singly"]

FEW = 8  # rows; `bench_windows` shows where the two ways meet

Records: TypeAlias = npt.NDArray[np.void]
_LIMB, _BITS, _MASK = 2.0**32, 32, (1 << 32) - 1
_NOTHING = float("nan")


@dataclass(frozen=True, slots=True)
class _Sum:
    """A count, a sum or a mean: where the count lies among the words, and the parts of the sum."""

    op: str
    number: int
    high: int = 0
    limbs: tuple[int, int] = (0, 0)

    def of(self, words: Sequence[int], limbs: Sequence[int]) -> float:
        number = words[self.number]
        if self.op == "count":
            return float(number)
        if not number:
            return _NOTHING
        total = _as_float([words[self.high], *limbs[self.limbs[0] : self.limbs[1]]])
        return total if self.op == "sum" else total / number


@dataclass(frozen=True, slots=True)
class _Pick:
    """A smallest, largest, first or last value: how to find it in some records."""

    of: Callable[[Records], float]


class Singly:
    """Reads the rows of one nearline view; `windows` holds the answers of each."""

    def __init__(
        self,
        record: npt.DTypeLike,
        windows: Sequence[Sequence[tuple[int, _Sum | _Pick]]],
        reaches: Sequence[Sequence[int]],
        defaults: Sequence[float],
    ) -> None:
        self._record: Any = np.dtype(record)
        self._windows, self._reaches, self._defaults = windows, reaches, list(defaults)

    @staticmethod
    def of(
        kept: Sequence[Kept],
        reads: Sequence[Read],
        form: RowFormat,
        reaches: Sequence[Sequence[int]],
        defaults: Floats,
    ) -> Singly | None:
        """The way to read a view's rows; None if a feature is more than a sum or a value that is picked.

        `reaches`: of each window the first slot of its level, its length, and the length of a tile.
        """
        answers: list[list[tuple[int, _Sum | _Pick]]] = [[] for _ in reaches]
        for column, read in enumerate(reads):
            found = None if form.bags or read.over else _answer(kept, read, form)
            if found is None:
                return None
            answers[read.window].append((column, found))
        return Singly(form.record, answers, reaches, defaults.tolist())

    def read(self, rows: Sequence[bytes | None], instants: Ints) -> Floats:
        """Values [rows, features], each row asked at its instant. Raises ValueError for bytes that are no row."""
        probes = np.array([self._probes(instant) for instant in instants.tolist()])
        return np.array([self._one(row or b"", slots) for row, slots in zip(rows, probes, strict=True)])

    def _probes(self, instant: int) -> list[int]:
        """The slots from which each window begins, then those before which it ends."""
        firsts = [level | max((instant - length) // step, 0) for level, length, step in self._reaches]
        return firsts + [level | -(-instant // step) for level, _, step in self._reaches]

    def _one(self, row: bytes, probes: Ints) -> list[float]:
        records = np.frombuffer(row, self._record)
        cuts = records["slot"].searchsorted(probes).tolist()
        width = len(self._windows)
        values = self._defaults.copy()
        words, limbs = records["words"], records["limbs"]
        for number, answers in enumerate(self._windows):
            low, high = cuts[number], max(cuts[number], cuts[width + number])
            whole = np.add.reduce(words[low:high], axis=0).tolist()
            parts = np.add.reduce(limbs[low:high], axis=0, dtype=np.int64).tolist()
            for column, answer in answers:
                if isinstance(answer, _Sum):
                    value = answer.of(whole, parts)
                else:
                    value = answer.of(records[low:high]) if high > low else _NOTHING
                if value == value:  # noqa: PLR0124 - not NaN, for which the default stands
                    values[column] = value
        return values


def _answer(kept: Sequence[Kept], read: Read, form: RowFormat) -> _Sum | _Pick | None:
    state = kept[read.states[0]].state
    places = [[place for _, place in form.parts[position]] for position in read.states]
    if read.op == "count":
        return _Sum("count", places[0][0])
    if read.op in ("sum", "mean") and kept[read.states[1]].state == WideSum():
        high, first = places[1][:2]
        return _Sum(read.op, places[0][0], high, (first, first + len(places[1]) - 1))
    names = [field for field, _ in form.parts[read.states[0]]]
    if read.op in ("min", "max") and isinstance(state, Extreme):
        return _Pick(_extreme(names[0], state))
    if read.op in ("first", "last") and isinstance(state, Instant):
        return _Pick(_moment(names, state))
    return None


def _extreme(name: str, state: Extreme) -> Callable[[Records], float]:
    [empty], reduce = state.zero(), (np.maximum if state.largest else np.minimum).reduce

    def find(records: Records) -> float:
        value = reduce(records[name]).item()
        return _NOTHING if value == empty else float(value)

    return find


def _moment(names: Sequence[str], state: Instant) -> Callable[[Records], float]:
    (time, value), empty, place = names, state.zero()[0], -1 if state.latest else 0

    def find(records: Records) -> float:
        filled = (records[time] != empty).nonzero()[0]
        return float(records[value][filled[place]].item()) if len(filled) else _NOTHING

    return find


def _as_float(parts: list[int]) -> float:
    """`WideSum.as_float` of one sum."""
    _carry(parts)
    negative = parts[0] < 0
    if negative:
        parts = [-part for part in parts]
        _carry(parts)
    total = float(parts[-1])
    for part in parts[-2::-1]:
        total = total * _LIMB**-1 + part
    total *= _LIMB
    return -total if negative else total


def _carry(parts: list[int]) -> None:
    for i in range(len(parts) - 1, 0, -1):
        parts[i - 1] += parts[i] >> _BITS
        parts[i] &= _MASK
