"""The laws of the algebra, for every state: identity, commutativity, associativity, folds, packing, exactness."""

from __future__ import annotations

import fractions
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import oracle as oracles
from trilane.features.algebra import Columns, Count, Extreme, Instant, State, WideSum, finish, merge, states_of
from trilane.features.operation import kept_of

STATES: dict[str, State] = {
    "count": Count(),
    "sum of floats": WideSum(),
    "sum of squares": WideSum(power=2),
    "min": Extreme(largest=False, kind="f8"),
    "max": Extreme(largest=True, kind="f8"),
    "first": Instant(latest=False, kind="f8"),
    "last": Instant(latest=True, kind="f8"),
    "sum of cubes": WideSum(power=3),
    "sum of fourth powers": WideSum(power=4),
}
VALUES = st.floats(min_value=-1e12, max_value=1e12).map(lambda x: x + 0.0)
EVENTS = st.lists(st.tuples(st.integers(0, 50), st.none() | VALUES), max_size=12)


each_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())


def _lift(state: State, events: list[tuple[int, float | None]]) -> Columns:
    times = np.array([t for t, _ in events], np.int64)
    values = np.array([0.0 if v is None else v for _, v in events])
    valid = np.array([v is not None for _, v in events], bool)
    return state.lift(times, values, valid)


def _total(state: State, events: list[tuple[int, float | None]]) -> tuple[object, ...]:
    """The state of all events together, in canonical form."""
    if not events:
        return state.zero()
    folded = state.pack(state.fold(_lift(state, events), np.array([0])))
    return tuple(part[0].item() for part in folded)


def _merged(state: State, a: tuple[object, ...], b: tuple[object, ...]) -> tuple[object, ...]:
    kinds = [np.float64 if kind == "<f8" else np.int64 for _, kind in state.parts]
    columns = [tuple(np.array([part], kind) for part, kind in zip(side, kinds, strict=True)) for side in (a, b)]
    return tuple(part[0].item() for part in state.pack(merge(state, *columns)))


@each_state
@given(EVENTS)
def test_zero_is_the_identity_of_merge(state: State, events: list[tuple[int, float | None]]) -> None:
    total = _total(state, events)
    zero = state.zero()
    assert _merged(state, total, zero) == total == _merged(state, zero, total)


@each_state
@given(EVENTS, EVENTS)
def test_merge_is_commutative_bit_for_bit(
    state: State, a: list[tuple[int, float | None]], b: list[tuple[int, float | None]]
) -> None:
    assert _merged(state, _total(state, a), _total(state, b)) == _merged(state, _total(state, b), _total(state, a))


@each_state
@given(EVENTS, EVENTS, EVENTS)
def test_merge_is_associative_and_equals_the_fold_of_everything(
    state: State,
    a: list[tuple[int, float | None]],
    b: list[tuple[int, float | None]],
    c: list[tuple[int, float | None]],
) -> None:
    ta, tb, tc = (_total(state, events) for events in (a, b, c))
    left = _merged(state, _merged(state, ta, tb), tc)
    assert left == _merged(state, ta, _merged(state, tb, tc))
    assert left == _total(state, [*a, *b, *c])


@each_state
@given(st.lists(st.tuples(st.integers(0, 50), st.none() | VALUES), min_size=1, max_size=30), st.data())
def test_between_equals_the_fold_of_the_same_rows(
    state: State, events: list[tuple[int, float | None]], data: st.DataObject
) -> None:
    instants = sorted({t for t, _ in events})
    rows = [[event for event in events if event[0] == t] for t in instants]
    totals = [_total(state, row) for row in rows]
    kinds = [np.float64 if kind == "<f8" else np.int64 for _, kind in state.parts]
    columns = tuple(np.array(part, kind) for part, kind in zip(zip(*totals, strict=True), kinds, strict=True))
    low = data.draw(st.integers(0, len(rows)))
    high = data.draw(st.integers(0, len(rows)))
    found = state.between(columns, np.array([low]), np.array([high]))
    inside = [event for row in rows[low:high] for event in row]
    assert tuple(part[0].item() for part in state.pack(found)) == _total(state, inside)


@given(st.lists(st.floats(min_value=-1e15, max_value=1e15), min_size=1, max_size=40))
def test_a_sum_is_within_one_part_in_ten_to_the_fifteen_of_the_exact_one(values: list[float]) -> None:
    state = WideSum()
    total = state.as_float(state.fold(_lift(state, [(0, v) for v in values]), np.array([0])))[0]
    exact = math.fsum(values)
    # Below 2**-96 values are cut off, a part of 40 values' worth.
    assert total == pytest.approx(exact, rel=1e-15, abs=1e-27)


@given(st.lists(st.integers(-(2**62) + 1, 2**62 - 1), min_size=1, max_size=40))
def test_a_sum_of_integers_is_exact(values: list[int]) -> None:
    state = WideSum()
    lifted = state.lift(np.zeros(len(values), np.int64), np.array(values), np.ones(len(values), bool))
    assert state.as_ints(state.pack(state.fold(lifted, np.array([0]))))[0] == sum(values) << 96


@given(
    st.floats(-1e9, 1e9),
    st.lists(st.floats(-1, 1), min_size=2, max_size=30),
)
def test_variance_does_not_cancel_however_far_the_mean(centre: float, offsets: list[float]) -> None:
    values = [centre + offset for offset in offsets]
    states = [s.fold(_lift(s, [(0, v) for v in values]), np.array([0])) for _, s in states_of("variance", "f8")]
    exact = [fractions.Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    expected = float(sum((v - mean) ** 2 for v in exact) / len(exact))
    assert finish("variance", states, "f8")[0] == pytest.approx(expected, rel=1e-12, abs=1e-24)


@pytest.mark.parametrize(("op", "expected"), [("variance_sample", 1.0), ("stddev", math.sqrt(2 / 3)), ("mean", 2.0)])
def test_spread_and_mean_of_one_two_three(op: str, expected: float) -> None:
    states = [s.fold(_lift(s, [(0, 1.0), (0, 2.0), (0, 3.0)]), np.array([0])) for _, s in states_of(op, "f8")]
    assert finish(op, states, "f8")[0] == pytest.approx(expected)


def test_a_sample_variance_needs_two_values() -> None:
    states = [s.fold(_lift(s, [(0, 1.0)]), np.array([0])) for _, s in states_of("variance_sample", "f8")]
    assert np.isnan(finish("variance_sample", states, "f8")[0])


@given(st.floats(min_value=1e-3, max_value=1e9), st.integers(2, 50))
def test_equal_values_vary_by_exactly_nothing(value: float, count: int) -> None:
    states = [s.fold(_lift(s, [(0, value)] * count), np.array([0])) for _, s in states_of("stddev", "f8")]
    assert finish("stddev", states, "f8")[0] == 0


def test_every_state_of_fixed_size_that_an_aggregation_keeps_is_tried() -> None:
    declared = [declare("x", "1h") for samples in oracles.SAMPLES.values() for declare in samples]
    singles = [a for d in declared for _, member in d.members("f") for a in (member.over or (member,))]
    kept = {entry.state for a in singles for entry in kept_of(a, "f8") if entry.bag is None and not entry.of_times}
    assert kept == set(STATES.values())


@pytest.mark.parametrize("power", [2, 3, 4])
@given(st.lists(st.floats(-(2.0**40) + 1, 2.0**40 - 1), min_size=1, max_size=20))
def test_a_sum_of_powers_is_exact_down_to_its_cut_off(power: int, values: list[float]) -> None:
    state = WideSum(power=power)
    found = state.as_ints(state.pack(state.fold(_lift(state, [(0, v) for v in values]), np.array([0]))))[0]
    exact = sum(fractions.Fraction(v) ** power for v in values)
    units = 2 ** (32 * state.below)
    # Each value is cut into at most six floats, each of which loses less than a unit.
    assert abs(found - exact * units) <= 6 * len(values)


@given(st.floats(min_value=1e-3, max_value=1e9), st.integers(2, 50))
def test_equal_values_have_no_skewness_and_no_kurtosis(value: float, count: int) -> None:
    for op in ("skew", "kurtosis"):
        states = [s.fold(_lift(s, [(0, value)] * count), np.array([0])) for _, s in states_of(op, "f8")]
        assert np.isnan(finish(op, states, "f8")[0])
