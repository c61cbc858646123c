"""From states to feature values, for many rows and windows at once.

Laws: what is added up is read as a difference of two prefix sums over integers, so a window costs the same however many
tiles it has, and tiles (online) and single events (training) give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trilane.features import algebra
from trilane.features.algebra import Columns, Count, Floats, Ints, State, WideSum

__all__ = ["Answering", "Kept", "Read"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A state that a view keeps, of one column (None: of the events themselves)."""

    name: str
    column: str | None
    state: State

    @property
    def is_added(self) -> bool:
        """Whether merging the state is adding its parts."""
        return isinstance(self.state, Count | WideSum)


@dataclass(frozen=True, slots=True)
class Read:
    """How one feature is read: from which states (positions), over which window (position)."""

    op: str
    kind: str
    window: int
    states: tuple[int, ...]
    default: float | None


class Answering:
    """Answers the features of one view. Everything that depends on the definitions alone is prepared here, once."""

    def __init__(self, kept: Sequence[Kept], reads: Sequence[Read], windows: int) -> None:
        self._kept, self._reads, self._windows = tuple(kept), tuple(reads), windows
        first, self._first_part = 0, {}
        for position, entry in enumerate(kept):
            if entry.is_added:
                self._first_part[position] = first
                first += len(entry.state.parts)
        self.added = first
        sums = [i for i, entry in enumerate(kept) if entry.state == WideSum()]
        width = len(WideSum().parts)
        self._sum_parts = np.array([[self._first_part[i] + part for i in sums] for part in range(width)], np.int64)
        self._defaults = np.array([np.nan if r.default is None else r.default for r in reads])[:, None]
        self._counts = self._picks("count", 0, None)
        self._sums = self._picks("sum", 0, sums)
        self._means = self._picks("mean", 0, sums)
        self._others = [(column, read) for column, read in enumerate(reads) if read.op not in ("count", "sum", "mean")]

    def _picks(self, op: str, n: int, sums: list[int] | None) -> tuple[Ints, Ints, Ints, Ints]:
        """Of all features of `op`: their column, window, the part that counts, and the place among the sums."""
        chosen = [(column, read) for column, read in enumerate(self._reads) if read.op == op]
        return (
            np.array([column for column, _ in chosen], np.int64),
            np.array([read.window for _, read in chosen], np.int64),
            np.array([self._first_part[read.states[n]] for _, read in chosen], np.int64),
            np.array([sums.index(read.states[1]) for _, read in chosen] if sums else [], np.int64),
        )

    def prefix(self, parts: Sequence[Ints], size: int) -> Ints:
        """Prefix sums [added parts, size + 1] of all that is added up; each of `parts` holds one or more of them."""
        block = np.zeros((self.added, size + 1), np.int64)
        row = 0
        for part in parts:
            height = 1 if part.ndim == 1 else part.shape[0]
            np.cumsum(part, axis=-1, out=block[row : row + height, 1:] if part.ndim > 1 else block[row, 1:])
            row += height
        return block

    def answer(self, prefix: Ints, states: Sequence[Columns | None], low: Ints, high: Ints) -> Floats:
        """Feature values [queries, features]; NaN where there is none.

        `prefix`: of the added parts; `states`: the others, by position; `low`, `high`: the rows [windows, queries]
        from and up to which each window reaches.
        """
        queries = low.shape[1]
        answers = np.empty((len(self._reads), queries))
        high = np.maximum(high, low)
        totals = prefix[:, high] - prefix[:, low]  # [parts, windows, queries]
        self._added_answers(totals, answers)
        extremes: dict[int, Columns] = {}
        for column, read in self._others:
            rows = slice(read.window * queries, (read.window + 1) * queries)
            picked = []
            for position in read.states:
                entry, state = self._kept[position], states[position]
                if state is None:
                    first = self._first_part[position]
                    picked.append(tuple(totals[first + i, read.window] for i in range(len(entry.state.parts))))
                    continue
                if position not in extremes:
                    extremes[position] = entry.state.between(state, low.reshape(-1), high.reshape(-1))
                picked.append(tuple(part[rows] for part in extremes[position]))
            answers[column] = algebra.finish(read.op, picked, read.kind)
        return np.where(np.isnan(answers), self._defaults, answers).T

    def _added_answers(self, totals: Ints, answers: Floats) -> None:
        columns, windows, parts, _ = self._counts
        if len(columns):
            answers[columns] = totals[parts, windows]
        if not self._sum_parts.size:
            return
        values = WideSum().as_float(tuple(totals[rows] for rows in self._sum_parts))  # [sums, windows, queries]
        for is_mean, (columns, windows, parts, sums) in ((False, self._sums), (True, self._means)):
            if not len(columns):
                continue
            number = totals[parts, windows]
            found = values[sums, windows]
            if is_mean:
                found = found / np.maximum(number, 1)
            answers[columns] = np.where(number > 0, found, np.nan)
