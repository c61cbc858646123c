"""Drawn and recorded requests are as many, and come when, they are said to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.serving.simulation import Request
from trilane.serving.traffic import SHAPES, drawn, mixed, replayed, share_of, times


@pytest.mark.parametrize("shape", SHAPES)
def test_a_law_draws_its_mean_rate_in_order_and_alike_for_one_seed(shape: str) -> None:
    requests = drawn(shape, 1_000, 20.0, seed=3, rows=2, patience=0.1)
    assert len(requests) == pytest.approx(20_000, rel=0.03)  # 4 standard deviations of a Poisson number
    at = [request.at for request in requests]
    assert at == sorted(at)
    assert 0 <= at[0] < at[-1] < 20.0
    assert {(request.rows, request.patience) for request in requests} == {(2, 0.1)}
    assert requests == drawn(shape, 1_000, 20.0, seed=3, rows=2, patience=0.1)
    assert requests != drawn(shape, 1_000, 20.0, seed=4, rows=2, patience=0.1)


def test_bursts_are_bursts_and_a_day_has_its_noon() -> None:
    def by_tenth(shape: str) -> np.ndarray:
        return np.histogram([request.at for request in drawn(shape, 2_000, 30.0, seed=1)], 300, (0, 30.0))[0]

    assert by_tenth("poisson").std() < 0.1 * 200
    bursts = by_tenth("bursts")
    assert bursts.max() > 5 * np.median(bursts)
    day = by_tenth("diurnal")
    assert day[140:160].sum() > 3 * (day[:10].sum() + day[-10:].sum())


def test_a_trace_out_of_order_is_put_in_order_and_begins_at_its_first() -> None:
    requests = replayed([105.0, 100.0, 102.5], [3, 1, 2], patience=0.5)
    assert [(request.at, request.rows) for request in requests] == [(0.0, 1), (2.5, 2), (5.0, 3)]
    assert {request.patience for request in requests} == {0.5}


@pytest.mark.parametrize(
    ("at", "rows", "where"),
    [
        ([], None, "at"),
        ([1.0, math.nan], None, r"at\[1\]"),
        ([math.inf], None, r"at\[0\]"),
        ([1.0, 2.0], [1, 0], r"rows\[1\]"),
        ([1.0], [1.5], r"rows\[0\]"),
        ([1.0], [math.nan], r"rows\[0\]"),
    ],
)
def test_what_is_no_trace_is_refused_with_the_path(at: list[float], rows: list[int] | None, where: str) -> None:
    with pytest.raises(ContractError, match=where):
        replayed(at, rows)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.1, 5.0))
def test_traffic_is_multiplied_within_its_time(at: list[float], factor: float) -> None:
    requests = replayed(at)
    more = times(requests, factor, seed=0)
    assert [one.at for one in more] == sorted(one.at for one in more)
    assert abs(len(more) - factor * len(requests)) <= len(requests)
    assert all(0 <= one.at <= requests[-1].at for one in more)
    assert times(requests, 1.0, seed=0) == requests


def test_replicas_share_all_requests_by_lot() -> None:
    requests = drawn("poisson", 1_000, 20.0, seed=5)
    own = share_of(requests, 0.25, seed=1)
    assert len(own) == pytest.approx(5_000, rel=0.06)
    assert set(own) <= set(requests)
    assert share_of(requests, 1.0, seed=1) == requests


def test_tiers_are_mixed_by_their_parts() -> None:
    requests = mixed(drawn("poisson", 1_000, 20.0, seed=5), [1, 3], seed=2)
    assert sum(request.tier == 0 for request in requests) == pytest.approx(5_000, rel=0.06)
    assert {request.tier for request in mixed([Request(0.0)], [1.0], seed=0)} == {0}
    for wrong in ([], [0.0], [-1.0, 2.0], [math.nan]):
        with pytest.raises(ContractError, match="tiers"):
            mixed(requests, wrong, seed=0)
