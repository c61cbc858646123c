"""The laws of every state of variable size: identity, commutativity, associativity, windows, bytes, bounds, errors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from datasketches import hll_sketch, tgt_hll_type
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from tests.properties import oracle as oracles
from trilane.features import ragged
from trilane.features.bags import (
    Counted,
    Distinct,
    HopSums,
    Instants,
    Largest,
    Quantiles,
    Registers,
    floats_of,
    keys_of,
)
from trilane.features.hashing import sketch_bytes
from trilane.features.operation import finish, kept_of
from trilane.features.ragged import Bag, Ragged

# Bounds so small that the examples reach them.
BAGS: list[Bag] = [
    Instants(3, False, "f8"), Instants(3, True, "f8"), Largest(2, True, "f8"), Largest(2, False, "f8"), Distinct(4),
    Counted(3), Quantiles(2), Quantiles(5), Registers(4), HopSums(7, 9),
]  # fmt: skip
VALUES = st.sampled_from([-3.0, 0.0, 0.1, 2.0, 1e9]) | st.floats(-1e12, 1e12).map(lambda x: x + 0.0)
EVENTS = st.lists(st.tuples(st.integers(0, 50), st.none() | VALUES), max_size=12)
Event = tuple[int, float | None]

each_bag = pytest.mark.parametrize("bag", BAGS, ids=repr)


def _lift(bag: Bag, events: list[Event]) -> Ragged:
    times = np.array([t for t, _ in events], np.int64)
    values = np.array([0.0 if v is None else v for _, v in events])
    return ragged.lift(bag, times, values, np.array([v is not None for _, v in events], bool))


def _total(bag: Bag, events: list[Event]) -> Ragged:
    return ragged.fold(bag, _lift(bag, events), np.zeros(len(events), np.int64), 1)


def _merged(bag: Bag, *states: Ragged) -> Ragged:
    return ragged.fold(bag, ragged.join(list(states)), np.zeros(len(states), np.int64), 1)


def _bytes(bag: Bag, state: Ragged) -> tuple[bytes, bytes]:
    return ragged.encode(bag, state), np.diff(state.starts()).tobytes()


def test_every_bag_that_an_aggregation_keeps_is_tried() -> None:
    declared = [declare("x", "1h") for samples in oracles.SAMPLES.values() for declare in samples]
    kept = {type(e.bag) for d in declared for _, a in d.members("f") if not a.over for e in kept_of(a, "f8") if e.bag}
    assert kept == {type(bag) for bag in BAGS}


@each_bag
@given(EVENTS, EVENTS, EVENTS)
def test_merge_is_associative_and_commutative_with_an_identity(
    bag: Bag, a: list[Event], b: list[Event], c: list[Event]
) -> None:
    ta, tb, tc = (_total(bag, events) for events in (a, b, c))
    everything = _bytes(bag, _total(bag, [*a, *b, *c]))
    assert _bytes(bag, _merged(bag, _merged(bag, ta, tb), tc)) == everything
    assert _bytes(bag, _merged(bag, tc, _merged(bag, tb, ta))) == everything
    assert _bytes(bag, _merged(bag, ta, ragged.empty(bag, 1))) == _bytes(bag, ta)


@each_bag
@given(EVENTS)
def test_a_state_survives_its_bytes_and_keeps_its_bound(bag: Bag, events: list[Event]) -> None:
    total = _total(bag, events)
    again = ragged.decode(bag, ragged.encode(bag, total), np.diff(total.starts()))
    assert _bytes(bag, again) == _bytes(bag, total)
    assert len(total.of) <= bag.limit


@each_bag
@given(st.lists(st.tuples(st.integers(0, 50), VALUES), min_size=1, max_size=120), st.data())
def test_windows_equal_the_fold_of_the_same_rows(
    bag: Bag, events: list[tuple[int, float]], data: st.DataObject
) -> None:
    rows = _lift(bag, [*events])
    bounds = st.integers(0, len(events))
    asks = data.draw(st.lists(st.tuples(bounds, bounds), min_size=1, max_size=8)) * 20  # enough to cut into blocks
    low, high = np.array([a for a, _ in asks]), np.array([b for _, b in asks])
    found = ragged.between(bag, rows, low, high)
    for i, (first, stop) in enumerate(asks[:8]):
        assert _bytes(bag, found.slice(i, i + 1)) == _bytes(bag, _total(bag, [*events[first:stop]]))


@given(st.lists(st.floats(allow_nan=False), min_size=2))
def test_keys_order_as_their_floats_and_turn_back(values: list[float]) -> None:
    x = np.array(values) + 0.0
    keys = keys_of(x)
    np.testing.assert_array_equal(floats_of(keys), x)
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.argsort(x, kind="stable"))


MANY = 100_000


def _drawn(name: str) -> npt.NDArray[np.float64]:
    draw = np.random.default_rng(7)
    samples = {
        "uniform": draw.random(MANY),
        "normal": draw.normal(size=MANY),
        "narrow": 1e9 + draw.random(MANY),
        "lognormal": draw.lognormal(0, 2, MANY),
        "exponential": draw.exponential(size=MANY),
        "pareto": draw.pareto(1.1, MANY) + 1,
        "mixture": np.where(draw.random(MANY) < 0.5, draw.normal(-5, 0.1, MANY), draw.lognormal(3, 1, MANY)),
        "integers": draw.integers(0, 5_000, MANY).astype(np.float64),
    }
    return samples[name]


SHAPES = ["uniform", "normal", "narrow", "lognormal", "exponential", "pareto", "mixture", "integers"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("error", [0.01, 0.05])
def test_quantiles_of_many_values_keep_their_rank_error(shape: str, error: float) -> None:
    values = _drawn(shape)
    qs = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
    declared = tl.quantiles("x", qs, window="1h", max_rank_error=error)
    ranked = np.sort(values)
    for (_, member), q in zip(declared.members("f"), qs, strict=True):
        [kept] = kept_of(member, "f8")
        assert kept.bag is not None
        state = ragged.lift(kept.bag, np.zeros(MANY, np.int64), values, np.ones(MANY, bool))
        total = ragged.fold(kept.bag, state, np.zeros(MANY, np.int64), 1)
        [found] = finish(member.op, dict(member.options), [total], "f8", np.zeros(1, np.int64))
        low, high = np.searchsorted(ranked, found, "left") / MANY, np.searchsorted(ranked, found, "right") / MANY
        assert low - error <= q <= high + error
        assert found == pytest.approx(ranked[max(int(np.ceil(q * MANY)), 1) - 1], rel=2 * error)
        assert len(total.of) <= kept.bag.limit


@pytest.mark.parametrize("error", [0.01, 0.02, 0.1])
def test_distinct_counts_of_many_values_keep_four_standard_errors(error: float) -> None:
    declared = tl.approx_distinct("x", window="1h", max_error=error)
    [kept] = kept_of(declared, "i8")
    assert kept.bag is not None
    for number in (10, 1_000, MANY):
        values = np.arange(number) * 7_919
        state = ragged.lift(kept.bag, np.zeros(number, np.int64), values, np.ones(number, bool))
        total = ragged.fold(kept.bag, state, np.zeros(number, np.int64), 1)
        [found] = finish(declared.op, dict(declared.options), [total], "i8", np.zeros(1, np.int64))
        assert abs(found - number) <= max(4 * error * number, 1)


@given(st.integers(0, 2**32))
def test_registers_are_those_of_the_library_and_its_bytes_turn_back(seed: int) -> None:
    bag, keys = Registers(6), np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, 2_000)
    none = np.zeros(len(keys), np.int64)
    total = ragged.fold(bag, ragged.lift(bag, none, keys, np.ones(len(keys), bool)), none, 1)
    mine = np.zeros(64, np.uint8)
    mine[total.parts[0]] = total.parts[1]
    theirs = hll_sketch(6, tgt_hll_type.HLL_8)
    for key in keys.tolist():
        theirs.update(key)
    assert theirs.serialize_updatable()[40:] == mine.tobytes()
    assert hll_sketch.deserialize(sketch_bytes(mine)).serialize_updatable()[40:] == mine.tobytes()


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=300), st.integers(1, 299))
def test_octaves_beyond_the_bound_count_as_zero_in_any_grouping(exponents: list[int], cut: int) -> None:
    bag = Quantiles(2)
    events: list[Event] = [(i, (-1.0) ** i * 1.5 * 2.0**e) for i, e in enumerate(exponents)]
    whole = _total(bag, events)
    assert _bytes(bag, _merged(bag, _total(bag, events[cut:]), _total(bag, events[:cut]))) == _bytes(bag, whole)
    assert len(whole.of) <= bag.limit
    assert int(whole.parts[2].sum()) == len(events)
