"""The algebra behind every aggregation: zero, lift, fold, merge, between, finish, over NumPy columns.

Laws, for every state: `merge` is associative and commutative with identity `zero`; `fold` of lifted events equals any
tree of merges of their parts; packing loses nothing. They hold bit for bit, also for floating sums: a sum is kept as an
integer of 32-bit limbs (a small superaccumulator: Kulisch 1981; Neal, arXiv 1505.05571), so neither the order of
arrival, nor the cut into micro-batches, nor a replay can change a served value, and a window is a difference of two
prefix sums. Variance is built on the exact sums of x and of x squared, whose difference cannot cancel.

A state is a tuple of equally long arrays, one per part. "Events" are rows in any order; a "segment" is a run of rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Columns", "Count", "Extreme", "Instant", "State", "WideSum", "finish", "merge", "states_of"]

Array: TypeAlias = npt.NDArray[np.generic]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Columns: TypeAlias = tuple[npt.NDArray[Any], ...]

_LIMB = 2.0**32
_MASK = (1 << 32) - 1
_SMALLEST, _LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class State(Protocol):
    """One mergeable partial aggregate of one column."""

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Name and packed NumPy dtype of each part."""
        ...

    def zero(self) -> tuple[int | float, ...]:
        """The identity of `merge`: the state of no events."""
        ...

    def lift(self, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Columns:
        """The states of single events; where `valid` is false, `zero`."""
        ...

    def fold(self, state: Columns, starts: Ints) -> Columns:
        """Merges each segment of rows that begins at `starts` (ascending, the first 0) into one row."""
        ...

    def between(self, state: Columns, low: Ints, high: Ints) -> Columns:
        """For each query i, the merge of rows low[i] up to high[i]; `zero` where there are none."""
        ...

    def pack(self, state: Columns) -> Columns:
        """The canonical stored form: equal sets of events give equal bytes."""
        ...


def merge(state: State, a: Columns, b: Columns) -> Columns:
    """Merges two columns of states row by row."""
    size = len(a[0])
    woven = tuple(np.stack([x, y], axis=1).reshape(-1) for x, y in zip(a, b, strict=True))
    return state.fold(woven, np.arange(0, 2 * size, 2)) if size else a


def _sums_between(column: Array, low: Ints, high: Ints) -> Ints:
    prefix = np.zeros(len(column) + 1, np.int64)
    np.cumsum(column, out=prefix[1:])
    return prefix[np.maximum(high, low)] - prefix[low]


@dataclass(frozen=True, slots=True)
class Count:
    """How many events, or how many with a value."""

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("n", "<i8"),)

    def zero(self) -> tuple[int | float, ...]:
        return (0,)

    def lift(self, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Columns:
        return (valid.astype(np.int64),)

    def fold(self, state: Columns, starts: Ints) -> Columns:
        return (np.add.reduceat(state[0], starts),)

    def between(self, state: Columns, low: Ints, high: Ints) -> Columns:
        return (_sums_between(state[0], low, high),)

    def pack(self, state: Columns) -> Columns:
        return state


@dataclass(frozen=True, slots=True)
class WideSum:
    """An exact sum: `high` counts units of 2**(32*top), then limbs of 32 bits follow, `below` of them under the point.

    Power p sums x**p: x for |x| < 2**62, down to 2**-96; x**2 for |x| < 2**53, down to 2**-128; x**3 and x**4 for
    |x| < 2**40, down to 2**-160 and 2**-192. What is smaller is cut off, from each event by itself, so that the order
    still changes nothing.
    """

    power: int = 1

    @property
    def top(self) -> int:
        return self.power  # x needs whole limbs up to 2**32, x squared up to 2**64

    @property
    def below(self) -> int:
        return self.power + 2

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("high", "<i8"), *((f"limb{i}", "<u4") for i in range(self.top + self.below)))

    def zero(self) -> tuple[int | float, ...]:
        return (0,) * (self.top + self.below + 1)

    def lift(self, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Columns:
        if values.dtype.kind in "iu" and self.power == 1:
            whole = np.where(valid, values, 0).astype(np.int64)
            zeros = np.zeros_like(whole)
            return (whole >> 32, whole & _MASK, *([zeros] * self.below))
        x = np.where(valid, values, 0.0).astype(np.float64)
        if self.power == 1:
            return tuple(self._limbs(x))
        terms: tuple[Floats, ...] = _exact_square(x)
        if self.power == 3:
            terms = tuple(part for term in terms for part in _exact_product(term, x))
        elif self.power == 4:
            terms = _fourth_power(terms[0], terms[1])
        limbs = [self._limbs(term) for term in terms]
        return tuple(functools.reduce(np.add, column) for column in zip(*limbs, strict=True))

    def _limbs(self, rest: Floats) -> list[Ints]:
        scaled = rest * _LIMB**-self.top
        limbs = []
        for _ in range(self.top + self.below + 1):
            whole = np.trunc(scaled)  # towards zero: then what is left is exact, also below zero
            limbs.append(whole.astype(np.int64))
            scaled = (scaled - whole) * _LIMB
        return limbs

    def fold(self, state: Columns, starts: Ints) -> Columns:
        return tuple(np.add.reduceat(part.astype(np.int64, copy=False), starts) for part in state)

    def between(self, state: Columns, low: Ints, high: Ints) -> Columns:
        return tuple(_sums_between(part, low, high) for part in state)

    def pack(self, state: Columns) -> Columns:
        parts = [part.astype(np.int64) for part in state]
        for i in range(len(parts) - 1, 0, -1):
            parts[i - 1] += parts[i] >> 32
            parts[i] &= _MASK
        return tuple(parts)

    def as_float(self, state: Columns) -> Floats:
        """The sum as a float, within an ulp or two of the exact one and always the same for the same events."""
        parts = self.pack(state)
        negative = parts[0] < 0
        if negative.any():
            flipped = self.pack(tuple(-part for part in parts))
            parts = tuple(np.where(negative, f, p) for f, p in zip(flipped, parts, strict=True))
        total = parts[-1].astype(np.float64)
        for part in parts[-2::-1]:
            total = total * _LIMB**-1 + part
        total *= _LIMB**self.top
        return np.where(negative, -total, total)

    def as_ints(self, state: Columns) -> list[int]:
        """The sum as exact Python integers in units of 2**(-32*below)."""
        values = [0] * len(state[0])
        for part in state:
            values = [(v << 32) + int(p) for v, p in zip(values, part.tolist(), strict=True)]
        return values


def _exact_square(x: Floats) -> tuple[Floats, Floats]:
    """Splits x*x into its rounded value and the exact rounding error (Dekker 1971)."""
    split = 134217729.0 * x
    head = split - (split - x)
    tail = x - head
    square = x * x
    return square, ((head * head - square) + 2.0 * head * tail) + tail * tail


def _exact_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Splits a*b into its rounded value and the exact rounding error (Dekker 1971)."""
    split_a, split_b = 134217729.0 * a, 134217729.0 * b
    head_a, head_b = split_a - (split_a - a), split_b - (split_b - b)
    tail_a, tail_b = a - head_a, b - head_b
    product = a * b
    return product, ((head_a * head_b - product) + head_a * tail_b + tail_a * head_b) + tail_a * tail_b


def _fourth_power(square: Floats, error: Floats) -> tuple[Floats, ...]:
    """The six floats that add up to (square + error)**2."""
    return (*_exact_square(square), *_exact_product(2.0 * square, error), *_exact_square(error))


@dataclass(frozen=True, slots=True)
class Extreme:
    """The smallest or largest value; `kind` is 'i8' or 'f8'."""

    largest: bool
    kind: str

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("value", f"<{self.kind}"),)

    def zero(self) -> tuple[int | float, ...]:
        if self.kind == "f8":
            return (-np.inf if self.largest else np.inf,)
        return (_SMALLEST if self.largest else _LARGEST,)

    @property
    def _reduce(self) -> np.ufunc:
        return np.maximum if self.largest else np.minimum

    def lift(self, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Columns:
        return (np.where(valid, values, self.zero()[0]).astype(self.kind),)

    def fold(self, state: Columns, starts: Ints) -> Columns:
        return (self._reduce.reduceat(state[0], starts),)

    def between(self, state: Columns, low: Ints, high: Ints) -> Columns:
        if not len(low):
            return (state[0][:0],)
        padded = np.append(state[0], np.asarray(self.zero(), state[0].dtype))
        bounds = np.stack([low, np.maximum(high, low)], axis=1).reshape(-1)
        found = self._reduce.reduceat(padded, bounds)[::2]
        return (np.where(high > low, found, self.zero()[0]).astype(padded.dtype),)

    def pack(self, state: Columns) -> Columns:
        return state

    def is_empty(self, state: Columns) -> npt.NDArray[np.bool_]:
        """Where no event had a value."""
        return np.asarray(state[0] == self.zero()[0])


@dataclass(frozen=True, slots=True)
class Instant:
    """The value at the earliest or latest event time; of several at one instant, the smallest or the largest.

    `between` needs rows in ascending order of time, each with events of its own span only, as tiles are.
    """

    latest: bool
    kind: str

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        return (("time", "<i8"), ("value", f"<{self.kind}"))

    def zero(self) -> tuple[int | float, ...]:
        return (_SMALLEST if self.latest else _LARGEST, 0)

    def lift(self, times: Ints, values: Array, valid: npt.NDArray[np.bool_]) -> Columns:
        return (
            np.where(valid, times, self.zero()[0]),
            np.where(valid, values, 0).astype(self.kind),
        )

    def fold(self, state: Columns, starts: Ints) -> Columns:
        if not len(starts):
            return tuple(part[:0] for part in state)
        times, values = state
        segment = np.zeros(len(times), np.int64)
        segment[starts[1:]] = 1
        segment = np.cumsum(segment)
        order = np.lexsort((values, times, segment))
        ends = np.append(starts[1:], len(times)) - 1
        chosen = order[ends if self.latest else starts]
        return times[chosen], values[chosen]

    def between(self, state: Columns, low: Ints, high: Ints) -> Columns:
        times, values = state
        empty = self.zero()
        if not len(times):
            return np.full(len(low), empty[0]), np.zeros(len(low), self.kind)
        rows = np.arange(len(times))
        filled = times != empty[0]
        if self.latest:
            nearest = np.maximum.accumulate(np.where(filled, rows, -1))
            at = np.where(high > low, nearest[np.maximum(high, 1) - 1], -1)
        else:
            after = np.where(filled, rows, len(times))
            nearest = np.minimum.accumulate(after[::-1])[::-1]
            at = np.where(high > low, nearest[np.minimum(low, len(times) - 1)], len(times))
        found = (at >= low) & (at < high)
        at = np.where(found, at, 0)
        return np.where(found, times[at], empty[0]), np.where(found, values[at], 0).astype(values.dtype)

    def pack(self, state: Columns) -> Columns:
        return state

    def is_empty(self, state: Columns) -> npt.NDArray[np.bool_]:
        """Where no event had a value."""
        return np.asarray(state[0] == self.zero()[0])


def states_of(op: str, kind: str) -> tuple[tuple[str, State], ...]:
    """The states, by short name, that aggregation `op` of a column of `kind` ('i8' or 'f8') keeps."""
    if op == "count":
        return (("n", Count()),)
    if op in ("min", "max"):
        return ((op, Extreme(largest=op == "max", kind=kind)),)
    if op in ("first", "last"):
        return ((op, Instant(latest=op == "last", kind=kind)),)
    sums: tuple[tuple[str, State], ...] = (("n", Count()), ("sum", WideSum()))
    powers = {"sum": 1, "mean": 1, "skew": 3, "kurtosis": 4}.get(op, 2)
    higher: tuple[tuple[str, State], ...] = (
        ("squares", WideSum(power=2)), ("cubes", WideSum(power=3)), ("fourths", WideSum(power=4)),
    )  # fmt: skip
    return (*sums, *higher[: powers - 1])


def finish(op: str, states: Sequence[Columns], kind: str) -> Floats:
    """The answers of aggregation `op` from its states (in the order of `states_of`); NaN where there is no value."""
    if op == "count":
        return states[0][0].astype(np.float64)
    if op in ("min", "max"):
        extreme = Extreme(largest=op == "max", kind=kind)
        return np.where(extreme.is_empty(states[0]), np.nan, states[0][0].astype(np.float64))
    if op in ("first", "last"):
        moment = Instant(latest=op == "last", kind=kind)
        return np.where(moment.is_empty(states[0]), np.nan, states[0][1].astype(np.float64))
    n = states[0][0].astype(np.float64)
    if op in ("sum", "mean"):
        total = WideSum().as_float(states[1])
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(n > 0, total if op == "sum" else total / n, np.nan)
    if op in ("skew", "kurtosis"):
        return _shapes(states)
    variances = _variances(states, sample=op.endswith("_sample"))
    return np.sqrt(variances) if op.startswith("stddev") else variances


def _variances(states: Sequence[Columns], *, sample: bool) -> Floats:
    """Variances by integer arithmetic on the exact sums: correctly rounded, where nothing of a square was cut off."""
    counts = states[0][0].tolist()
    sums = WideSum().as_ints(states[1])
    squares = WideSum(power=2).as_ints(states[2])
    answers = np.full(len(counts), np.nan)
    for i, (n, total, square) in enumerate(zip(counts, sums, squares, strict=True)):
        if n > sample:
            # Sums are in units of 2**-96 and squares of 2**-128; the products meet in units of 2**-192.
            spread = max(((n * square) << 64) - total * total, 0)
            answers[i] = spread / ((n * (n - sample)) << 192)
    return answers


def _shapes(states: Sequence[Columns]) -> Floats:
    """Skewness (of three power sums) or excess kurtosis (of four), by integer arithmetic on the exact sums.

    NaN where the values do not vary.
    """
    counts = states[0][0].tolist()
    # In units of 2**-96 for x; a sum of x**p is in units of 2**-(32 p + 64) and is brought to 2**-(96 p).
    sums = [
        [value << 64 * (power - 1) for value in WideSum(power=power).as_ints(states[power])]
        for power in range(1, len(states))
    ]
    answers = np.full(len(counts), np.nan)
    for i, (n, (s1, s2, s3, *rest)) in enumerate(zip(counts, zip(*sums, strict=True), strict=True)):
        second = n * s2 - s1 * s1
        if second <= 0:
            continue
        third = n * n * s3 - 3 * n * s1 * s2 + 2 * s1**3
        if rest:
            fourth = n**3 * rest[0] - 4 * n * n * s1 * s3 + 6 * n * s1 * s1 * s2 - 3 * s1**4
            answers[i] = (fourth - 3 * second * second) / (second * second)
        else:
            answers[i] = math.copysign(math.sqrt(third * third / second**3), third)
    return answers
