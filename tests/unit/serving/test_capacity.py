"""How traffic would fare is what queueing theory says, and the fewest replicas are the fewest."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import UnavailableError
from trilane.serving.capacity import Costs, replicas_for, run_replica, told
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Request
from trilane.serving.traffic import drawn, mixed


def _costs(alpha: float, beta: float, overhead: float = 0.0) -> Costs:
    known = {1 << power: alpha + beta * (1 << power) for power in range(11)}
    return Costs(LatencyModel.of(known, upper=known), overhead)


def test_a_forecast_says_what_one_replica_did() -> None:
    requests = drawn("poisson", 500, 20.0, seed=1, patience=0.1)
    costs = _costs(1e-3, 1e-5)
    found = told(requests, run_replica(requests, costs))
    assert found.requests == len(requests)
    assert found.rate == pytest.approx(500, rel=0.05)
    assert found.answered == 1.0
    assert found.goodput == pytest.approx(found.rate)
    assert 1e-3 < found.quantiles["p50"] <= found.quantiles["p99"] <= found.quantiles["p999"] < 0.1
    assert 0.3 < found.utilisation < 0.6
    assert found.batch_rows["mean"] >= 1.0


def test_what_a_request_costs_beside_its_batch_counts_by_requests_not_by_rows() -> None:
    requests = drawn("poisson", 100, 20.0, seed=1, rows=10)
    found = told(requests, run_replica(requests, _costs(1e-6, 1e-9, overhead=1e-3)))
    assert found.utilisation == pytest.approx(0.1, rel=0.1)
    assert _costs(1e-6, 1e-9, overhead=1e-3).most(10, 1_024) == pytest.approx(1_000, rel=0.05)


def test_tiers_are_told_apart_and_the_highest_fares_best_when_there_is_too_much() -> None:
    requests = mixed(drawn("poisson", 2_000, 5.0, seed=1, patience=0.05), [0.2, 0.8], seed=1)
    found = told(requests, run_replica(requests, _costs(1e-3, 1e-3), max_rows=64))
    assert found.answered < 0.7
    assert found.tiers[0]["answered"] > 0.8
    assert found.tiers[1]["answered"] < 0.6


def test_no_request_is_no_reason_to_fail() -> None:
    found = told([], run_replica([], _costs(1e-3, 1e-5)))
    assert (found.requests, found.answered, found.utilisation) == (0, 1.0, 0.0)
    one = [Request(0.0)]
    assert told(one, run_replica(one, _costs(1e-3, 1e-5))).answered == 1.0


def test_replicas_that_are_found_keep_the_promise_and_one_fewer_does_not() -> None:
    costs = _costs(2e-3, 5e-5)

    def good(replicas: int) -> bool:
        requests = drawn("poisson", 200_000 / replicas, 20_000 * replicas / 200_000, seed=2, patience=1.0)
        return told(requests, run_replica(requests, costs, seed=2)).quantiles["p99"] <= 0.05

    tried: list[int] = []
    found = replicas_for(good, least=math.ceil(200_000 / costs.most(1.0, 1_024)), tried=lambda n, _: tried.append(n))
    assert good(found)
    assert not good(found - 1)
    # Mean-field: latency 3/2 alpha / (1 - lambda beta) on average, so 50 ms are kept up to a load of about 9/10.
    assert 10 < found < 20
    assert len(tried) < 12


@given(st.integers(1, 5_000), st.integers(1, 5_000))
def test_the_search_finds_the_smallest_number(needed: int, least: int) -> None:
    assert replicas_for(lambda number: number >= needed, least=least) == max(needed, least)


def test_a_promise_that_cannot_be_kept_is_told() -> None:
    with pytest.raises(UnavailableError, match="not even"):
        replicas_for(lambda _: False, most=1_000)
