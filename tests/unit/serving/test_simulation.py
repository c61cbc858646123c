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
