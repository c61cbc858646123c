"""From states to feature values, for many rows and windows at once.

Laws: what is added up is read as a difference of two prefix sums over integers, so a window costs the same however many
tiles it has, and tiles (online) and single events (training) give the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trilane.features import operation, ragged
from trilane.features.algebra import Columns, Floats, Ints, WideSum, merge
from trilane.features.operation import Kept
from trilane.features.ragged import Bag, Ragged
from trilane.features.unseen import Unseen
from trilane.features.window import Window

__all__ = ["Answering", "Read"]


@dataclass(frozen=True, slots=True)
class Read:
    """How one feature is read: from which states (positions), over which window (position).

    `over`: the reads (positions) that a rate or a ratio is computed from.
    """

    op: str
    kind: str
    window: int
    states: tuple[int, ...]
    default: float | None
    options: Mapping[str, float | int] = field(default_factory=dict)
    over: tuple[int, ...] = ()


class Answering:
    """Answers the first `features` of `reads`; the others are parts of rates and ratios.

    Everything that depends on the definitions alone is prepared here, once.
    """

    def __init__(self, kept: Sequence[Kept], reads: Sequence[Read], windows: Sequence[Window], features: int) -> None:
        self._kept, self._reads, self._windows, self._features = tuple(kept), tuple(reads), tuple(windows), features
        first, self._first_part = 0, {}
        for position, entry in enumerate(kept):
            if entry.is_added:
                self._first_part[position] = first
                first += len(entry.state.parts)
        self.added = first
        self._wanted = [sorted({r.window for r in reads if position in r.states}) for position in range(len(kept))]
        self.needs_instants = any(r.op.startswith(("decayed_", "time_")) for r in reads)
        sums = [i for i, entry in enumerate(kept) if entry.state == WideSum()]
        width = len(WideSum().parts)
        self._sum_parts = np.array([[self._first_part[i] + part for i in sums] for part in range(width)], np.int64)
        self._defaults = np.array([np.nan if r.default is None else r.default for r in reads])[:, None]
        self._counts = self._picks("count", 0, None)
        self._sums = self._picks("sum", 0, sums)
        self._means = self._picks("mean", 0, sums)
        self._quotients = [(column, read) for column, read in enumerate(reads) if read.over]
        added = ("count", "sum", "mean")
        self._others = [(c, read) for c, read in enumerate(reads) if read.op not in added and not read.over]

    def blended(self, near: Floats, far: Floats, long: Sequence[int]) -> Floats:
        """Feature values of what `parts` gave twice: `far` of the windows that are `long`, `near` of the others."""
        is_long = np.isin([read.window for read in self._reads], long)
        return self.finished(np.where(is_long[:, None], far, near))

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

    def answer(
        self,
        prefix: Ints,
        states: Sequence[Columns | Ragged | None],
        low: Ints,
        high: Ints,
        instants: Ints,
        unseen: Unseen | None = None,
    ) -> Floats:
        """Feature values [queries, features]; NaN where there is none. The rest is as for `parts`."""
        return self.finished(self.parts(prefix, states, low, high, instants, unseen))

    def parts(
        self,
        prefix: Ints,
        states: Sequence[Columns | Ragged | None],
        low: Ints,
        high: Ints,
        instants: Ints,
        unseen: Unseen | None = None,
    ) -> Floats:
        """What the features are finished from [reads, queries], rates and ratios still empty.

        `prefix`: of the added parts; `states`: the others, by position; `low`, `high`: the rows [windows, queries]
        from and up to which each window reaches, or [ranges, windows, queries] where it is the union of several ranges;
        `instants`: when each query asks; `unseen`: what it could not read.
        """
        queries = low.shape[-1]
        answers = np.empty((len(self._reads), queries))
        high = np.maximum(high, low)
        totals = prefix[:, high] - prefix[:, low]  # [parts, windows, queries]
        if low.ndim > 2:
            totals = totals.sum(axis=1)
        if unseen is not None:
            totals -= unseen.added(self._added_parts(unseen), low)
        self._added_answers(totals, answers)
        found: dict[tuple[int, int], Columns | Ragged] = {}
        for column, read in self._others:
            picked = []
            for position in read.states:
                place = (position, read.window)
                if place not in found:
                    self._find(found, position, states[position], totals, low, high)
                    if unseen is not None and not self._kept[position].is_added:
                        self._mend(found, position, states[position], low, unseen)
                picked.append(found[place])
            answers[column] = operation.finish(read.op, read.options, picked, read.kind, instants)
        return answers

    def finished(self, answers: Floats) -> Floats:
        """Feature values [queries, features] of what `parts` gave."""
        if self._quotients:
            answers = np.where(np.isnan(answers), self._defaults, answers)
            for column, read in self._quotients:
                answers[column] = self._quotient(read, answers)
        return np.where(np.isnan(answers), self._defaults, answers)[: self._features].T

    def _find(
        self,
        found: dict[tuple[int, int], Columns | Ragged],
        position: int,
        state: Columns | Ragged | None,
        totals: Ints,
        low: Ints,
        high: Ints,
    ) -> None:
        """Merges one state over the windows that need it: fixed parts over all at once, bags over each by itself."""
        entry, (windows, queries) = self._kept[position], low.shape[-2:]
        wanted = self._wanted[position]
        low, high = low.reshape(-1, windows, queries), high.reshape(-1, windows, queries)
        if isinstance(state, Ragged):
            if entry.bag is not None:
                found.update({(position, w): _bags_between(entry.bag, state, low[:, w], high[:, w]) for w in wanted})
        elif state is None:
            first, width = self._first_part[position], len(entry.state.parts)
            for window in wanted:
                found[position, window] = tuple(totals[first + i, window] for i in range(width))
        else:
            ranges = entry.fixed.between(state, low.reshape(-1), high.reshape(-1))
            cuts = [tuple(part.reshape(len(low), -1)[i] for part in ranges) for i in range(len(low))]
            merged = functools.reduce(functools.partial(merge, entry.fixed), cuts)
            for window in wanted:
                rows = slice(window * queries, (window + 1) * queries)
                found[position, window] = tuple(part[rows] for part in merged)

    def _added_parts(self, unseen: Unseen) -> list[Ints]:
        pairs = zip(self._kept, unseen.lifted, strict=True)
        return [part for entry, state in pairs if entry.is_added and not isinstance(state, Ragged) for part in state]

    def _mend(
        self,
        found: dict[tuple[int, int], Columns | Ragged],
        position: int,
        state: Columns | Ragged | None,
        low: Ints,
        unseen: Unseen,
    ) -> None:
        """Takes what was not seen out of the merges of one state."""
        if state is None:
            return
        for window in self._wanted[position]:
            whole = found[position, window]
            found[position, window] = unseen.without(position, self._kept[position], state, whole, low[window])

    def _quotient(self, read: Read, answers: Floats) -> Floats:
        if read.op == "rate":
            return np.asarray(answers[read.over[0]] * (read.options["per"] / self._windows[read.window].length))
        top, bottom = answers[read.over[0]], answers[read.over[1]]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(bottom == 0, np.nan, top / bottom)

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


def _bags_between(bag: Bag, state: Ragged, low: Ints, high: Ints) -> Ragged:
    """For each query the merge of its ranges of rows [ranges, queries]."""
    found = [ragged.between(bag, state, first, last) for first, last in zip(low, high, strict=True)]
    if len(found) == 1:
        return found[0]
    size = low.shape[1]
    return ragged.fold(bag, ragged.join(found), np.tile(np.arange(size), len(found)), size)
