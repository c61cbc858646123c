"""Decisions keep their order and get the outcome that proved true."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane import ContractError
from trilane.feedback.outcome import join

keys = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]))


@given(st.lists(keys, max_size=12), st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.booleans() | st.none()))
def test_every_decision_stays_in_its_order_with_its_outcome(asked: list[str | None], told: dict[str, bool]) -> None:
    decisions = pa.table({"flight_id": pa.array(asked, pa.string()), "score": pa.array(range(len(asked)), pa.int64())})
    outcomes = pa.table({"flight_id": pa.array(told, pa.string()), "late": pa.array(told.values(), pa.bool_())})
    joined = join(decisions, outcomes, on="flight_id", outcome="late")
    assert joined.select(["flight_id", "score"]) == decisions
    assert joined["late"].to_pylist() == [told.get(key) if key is not None else None for key in asked]


def test_a_repeated_outcome_counts_once() -> None:
    decisions = pa.table({"id": ["x"]})
    outcomes = pa.table({"id": ["x", "x"], "late": [True, True]})
    assert join(decisions, outcomes, on="id", outcome="late").to_pylist() == [{"id": "x", "late": True}]


def test_outcomes_that_contradict_each_other_are_refused() -> None:
    outcomes = pa.table({"origin": ["JFK", "JFK"], "day": [1, 1], "late": [True, False]})
    with pytest.raises(ContractError, match=r"contradict each other, such as {'origin': 'JFK', 'day': 1}"):
        join(pa.table({"origin": ["JFK"], "day": [1]}), outcomes, on=["origin", "day"], outcome="late")


def test_an_outcome_that_became_known_later_does_not_count() -> None:
    decisions = pa.table({"id": ["x", "y"]})
    outcomes = pa.table({"id": ["x", "y"], "late": [1, 0], "known": [10, 20]})
    joined = join(decisions, outcomes, on="id", outcome="late", known_at="known", by=15)
    assert joined["late"].to_pylist() == [1, None]


@pytest.mark.parametrize(
    ("decisions", "outcomes", "message"),
    [
        ({"id": ["x"]}, {"key": ["x"], "late": [1]}, "outcomes: there is no column 'id'"),
        ({"key": ["x"]}, {"id": ["x"], "late": [1]}, "decisions: there is no column 'id'"),
        ({"id": ["x"], "late": [1]}, {"id": ["x"], "late": [1]}, "already have a column 'late'"),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    decisions: dict[str, list[object]], outcomes: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        join(pa.table(decisions), pa.table(outcomes), on="id", outcome="late")
