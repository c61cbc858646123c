"""What each declared aggregation keeps, and how its answers come from what is kept.

Law: an answer depends on the merged state and the instant of the question alone, by arithmetic whose order is fixed, so
equal states give equal bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.features import algebra, bags
from trilane.features.aggregation import Aggregation
from trilane.features.algebra import Columns, Count, Extreme, Floats, Ints, State, WideSum
from trilane.features.bags import Counted, Distinct, HopSums, Instants, Largest, Quantiles, Registers
from trilane.features.condition import Condition
from trilane.features.hashing import estimates
from trilane.features.ragged import Bag, Ragged

__all__ = ["Kept", "Options", "finish", "kept_of"]

Options: TypeAlias = Mapping[str, float | int]

_SUMMED = {1: 2.0**62, 2: 2.0**53, 3: 2.0**40, 4: 2.0**40}


@dataclass(frozen=True, slots=True)
class Kept:
    """A state that a view keeps, of one column (None: of the events themselves), under conditions.

    `limit`: values that are not smaller count as null; `of_times`: the state is of the event times where the column
    has a value.
    """

    name: str
    column: str | None
    state: State | Bag
    where: tuple[Condition, ...] = ()
    limit: float = math.inf
    of_times: bool = False

    @property
    def is_added(self) -> bool:
        """Whether merging the state is adding its parts."""
        return isinstance(self.state, Count | WideSum)

    @property
    def bag(self) -> Bag | None:
        """The state if it is of variable size."""
        bags_alone = Counted | Distinct | HopSums | Instants | Largest | Quantiles | Registers
        return self.state if isinstance(self.state, bags_alone) else None

    @property
    def fixed(self) -> State:
        """The state, which is of fixed size."""
        if isinstance(self.state, Count | WideSum | Extreme | algebra.Instant):
            return self.state
        raise TypeError(self.name)


def kept_of(aggregation: Aggregation, kind: str) -> list[Kept]:
    """The states of an aggregation of one answer, of a column of `kind` ('i8' or 'f8'), in the order of `finish`."""
    op, column = aggregation.op, aggregation.column
    where = "".join(f" where {condition.spec()}" for condition in aggregation.where)
    bag = _bag_of(aggregation, kind)
    if bag is not None:
        is_summed = isinstance(bag, HopSums) and (kind == "f8" or op != "decayed_count")
        limit, bound = (_SUMMED[1], " within 2**62") if is_summed else (math.inf, "")
        return [Kept(f"{bag!r}:{column or '*'}{where}{bound}", column, bag, aggregation.where, limit)]
    if op == "time_since_last":
        last = Extreme(largest=True, kind="i8")
        return [Kept(f"at:{column or '*'}{where}", column, last, aggregation.where, of_times=True)]
    kept = []
    bounded = op in ("skew", "kurtosis")  # all their sums leave out the same values
    for short, state in algebra.states_of(op, kind):
        limit = math.inf
        if bounded:
            limit = _SUMMED[4]
        elif isinstance(state, WideSum):
            limit = _SUMMED[state.power]
        bound = " within 2**40" if bounded else ""
        kept.append(Kept(f"{short}:{column or '*'}{where}{bound}", column, state, aggregation.where, limit))
    return kept


def _bag_of(aggregation: Aggregation, kind: str) -> Bag | None:
    op, options = aggregation.op, dict(aggregation.options)

    def given(name: str) -> int:
        return int(options[name])

    if op in ("first_k", "last_k"):
        return Instants(given("k"), op == "last_k", kind)
    if op in ("top_k", "bottom_k"):
        return Largest(given("k"), op == "top_k", kind)
    if op == "distinct":
        return Distinct(given("limit"))
    if op == "approx_distinct":
        return Registers(given("lg_k"))
    if op == "quantile":
        return Quantiles(given("most"))
    if op.startswith("frequent_"):
        return Counted(given("limit"))
    if op.startswith("decayed_"):
        return HopSums(aggregation.window.hop, aggregation.window.tiles)
    return None


@dataclass(frozen=True, slots=True)
class _Question:
    """A merged bag for each row, and all that its answer depends on besides."""

    op: str
    state: Ragged
    options: Options
    kind: str
    instants: Ints


def finish(op: str, options: Options, states: Sequence[Columns | Ragged], kind: str, instants: Ints) -> Floats:
    """The answers of `op` from its states, each asked at its instant; NaN where there is no value."""
    state = states[0]
    if isinstance(state, Ragged):
        return _FINISHES[op](_Question(op, state, options, kind, instants))
    if op == "time_since_last":
        last = Extreme(largest=True, kind="i8")
        ages = np.maximum(instants - np.maximum(state[0].astype(np.int64), 0), 0)  # of an event from the future, 0
        return np.where(last.is_empty(state), np.nan, ages / 1e6)
    return algebra.finish(op, [s for s in states if not isinstance(s, Ragged)], kind)


def _at(state: Ragged, column: npt.NDArray[np.generic], place: int) -> Floats:
    """The column's item at `place` of each row, counted from the end where negative; NaN beyond the row."""
    starts = state.starts()
    at = (starts[1:] if place < 0 else starts[:-1]) + place
    inside = (at >= starts[:-1]) & (at < starts[1:])
    if not len(column):
        return np.full(state.size, np.nan)
    return np.where(inside, column[np.where(inside, at, 0)].astype(np.float64), np.nan)


def _listed(question: _Question) -> Floats:
    position = int(question.options["position"])
    from_end = question.op in ("last_k", "top_k")
    return _at(question.state, question.state.parts[-1], -1 - position if from_end else position)


def _how_many(question: _Question) -> Floats:
    return np.diff(question.state.starts()).astype(np.float64)


def _estimated(question: _Question) -> Floats:
    starts = question.state.starts().tolist()
    slots, ranks = question.state.parts
    answers = np.zeros(question.state.size)
    filled = [row for row in range(question.state.size) if starts[row + 1] > starts[row]]

    def registers(row: int) -> npt.NDArray[np.uint8]:
        full = np.zeros(1 << int(question.options["lg_k"]), np.uint8)
        full[slots[starts[row] : starts[row + 1]]] = ranks[starts[row] : starts[row + 1]]
        return full

    if filled:
        answers[filled] = estimates(registers(row) for row in filled)
    return answers


def _quantile(question: _Question) -> Floats:
    keys, levels, numbers = question.state.parts
    if not len(keys):
        return np.full(question.state.size, np.nan)
    starts = question.state.starts()
    total = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(numbers, out=total[1:])
    n = total[starts[1:]] - total[starts[:-1]]
    part = Fraction(str(question.options["q"])).limit_denominator(10**6)
    rank = np.maximum(-(-n * part.numerator // part.denominator), 1)
    at = np.where(n > 0, np.searchsorted(total[1:], total[starts[:-1]] + rank), 0)
    # Within a shared bucket values count as evenly spread; a bucket of one value (level 0) gives that value.
    inside = (total[starts[:-1]] + rank - total[at] - 0.5) / numbers[at]
    width = (np.int64(1) << levels[at].astype(np.int64)).astype(np.float64)
    found = keys[at] + np.clip(inside * width, 0.0, width - 1.0).astype(np.int64)
    return np.where(n > 0, bags.floats_of(found), np.nan)


def _frequent(question: _Question) -> Floats:
    state = question.state
    keys, numbers = state.parts
    order = np.lexsort((keys, -numbers, state.of))
    ranked = Ragged(state.size, state.of[order], (keys[order], numbers[order]))
    place = int(question.options["position"])
    number = _at(ranked, ranked.parts[1], place)
    known = number > 0
    if question.op == "frequent_count":
        answers = number
    elif question.op == "frequent_share":
        totals = np.bincount(state.of, weights=numbers, minlength=state.size)  # sums of integers below 2**53
        answers = number / np.maximum(totals, 1)
    else:
        values = bags.floats_of(ranked.parts[0]) if question.kind == "f8" else ranked.parts[0]
        answers = _at(ranked, values, place)
    return np.where(known, answers, np.nan)


_TABLES = [np.array([math.exp2(-i / 2.0 ** (12 * depth)) for i in range(4096)]) for depth in (1, 2, 3)]


def _weights(ages: Ints, half_life: int) -> Floats:
    """2**(-age / half_life) by products of tabled factors: the same bits in every row, within 2e-11."""
    whole, rest = np.divmod(ages, half_life)
    steps = (rest / half_life * 2.0**36).astype(np.int64)
    weight = _TABLES[0][steps >> 24] * _TABLES[1][steps >> 12 & 4095] * _TABLES[2][steps & 4095]
    return np.asarray(np.ldexp(weight, -np.minimum(whole, 2_000).astype(np.int32)), np.float64)


def _decayed(question: _Question) -> Floats:
    state = question.state
    hops, numbers, *limbs = state.parts
    hop = int(question.options["hop"])
    ages = np.maximum(question.instants[state.of] - (hops * hop + hop // 2), 0)
    weights = _weights(ages, int(question.options["half_life"]))
    # bincount adds one after the other, so the order is that of the hops.
    count = np.bincount(state.of, weights=numbers * weights, minlength=state.size).astype(np.float64)
    if question.op == "decayed_count":
        return count
    sums = WideSum().as_float(tuple(part.astype(np.int64) for part in limbs))
    total = np.bincount(state.of, weights=sums * weights, minlength=state.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total if question.op == "decayed_sum" else total / count, np.nan)


_FINISHES: Mapping[str, Callable[[_Question], Floats]] = {
    **dict.fromkeys(("first_k", "last_k", "top_k", "bottom_k"), _listed),
    "distinct": _how_many,
    "approx_distinct": _estimated,
    "quantile": _quantile,
    **dict.fromkeys(("frequent_item", "frequent_count", "frequent_share"), _frequent),
    **dict.fromkeys(("decayed_count", "decayed_sum", "decayed_mean"), _decayed),
}
