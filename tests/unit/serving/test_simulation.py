"""The virtual clock gives what queueing theory gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trilane.serving.dispatch import Dispatcher
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Request, poisson, simulate


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_without_batching_the_mean_wait_is_that_of_a_queue_with_constant_service(load: float) -> None:
    """Pollaczek and Khinchine: W = rho / (2 mu (1 - rho)) + 1 / mu."""
    service = 1e-3
    requests = poisson(load / service, 60.0, seed=6)
    policy = Dispatcher[int](LatencyModel.of({1: service}), max_rows=1)
    outcome = simulate(requests, policy, lambda _: service)
    expected = load * service / (2 * (1 - load)) + service
    assert outcome.latencies.mean() == pytest.approx(expected, rel=0.05)
    assert outcome.busy == pytest.approx(len(requests) * service)


def test_a_late_bound_batch_grows_as_the_load_asks_for() -> None:
    """Mean-field batch size: lambda alpha / (1 - lambda beta), at loads where few batches are of one request."""
    alpha, beta, load = 1e-2, 1e-4, 0.9
    requests = poisson(load / beta, 15.0, seed=7)
    policy = Dispatcher[int](LatencyModel.of({rows: alpha + beta * rows for rows in (1, 64, 512)}), max_rows=4_096)
    outcome = simulate(requests, policy, lambda rows: alpha + beta * rows)
    settled = np.array(outcome.batches[20:])
    assert settled.mean() == pytest.approx(load / beta * alpha / (1 - load), rel=0.2)


def _inoue(rate: float, alpha: float, beta: float) -> float:
    """The bound of the mean latency if all that waits runs once the executor is free (Inoue, arXiv 1912.06322)."""
    load = rate * beta
    low = (alpha + beta) / (2 * (1 - load)) * (1 + 2 * rate * alpha + (1 - rate * alpha) / (1 + load))
    high = 1.5 * alpha / (1 - load) + beta / 2 * (load + 2) / (1 - load * load)
    return min(low, high)


@pytest.mark.parametrize("load", [0.02, 0.2, 0.5, 0.8])
def test_the_mean_latency_of_greedy_batches_is_just_below_its_closed_form_bound(load: float) -> None:
    alpha, beta = 1e-2, 1e-3
    rate = load / beta
    requests = poisson(rate, 30_000 / rate, seed=9)
    policy = _Greedy(LatencyModel(alpha=0.0, beta=0.0), max_rows=100_000)
    outcome = simulate(requests, policy, lambda rows: alpha + beta * rows)
    bound = _inoue(rate, alpha, beta)
    assert outcome.latencies.mean() <= 1.02 * bound
    assert outcome.latencies.mean() >= 0.85 * bound


class _Greedy(Dispatcher[int]):
    """Thinks that company saves nothing, and so never waits for it."""

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        """Learns nothing."""


def _best_mean_latency(rate: float, alpha: float, beta: float, most: int, states: int) -> float:
    """Of all policies, the least mean latency: policy iteration on the semi-Markov decision process.

    The state is how many wait at an instant at which the executor is free; it runs any number of them, or waits for the
    next request (0). The cost is how many are in the system over time, which is the latency by Little's law.
    """
    numbers, sizes = np.arange(states), np.arange(1, most + 1)
    lasts = alpha + beta * sizes
    logs = -rate * lasts[:, None] + numbers[None, :] * np.log(rate * lasts[:, None])
    came = np.exp(logs - np.array([math.lgamma(number + 1) for number in numbers]))  # in a batch of each size
    # What follows each action in each state; those that there are not enough requests for cost infinitely much.
    follows = np.zeros((most + 1, states, states))
    follows[0, numbers, np.minimum(numbers + 1, states - 1)] = 1.0
    costs, times = np.full((most + 1, states), np.inf), np.append(1 / rate, lasts)
    costs[0] = numbers / rate
    costs[0, -1] = np.inf
    for size in sizes:
        for number in range(size, states):
            follows[size, number, number - size :] = came[size - 1, : states - number + size]
            follows[size, number, -1] += max(1 - follows[size, number].sum(), 0.0)
        costs[size, size:] = numbers[size:] * lasts[size - 1] + rate * lasts[size - 1] ** 2 / 2
    chosen = np.minimum(numbers, most)
    for _ in range(100):
        chain, cost, time = follows[chosen, numbers], costs[chosen, numbers], times[chosen]
        system = np.block([[np.eye(states) - chain, time[:, None]], [np.eye(1, states), np.zeros((1, 1))]])
        solved = np.linalg.solve(system, np.append(cost, 0.0))
        value, gain = solved[:-1], solved[-1]
        found = costs - gain * times[:, None] + follows @ value
        better = np.where(found[chosen, numbers] <= found.min(axis=0) + 1e-9, chosen, found.argmin(axis=0))
        if (better == chosen).all():
            return float(gain / rate)
        chosen = better
    raise AssertionError("no policy is the best")


@pytest.mark.parametrize("load", [0.1, 0.3, 0.6, 0.85])
@pytest.mark.parametrize("ratio", [0.1, 1, 10, 100])
def test_the_mean_latency_is_within_a_few_per_cent_of_the_best_that_any_policy_can_have(
    load: float, ratio: float
) -> None:
    beta, most = 1e-2, 32
    alpha = ratio * beta
    rate = load * most / (alpha + beta * most)
    best = _best_mean_latency(rate, alpha, beta, most, states=220)
    requests = poisson(rate, 40_000 / rate, seed=10)
    known = LatencyModel.of({rows: alpha + beta * rows for rows in (1, 4, 16, 32)})
    outcome = simulate(requests, Dispatcher[int](known, max_rows=most), lambda rows: alpha + beta * rows)
    assert outcome.latencies.mean() >= 0.97 * best  # nobody beats the best but by luck
    assert outcome.latencies.mean() <= 1.03 * best


def test_what_is_not_answered_counts_as_infinitely_late() -> None:
    requests = [Request(0.0), Request(0.0, patience=1e-6)]
    outcome = simulate(requests, Dispatcher[int](LatencyModel.of({1: 1e-3}), max_rows=1), lambda _: 1e-3)
    assert outcome.answered == 0.5
    assert outcome.quantile(0.99) == math.inf
    assert outcome.latencies.min() == pytest.approx(1e-3)


def test_two_executors_answer_twice_as_much() -> None:
    requests = poisson(1_500, 5.0, seed=8)
    one, two = (
        simulate(requests, Dispatcher[int](LatencyModel.of({1: 1e-3}), max_rows=1), lambda _: 1e-3, executors=n)
        for n in (1, 2)
    )
    assert one.quantile(0.5) > 0.3
    assert two.quantile(0.99) < 0.02
