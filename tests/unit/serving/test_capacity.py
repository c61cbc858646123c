"""How traffic would fare is what queueing theory says, and the fewest replicas are the fewest."""

from __future__ import annotations

import math
from collections import Counter
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.errors import UnavailableError
from trilane.serving.capacity import Burst, Costs, Terms, replicas_for, run_replica, told
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Request
from trilane.serving.traffic import asked_by, drawn, mixed, with_burst


def _costs(alpha: float, beta: float, overhead: float = 0.0) -> Costs:
    known = {1 << power: alpha + beta * (1 << power) for power in range(11)}
    return Costs(LatencyModel.of(known, upper=known), overhead)


def test_a_forecast_says_what_one_replica_did() -> None:
    requests = drawn("poisson", 500, 20.0, seed=1, patience=0.1)
    costs = _costs(1e-3, 1e-5)
    found = told(run_replica(requests, costs))
    assert found.requests == len(requests)
    assert found.rate == pytest.approx(500, rel=0.05)
    assert found.answered == 1.0
    assert found.goodput == pytest.approx(found.rate)
    assert 1e-3 < found.quantiles["p50"] <= found.quantiles["p99"] <= found.quantiles["p999"] < 0.1
    assert 0.3 < found.utilisation < 0.6
    assert found.batch_rows["mean"] >= 1.0


def test_what_a_request_costs_beside_its_batch_counts_by_requests_not_by_rows() -> None:
    requests = drawn("poisson", 100, 20.0, seed=1, rows=10)
    found = told(run_replica(requests, _costs(1e-6, 1e-9, overhead=1e-3)))
    assert found.utilisation == pytest.approx(0.1, rel=0.1)
    assert _costs(1e-6, 1e-9, overhead=1e-3).most(10, 1_024) == pytest.approx(1_000, rel=0.05)


def test_tiers_are_told_apart_and_the_highest_fares_best_when_there_is_too_much() -> None:
    requests = mixed(drawn("poisson", 2_000, 5.0, seed=1, patience=0.05), [0.2, 0.8], seed=1)
    found = told(run_replica(requests, _costs(1e-3, 1e-3), max_rows=64))
    assert found.answered < 0.7
    assert found.tiers["critical"].answered > 0.8
    assert found.tiers["standard"].answered < 0.6


def test_what_comes_in_no_time_is_answered_at_the_rate_at_which_it_is_worked_on() -> None:
    costs = _costs(10e-3, 1e-5)
    for requests in ([Request(0.0)] * 20, drawn("poisson", 1e12, 2e-11, seed=1)):
        found = told(run_replica(requests, costs))
        assert found.answered == 1.0
        assert len(requests) / 25e-3 < found.goodput <= len(requests) / 10e-3  # in a batch or two
        assert found.utilisation > 0.9
    at_once = told(run_replica([Request(0.0)] * 20, costs))
    assert at_once.rate == at_once.goodput


def test_who_waits_in_vain_for_a_model_apart_hears_of_it_in_time_so_that_fewer_are_let_in_for_nothing() -> None:
    requests = drawn("poisson", 2_000, 10.0, seed=1, patience=0.1)
    costs = _costs(10e-3, 1e-3)
    apart, loop = (told(run_replica(requests, costs, Terms(apart=apart))) for apart in (True, False))
    assert apart.goodput > 0.98 * loop.goodput
    missed = [tier.admitted - tier.in_time for one in (apart, loop) for tier in one.tiers.values()]
    assert missed[0] < 0.1 * missed[1]


def test_no_request_is_no_reason_to_fail() -> None:
    found = told(run_replica([], _costs(1e-3, 1e-5)))
    assert (found.requests, found.answered, found.utilisation) == (0, 1.0, 0.0)
    one = [Request(0.0)]
    assert told(run_replica(one, _costs(1e-3, 1e-5))).answered == 1.0


def test_replicas_that_are_found_keep_the_promise_and_one_fewer_does_not() -> None:
    costs = _costs(2e-3, 5e-5)

    def good(replicas: int) -> bool:
        requests = drawn("poisson", 200_000 / replicas, 20_000 * replicas / 200_000, seed=2, patience=1.0)
        return told(run_replica(requests, costs, seed=2)).quantiles["p99"] <= 0.05

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


def _everybody(rate: float, *, rows: int = 1, seconds: float = 4.0) -> list[Request]:
    return mixed(drawn("poisson", rate, seconds, seed=1, rows=rows, patience=0.1), [0.05, 0.25, 0.4, 0.3], seed=1)


def test_a_replica_goes_by_the_declared_policy_and_tells_what_its_admission_counted() -> None:
    policy = tl.Policy(tiers=[tl.Tier("batch", floor=0.1, aging="50ms")], limit=64)
    run = run_replica(_everybody(8_000), _costs(4e-3, 1e-3), Terms(policy), max_rows=128)
    found = told(run)
    facts = cast("dict[str, dict[str, object]]", run.admission.facts(0.0)["tiers"])
    assert found.limit == 64
    assert sum(tier.requests for tier in found.tiers.values()) == found.requests
    for name, tier in found.tiers.items():
        assert (tier.admitted, tier.refused) == (facts[name]["admitted"], facts[name]["refused"])
        let_in = tier.requests - sum(tier.refused.values())
        assert tier.in_time <= let_in
        assert tier.answered == pytest.approx(tier.in_time / tier.requests)
    refused = Counter[str]()
    for tier in found.tiers.values():
        refused.update(tier.refused)
    assert refused == Counter(run.door.refused.values())
    assert {"deadline", "put_out"} <= set(refused)
    assert found.tiers["critical"].answered > 0.98
    assert found.tiers["critical"].quantiles["p50"] < 0.1


def test_a_floor_of_the_policy_is_kept_in_a_forecast() -> None:
    requests, costs = _everybody(8_000), _costs(4e-3, 1e-3)
    strict = told(run_replica(requests, costs, max_rows=128)).tiers["batch"].in_time
    floor = tl.Policy(tiers=[tl.Tier("batch", floor=0.3)], limit=None)
    found = told(run_replica(requests, costs, Terms(floor), max_rows=128))
    assert found.tiers["batch"].in_time > max(2 * strict, 0.2 * found.goodput * 4)


def test_the_learned_limit_is_learnt_on_the_virtual_clock() -> None:
    requests = drawn("poisson", 4_000, 4.0, seed=1)  # no deadline: the limit alone stands against the queue
    found = told(run_replica(requests, _costs(4e-3, 1e-3), Terms(tl.Policy()), max_rows=128))
    assert found.limit is not None
    assert found.limit != 64
    assert found.tiers["critical"].refused["full"] > 0


def test_who_asks_for_more_than_its_quota_is_refused_by_rows_and_breaks_no_promise() -> None:
    requests = asked_by(drawn("poisson", 200, 10.0, seed=1, rows=5, patience=1.0), {"web": 1, "jobs": 1}, seed=1)
    assert sum(one.caller == "web" for one in requests) == pytest.approx(1_000, rel=0.15)
    policy = tl.Policy(callers=[tl.Caller("jobs", rate=100, burst=10)], limit=None)
    found = told(run_replica(requests, _costs(1e-4, 1e-5), Terms(policy)))
    refused = found.tiers["critical"].refused
    assert set(refused) == {"quota"}
    assert sum(one.caller == "jobs" for one in requests) - refused["quota"] == pytest.approx(100 * 10 / 5, rel=0.1)
    assert found.answered == 1.0
    assert math.isfinite(found.quantiles["p999"])
    half = told(run_replica(requests, _costs(1e-4, 1e-5), Terms(policy, processes=2)))
    assert half.tiers["critical"].refused["quota"] > refused["quota"]


def test_a_request_gets_the_tier_that_the_policy_allows_its_caller() -> None:
    requests = [Request(0.0, tier=0), Request(0.1, tier=0, caller="vip"), Request(0.2, tier=3)]
    policy = tl.Policy(callers=[tl.Caller("vip", up_to="critical")], limit=None)
    found = told(run_replica(requests, _costs(1e-3, 1e-5), Terms(policy, tier=1)))
    assert {name: tier.requests for name, tier in found.tiers.items()} == {"critical": 1, "standard": 1, "batch": 1}


def test_with_a_ladder_who_would_be_late_gets_a_worse_answer_in_time() -> None:
    requests, costs = _everybody(8_000), _costs(4e-3, 1e-3)
    found = told(run_replica(requests, costs, Terms(ladder=True), max_rows=128)).tiers
    without = told(run_replica(requests, costs, Terms(), max_rows=128)).tiers
    for name in found:
        assert "deadline" not in found[name].refused
        assert found[name].instead + found[name].in_time > 0.8 * found[name].requests
        assert without[name].instead == 0


def test_a_burst_is_told_from_the_rest_and_over_soon() -> None:
    requests, costs = drawn("poisson", 300, 6.0, seed=1, patience=0.1), _costs(4e-3, 1e-3)
    capacity = costs.most(1, 128, within=0.05)
    assert capacity == pytest.approx(32 / 36e-3)
    whole, begin = with_burst(requests, 10 * capacity, 3.0, seed=2)
    assert begin == pytest.approx(2.0, rel=0.01)
    assert len(whole) - len(requests) == pytest.approx(30 * capacity, rel=0.05)
    assert [one.at for one in whole] == sorted(one.at for one in whole)
    run = run_replica(whole, costs, max_rows=128)
    burst = Burst.of(run, rate=10 * capacity, begin=begin, seconds=3.0, capacity=capacity)
    assert burst.goodput > 0.75 * capacity  # in its first second it learns how late answers are
    assert burst.recovered < 1.0
    assert told(run) == told(run_replica(whole, costs, max_rows=128))
