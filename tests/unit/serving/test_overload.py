"""Overload on a virtual clock: the server's own admission and dispatch, ten times what it can answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trilane as tl
from trilane.features.cascade import Bools
from trilane.serving.admission import PUT_OUT, Admission
from trilane.serving.dispatch import Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.policy import TIERS, Limit
from trilane.serving.simulation import Door, Outcome, Request, simulate
from trilane.serving.tiers import Job

ALPHA, BETA, PATIENCE = 4e-3, 1e-3, 0.1
CRITICAL, STANDARD, SHEDDABLE, BATCH = range(4)
MIX = (0.04, 0.26, 0.4, 0.3)


def _traffic(
    rate: float, seconds: float, *, mix: Sequence[float] = MIX, seed: int = 1, start: float = 0.0
) -> list[Request]:
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.2) + 64))
    times = times[times < seconds] + start
    tiers = random.choice(len(TIERS), len(times), p=mix)
    return [Request(at, 1, PATIENCE, tier) for at, tier in zip(times.tolist(), tiers.tolist(), strict=True)]


@dataclass
class _Run:
    """What became of the requests."""

    requests: list[Request]
    outcome: Outcome
    admission: Admission

    def answered(self, *tiers: int, since: float = 0.0, until: float = np.inf) -> float:
        """The part of some tiers' requests that was answered in time."""
        return float(np.isfinite(self.outcome.latencies[self.of(*tiers, since=since, until=until)]).mean())

    def rate(self, *tiers: int, since: float = 0.0, until: float = np.inf) -> float:
        """Answers in time a second."""
        last = min(until, self.requests[-1].at)
        return float(
            np.isfinite(self.outcome.latencies[self.of(*tiers, since=since, until=until)]).sum() / (last - since)
        )

    def of(self, *tiers: int, since: float = 0.0, until: float = np.inf) -> Bools:
        """Which requests are of these tiers, or any, and came then."""
        found = [since <= one.at < until and (not tiers or one.tier in tiers) for one in self.requests]
        return np.array(found, bool)


def _run(
    requests: list[Request],
    policy: tl.Policy | None,
    *,
    cost: Callable[[int], float] | None = None,
    executors: int = 1,
    max_rows: int = 128,
) -> _Run:
    admission = Admission(policy, executors=executors)
    model = LatencyModel.of({rows: ALPHA + BETA * rows for rows in (1, 8, 64)})
    dispatcher = Dispatcher[int](model, max_rows=max_rows, shares=admission.shares)
    door, random = Door(admission, dispatcher, executors=executors), np.random.default_rng(5)

    def noisy(rows: int) -> float:
        return (ALPHA + BETA * rows) * float(random.lognormal(0, 0.05))

    return _Run(requests, simulate(requests, dispatcher, cost or noisy, executors=executors, door=door), admission)


# What one executor answers in time if it is asked for just that: found by raising the load, see the first test.
CAPACITY = 870.0


def test_the_capacity_is_what_is_answered_when_more_and_more_is_asked() -> None:
    best = max(_run(_traffic(rate, 8.0), tl.Policy(limit=None)).rate() for rate in (850, 900, 1_000, 1_100))
    assert best == pytest.approx(CAPACITY, rel=0.03)


@pytest.mark.parametrize("limit", [None, "learned"])
@pytest.mark.parametrize("executors", [1, 2])
def test_ten_times_the_capacity_costs_little_of_it_and_the_critical_tier_nothing(limit: Limit, executors: int) -> None:
    run = _run(_traffic(10 * executors * CAPACITY, 6.0), tl.Policy(limit=limit), executors=executors)
    assert run.rate(since=1.0) >= 0.9 * executors * CAPACITY
    assert run.answered(CRITICAL) >= 0.99
    assert run.answered(STANDARD) > run.answered(SHEDDABLE)
    assert run.answered(STANDARD) > run.answered(BATCH)


@pytest.mark.parametrize("over", [1.15, 1.6])
@pytest.mark.parametrize("ratio", [23, 100])
def test_a_little_more_than_the_capacity_of_a_model_that_gains_much_by_batches_costs_little_of_it(
    ratio: float, over: float
) -> None:
    """A hundred requests share a batch, and are late together when one takes longer than usual."""
    beta, patience = ALPHA / ratio, 15 * ALPHA
    rows = (patience / 2 - ALPHA) / beta  # of a batch that leaves time to wait for the one before
    capacity = rows / (patience / 2)
    admission, random = Admission(tl.Policy()), np.random.default_rng(5)
    dispatcher = Dispatcher[int](LatencyModel.of({rows: ALPHA + beta * rows for rows in (1, 8, 64, 512)}))
    requests = [Request(one.at, 1, patience) for one in _traffic(over * capacity, 3.0)]

    def noisy(rows: int) -> float:
        return (ALPHA + beta * rows) * float(random.lognormal(0, 0.15))

    outcome = simulate(requests, dispatcher, noisy, door=Door(admission, dispatcher))
    late = np.array([one.at >= 1.0 for one in requests])
    assert np.isfinite(outcome.latencies[late]).sum() / 2.0 >= 0.85 * capacity


def test_without_admission_the_same_load_costs_much_of_the_capacity() -> None:
    requests = _traffic(10 * CAPACITY, 6.0)
    dispatcher = Dispatcher[int](LatencyModel.of({rows: ALPHA + BETA * rows for rows in (1, 8, 64)}), max_rows=128)
    outcome = simulate(requests, dispatcher, lambda rows: ALPHA + BETA * rows)
    assert np.isfinite(outcome.latencies).sum() / 6.0 < 0.9 * CAPACITY


def test_what_is_let_in_is_answered_in_time() -> None:
    run = _run(_traffic(10 * CAPACITY, 6.0), tl.Policy(limit=None))
    let_in, answered = sum(run.admission.admitted), int(np.isfinite(run.outcome.latencies).sum())
    assert answered >= 0.9 * let_in


@pytest.mark.parametrize("rate", [2, 10])
def test_what_is_refused_or_late_was_never_worked_on(rate: float) -> None:
    policy = tl.Policy(tiers=[tl.Tier("standard", floor=0.2)], limit=100)
    run = _run(_traffic(rate * CAPACITY, 3.0), policy, cost=lambda rows: ALPHA + BETA * rows)
    answered = set(np.flatnonzero(np.isfinite(run.outcome.latencies)).tolist())
    assert run.outcome.worked == answered
    assert sum(run.outcome.batches) == len(answered)
    assert sum(run.admission.refused.values()) > 0


def test_floors_are_kept_under_overload_within_a_tolerance() -> None:
    mix = (0.7, 0.1, 0.1, 0.1)
    policy = tl.Policy(tiers=[tl.Tier("standard", floor=0.3), tl.Tier("batch", floor=0.1)])
    run = _run(_traffic(10 * CAPACITY, 8.0, mix=mix), policy)
    whole = run.rate(since=2.0)
    assert run.rate(STANDARD, since=2.0) / whole >= 0.27
    assert run.rate(BATCH, since=2.0) / whole >= 0.08
    assert run.rate(CRITICAL, since=2.0) / whole >= 0.35
    assert whole >= 0.9 * CAPACITY
    strict = _run(_traffic(10 * CAPACITY, 8.0, mix=mix), tl.Policy())
    assert strict.rate(CRITICAL, since=2.0) / strict.rate(since=2.0) > 0.9


def test_aging_serves_those_who_would_starve_and_leaves_the_others_nearly_all() -> None:
    critical = [Request(one.at, 1, PATIENCE, CRITICAL) for one in _traffic(3 * CAPACITY, 8.0)]
    patient = [Request(0.1 * i, 1, 60.0, BATCH) for i in range(80)]
    load = sorted(critical + patient, key=lambda one: one.at)
    # Batches of eight are always full of what is critical.
    starving = _run(load, tl.Policy(limit=None), max_rows=8)
    served = _run(load, tl.Policy(tiers=[tl.Tier("batch", aging="300ms")], limit=None), max_rows=8)
    waited = starving.outcome.latencies[starving.of(BATCH, since=1.0, until=5.0)]
    assert np.median(waited) > 2
    assert served.answered(BATCH, until=6.0) == 1.0
    assert np.median(served.outcome.latencies[served.of(BATCH, since=1.0, until=5.0)]) < 1
    assert served.rate(CRITICAL) >= 0.9 * starving.rate(CRITICAL)


def test_after_a_burst_all_is_answered_again_within_a_second() -> None:
    burst, after = _traffic(10 * CAPACITY, 3.0), _traffic(0.6 * CAPACITY, 4.0, seed=2, start=3.0)
    for policy in (tl.Policy(limit=None), tl.Policy(), tl.Policy(tiers=[tl.Tier("batch", floor=0.1)])):
        run = _run(burst + after, policy)
        assert run.answered(since=3.5) == 1.0


def test_the_learned_limit_falls_when_the_executor_gets_slower_and_recovers() -> None:
    slow = {"factor": 1.0}
    random = np.random.default_rng(5)

    def cost(rows: int) -> float:
        return slow["factor"] * (ALPHA + BETA * rows) * float(random.lognormal(0, 0.05))

    admission = Admission(tl.Policy())
    dispatcher = Dispatcher[int](LatencyModel.of({rows: ALPHA + BETA * rows for rows in (1, 8, 64)}), max_rows=128)
    door, found = Door(admission, dispatcher), list[int]()
    # No deadlines: the limit alone stands against the queue.
    for factor in (1.0, 4.0, 1.0):
        slow["factor"] = factor
        requests = [Request(one.at) for one in _traffic(3 * CAPACITY, 6.0)]
        outcome = simulate(requests, dispatcher, cost, door=door)
        found.append(admission.limit)
        assert np.isfinite(outcome.latencies).sum() / 6.0 >= 0.8 * CAPACITY / factor
        assert np.quantile(outcome.latencies[np.isfinite(outcome.latencies)], 0.99) <= 0.5 * factor
    assert found[0] < 400
    assert found[2] == pytest.approx(found[0], rel=0.5)


tiers = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(tiers)
@settings(max_examples=50)
def test_nobody_is_put_out_for_one_of_its_own_tier_or_a_lower(found: list[int]) -> None:
    admission = Admission(tl.Policy(limit=8))
    dispatcher = Dispatcher[int](LatencyModel.of({1: 1.0}), max_rows=1)
    door = Door(admission, dispatcher)
    for number, tier in enumerate(found):
        before = admission.in_flight.copy()
        out = sum(count for (reason, _), count in admission.refused.items() if reason == PUT_OUT)
        job = Job(1, float(number), 1e9, number, tier)
        if door.lets_in(job, ""):
            dispatcher.add(job, float(number))
        put_out = sum(count for (reason, _), count in admission.refused.items() if reason == PUT_OUT) - out
        if put_out:
            lowest = max(other for other in range(4) if before[other])
            assert lowest > tier
            assert admission.in_flight[lowest] == before[lowest] - 1
    assert [tier for tier in range(4) for _ in range(admission.in_flight[tier])] == sorted(found)[:8]


@pytest.mark.parametrize("ladder", [False, True])
@pytest.mark.parametrize("factor", [8.0, 60.0])
def test_after_a_time_in_which_nothing_could_be_in_time_all_is_answered_again(factor: float, ladder: bool) -> None:
    """Nobody is let in any more, so nothing but a trial now and then can tell that the slow time is over."""
    admission, random = Admission(tl.Policy()), np.random.default_rng(5)
    model = LatencyModel.of({rows: ALPHA + BETA * rows for rows in (1, 8, 64)})
    dispatcher = Dispatcher[int](model, max_rows=128, shares=admission.shares)
    door, found = Door(admission, dispatcher, ladder=ladder), []
    for times, start in ((factor, 0.0), (1.0, 4.0), (1.0, 7.0)):

        def cost(rows: int, times: float = times) -> float:
            return (ALPHA + BETA * rows) * times * float(random.lognormal(0, 0.3))

        traffic = _traffic(0.2 * CAPACITY, 4.0 if not start else 3.0, start=start)
        requests = [Request(one.at, 1, PATIENCE, STANDARD) for one in traffic]
        found.append(np.isfinite(simulate(requests, dispatcher, cost, door=door).latencies).mean())
    assert found[0] < 0.5
    assert found[2] == 1.0
