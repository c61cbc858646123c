"""What a batch costs, learnt while serving: latency = alpha + beta * rows, and how far it strays from that line.

Laws: it learns on rows, not on requests; traffic of a single size does not bend the line, which then only moves up and
down; one outlier moves it little; all times are in seconds on the caller's clock. The estimate is exponentially
weighted least squares on relative errors, with the sweep of the model's profile as its prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["LatencyModel"]

_SHORTEST, _LONGEST = 1e-9, 86_400.0  # seconds that a clock can mean
_SIZES = 24  # classes of batch sizes: powers of two
_STEP = 0.05  # how far one observation moves a quantile, as a part of the spread
_APART = math.log(2)
_KEPT = 0.25  # the weight that is kept when the line is moved as a whole
_OUTLIER = 8.0  # an observation counts as at most so many times what was predicted
_STREAK = 32  # observations in a row below the upper quantile, after which it is taken for too high
_BRIEF = 1e-3  # seconds; to learn from a batch costs a good part of what such a one takes
_SAMPLED = 4  # of brief batches one in so many is learnt from, once enough were
_CLOSELY = 64  # batches that are learnt from one by one, at first and when one is unusual
_UNUSUAL = 4.0  # a batch is, if it takes so many times as long as is expected, or so little


class LatencyModel:
    """Learns how long a batch of so many rows takes.

    `forget`: the weight that an observation keeps after each later one; `quantile`: of the upper estimate.
    """

    def __init__(
        self, *, alpha: float = 1e-3, beta: float = 1e-5, forget: float = 0.995, quantile: float = 0.95
    ) -> None:
        self.alpha, self.beta = alpha, beta
        self._forget, self._quantile = forget, quantile
        self._weight = self._rows = self._squares = self._times = self._products = 0.0
        self._middle = [0.0] * _SIZES  # logarithm of the typical ratio to the line, by class of size
        self._upper = [0.1] * _SIZES  # logarithm of the upper quantile of the ratio
        self._seen = [0] * _SIZES
        self._observed = 0  # the sum of those
        self._below = [0] * _SIZES  # how many in a row were below the upper quantile
        self._highest = [-math.inf] * _SIZES  # logarithm of the greatest ratio among them
        self._ratios = [(1.0, math.exp(0.1))] * _SIZES  # to the line, by class: what `expected` and `upper` take
        self._nearest = list(range(_SIZES))  # the class by which each goes: its own, or of those observed the nearest
        self._quickest = math.inf  # what one row took in the quickest batch
        self._drift, self._drifted = 0.0, 1.0  # running mean of the logarithm of the ratio to the line; how young it is
        self._told, self._closely = (
            0,
            _CLOSELY,
        )  # batches that `sample` was told of; of how many more each is learnt from

    @staticmethod
    def of(
        latency: Mapping[int, float],
        *,
        upper: Mapping[int, float] | None = None,
        forget: float = 0.995,
        quantile: float = 0.95,
    ) -> LatencyModel:
        """A model that begins with a sweep: seconds by number of rows, and those that are exceeded rarely if known."""
        model = LatencyModel(forget=forget, quantile=quantile)
        for _ in range(6):  # the line first, then how the sizes stray from it
            for rows, seconds in sorted(latency.items()):
                model.observe(rows, seconds)
        for rows, seconds in (upper or {}).items():
            if rows >= 1 and 0 < seconds < math.inf:
                over = math.log(seconds / model.expected(rows))
                model._upper[_class(rows)] = min(max(over, 0.0), math.log(_OUTLIER))
        model._keep(*range(_SIZES))
        model._quickest = math.inf  # a sweep may be another machine's
        return model

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`."""
        if rows < 1 or not 0 < seconds < math.inf:
            return
        seconds = min(max(seconds, _SHORTEST), _LONGEST)
        if self._observed >= 8:  # the first ones say what an outlier is
            seconds = min(seconds, _OUTLIER * self.expected(rows))
            self._follow(rows, seconds)
        weight = 1 / (seconds * seconds)  # relative errors: else the largest batches alone would decide
        keep = self._forget
        self._weight = keep * self._weight + weight
        self._rows = keep * self._rows + weight * rows
        self._squares = keep * self._squares + weight * rows * rows
        self._times = keep * self._times + weight * seconds
        self._products = keep * self._products + weight * rows * seconds
        self._solve()
        self._stray(rows, seconds)
        one = seconds if rows == 1 else seconds * self.expected(1) / self.expected(rows)
        self._quickest = min(self._quickest, one)

    def sample(self, rows: int, seconds: float) -> bool:
        """`observe`, for one who tells of every batch; whether it was learnt from. Of brief ones that take as long as
        usual some are enough: where hundreds of models take turns, what was learnt of each is in no cache of the
        processor.
        """
        self._told += 1
        if self._closely:
            self._closely -= 1
        elif seconds < _BRIEF and self._told % _SAMPLED:
            usual = self.expected(rows)
            if usual < _UNUSUAL * seconds and seconds < _UNUSUAL * usual:
                return False
            self._closely = _CLOSELY
        self.observe(rows, seconds)
        return True

    def _follow(self, rows: int, seconds: float) -> None:
        """Moves the whole line to where batches are seen to be, if that is far away: what was much quicker would else
        outweigh what is seen by the square of the ratio.
        """
        self._drift += (math.log(seconds / self._line(rows)) - self._drift) / 8
        self._drifted *= 7 / 8
        if abs(self._drift) < _APART:
            return
        self._move(math.exp(self._drift / (1 - self._drifted)))  # a mean of few begins at 0

    def renew(self, rows: int, seconds: float) -> None:
        """A batch of `rows` took `seconds`, after a time in which none ran, so that what was learnt may hold no more.

        What is quicker than was believed is believed at once, for all sizes; else it is one observation more.
        """
        if rows < 1 or not 0 < seconds < math.inf:
            return
        if seconds < self.upper(rows):
            self._upper = [upper / 2 for upper in self._upper]  # each time, for one may have been quick by chance
            self._keep(*range(_SIZES))
        if seconds < self.expected(rows):
            self._move(min(max(seconds, _SHORTEST) / self._line(rows), 1.0))
        self.observe(rows, seconds)

    def _move(self, ratio: float) -> None:
        """Takes all batches to last `ratio` times as long as the line says."""
        self._drift, self._drifted = 0.0, 1.0
        self.alpha, self.beta = self.alpha * ratio, self.beta * ratio
        self._times, self._products = _KEPT * self._times / ratio, _KEPT * self._products / ratio
        square = _KEPT / (ratio * ratio)
        self._weight, self._rows, self._squares = self._weight * square, self._rows * square, self._squares * square
        self._middle = [0.0] * _SIZES
        self._seen = [min(seen, 4) for seen in self._seen]
        self._observed = sum(self._seen)
        self._keep(*range(_SIZES))

    def _solve(self) -> None:
        spread = self._weight * self._squares - self._rows * self._rows
        mean = self._rows / self._weight
        if spread > 0.05 * self._rows * self._rows:
            slope = (self._weight * self._products - self._rows * self._times) / spread
            slope = min(max(slope, 0.0), self._times / self._rows)  # a line through the mean with alpha >= 0
            self.beta = slope
        self.alpha = max(self._times / self._weight - self.beta * mean, 0.0)
        if self.alpha == 0.0:
            self.beta = self._times / self._rows

    def _stray(self, rows: int, seconds: float) -> None:
        size = _class(rows)
        self._seen[size] += 1
        self._observed += 1
        if self._seen[size] == 1:
            self._find_nearest()
        ratio = math.log(seconds / self._line(rows))
        # A running mean at first, then an exponential one; a step is bounded, so that one pause moves it little.
        apart = ratio - self._middle[size]
        self._middle[size] += min(max(apart, -_APART), _APART) / min(self._seen[size], 50)
        # Robbins and Monro (1951): up by q, down by 1 - q, settles at the quantile.
        above = ratio > self._middle[size] + self._upper[size]
        spread = max(abs(ratio - self._middle[size]), 0.02)
        step = _STEP * spread * (self._quantile if above else self._quantile - 1)
        self._upper[size] = min(max(self._upper[size] + step, 0.0), math.log(_OUTLIER))
        self._settle(size, ratio, above=above)
        self._keep(size)

    def _settle(self, size: int, ratio: float, *, above: bool) -> None:
        """Halves the way of an upper quantile down to what is seen, once it was long not reached: its small steps would
        take tens of thousands of batches from where a fault left it. The greatest of so many is rarely below it.
        """
        if above:
            self._below[size], self._highest[size] = 0, -math.inf
            return
        self._below[size] += 1
        self._highest[size] = max(self._highest[size], ratio)
        if self._below[size] == _STREAK:
            reached = max(self._highest[size] - self._middle[size], 0.0)
            self._upper[size] = min(self._upper[size], (self._upper[size] + reached) / 2)
            self._below[size], self._highest[size] = 0, -math.inf

    def _keep(self, *sizes: int) -> None:
        """Keeps the ratios of these classes to the line: they are asked for with each request, and one changes with
        each batch.
        """
        for size in sizes:
            middle = self._middle[size]
            self._ratios[size] = math.exp(middle), math.exp(middle + self._upper[size])

    def _find_nearest(self) -> None:
        """A class was observed for the first time."""
        observed = [size for size in range(_SIZES) if self._seen[size]]
        self._nearest = [min(observed, key=lambda other: abs(other - size)) for size in range(_SIZES)]

    def _line(self, rows: int) -> float:
        return max(self.alpha + self.beta * rows, 1e-9)

    def expected(self, rows: int) -> float:
        """The typical time of a batch of `rows`, in seconds."""
        return max(self.alpha + self.beta * rows, 1e-9) * self._ratios[self._nearest[_class(rows)]][0]

    def upper(self, rows: int) -> float:
        """The time that a batch of `rows` exceeds rarely only, in seconds."""
        return max(self.alpha + self.beta * rows, 1e-9) * self._ratios[self._nearest[_class(rows)]][1]

    def at_best(self, rows: int) -> float:
        """`expected`, if batches were as quick again as the quickest since the sweep; 0 if there was none since."""
        return self.expected(rows) * self._quickest / self.expected(1) if self._quickest < math.inf else 0.0

    def table(self) -> dict[int, tuple[float, float]]:
        """What was learnt: by the sizes that were seen, the typical time and the upper one, in seconds."""
        sizes = [1 << size for size in range(_SIZES) if self._seen[size]]
        return {rows: (self.expected(rows), self.upper(rows)) for rows in sizes}

    def rows_within(self, seconds: float, most: int) -> int:
        """How many rows, at most `most`, take no more than `seconds`; 0 if not even one does."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.upper(middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        return low


def _class(rows: int) -> int:
    size = (rows - 1).bit_length()
    return size if size < _SIZES else _SIZES - 1
