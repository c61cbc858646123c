"""When the next request comes is judged by those before."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trilane.serving.arrivals import Arrivals


def _after(gaps: list[float]) -> tuple[Arrivals, float]:
    arrivals, now = Arrivals(), 0.0
    arrivals.seen(now)
    for gap in gaps:
        now += gap
        arrivals.seen(now)
    return arrivals, now


def test_nothing_is_expected_before_a_second_request_came() -> None:
    arrivals = Arrivals()
    assert arrivals.residual(0.0) == math.inf
    arrivals.seen(1.0)
    assert arrivals.residual(2.0) == math.inf
    assert arrivals.rate == 0.0


def test_traffic_without_memory_is_expected_after_its_mean_gap_however_long_it_is_silent() -> None:
    arrivals, now = _after(np.random.default_rng(3).exponential(0.01, 5_000).tolist())
    for silence in (0.0, 0.005, 0.01, 0.02):
        assert arrivals.residual(now + silence) == pytest.approx(0.01, rel=0.35)
    assert arrivals.rate == pytest.approx(100, rel=0.25)


def test_silence_after_a_burst_tells_of_a_long_one() -> None:
    arrivals, now = _after(([0.001] * 20 + [1.0]) * 40 + [0.001])
    assert arrivals.residual(now) < 0.06
    assert arrivals.residual(now + 0.1) == pytest.approx(0.9, rel=0.1)


def test_the_estimate_follows_the_traffic() -> None:
    arrivals, now = _after([0.1] * 500 + [0.001] * 2_000)
    assert arrivals.residual(now) == pytest.approx(0.001, rel=0.2)
    assert arrivals.rate == pytest.approx(1_000, rel=0.1)


def test_a_silence_longer_than_all_gaps_is_expected_to_last_as_long_again() -> None:
    arrivals, now = _after([0.01] * 100)
    assert arrivals.residual(now + 5) == pytest.approx(5, rel=0.1)


def test_rows_of_a_request_are_averaged_and_a_clock_that_steps_back_does_no_harm() -> None:
    arrivals = Arrivals(memory=10)
    for i in range(200):
        arrivals.seen(i * 0.01, rows=8)
    assert arrivals.rows == pytest.approx(8, rel=0.01)
    arrivals.seen(0.5)
    assert arrivals.residual(0.4) >= 0
