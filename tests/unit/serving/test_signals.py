"""What a replica tells of its last minute, on a clock that the tests move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.signals import Signals, told


class Used:
    """A processor whose use the test tells."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _signals(*, used: Used | None = None, queued: int = 0, now: float = 1_000.0) -> Signals:
    return Signals(now=now, cpu=used or Used(), queued=lambda: queued)


@given(
    latencies=st.lists(st.floats(2e-6, 500.0), min_size=1, max_size=300),
    q=st.sampled_from([("p50", 0.5), ("p95", 0.95), ("p99", 0.99)]),
)
def test_a_quantile_is_at_most_an_eighth_above_the_one_of_all_requests(
    latencies: list[float], q: tuple[str, float]
) -> None:
    signals = _signals()
    for seconds in latencies:
        signals.answered(1_001.0, seconds)
    exact = float(np.quantile(latencies, q[1], method="inverted_cdf"))
    found = getattr(told([signals.tally(1_002.0)]), q[0])
    assert exact <= found <= exact * 1.126


def test_what_is_older_than_a_minute_counts_no_more() -> None:
    signals = _signals()
    for second in range(200):
        signals.answered(1_000.0 + second, 1.0 if second < 100 else 0.001)
    found = told([signals.tally(1_200.0)])
    assert found.p99 < 0.0012
    assert found.rate == pytest.approx(1.0, abs=0.05)
    assert told([signals.tally(2_000.0)]).rate == 0.0


def test_a_process_that_just_began_tells_of_the_time_since() -> None:
    signals = _signals(now=1_003.0)
    for _ in range(50):
        signals.answered(1_004.0, 0.01)
    signals.worked(1_004.0, 0.25)
    found = told([signals.tally(1_004.0)])
    assert found.rate == pytest.approx(50.0)
    assert found.utilisation == pytest.approx(0.25)
    assert found.capacity == pytest.approx(200.0)


def test_the_processor_time_is_that_of_the_last_minute() -> None:
    used = Used()
    signals = _signals(used=used)
    for second in range(300):
        used.seconds += 0.9 if second < 200 else 0.5
        signals.answered(1_000.0 + second, 0.01)
    assert told([signals.tally(1_300.0)]).cpu == pytest.approx(0.5, abs=0.02)


def test_refused_requests_are_no_answers() -> None:
    signals = _signals()
    signals.answered(1_001.0, 0.0, refused=True)
    found = told([signals.tally(1_010.0)])
    assert found.refused == pytest.approx(0.1)
    assert (found.rate, found.p99) == (0.0, 0.0)


def test_several_processes_are_told_together_and_utilisation_is_that_of_one() -> None:
    busy, idle = _signals(queued=7), _signals()
    for _ in range(99):
        busy.answered(1_001.0, 0.1)
    busy.worked(1_001.0, 10.0)
    busy.in_flight = 3
    idle.answered(1_001.0, 0.001)
    found = told([busy.tally(1_010.0), idle.tally(1_010.0)])
    assert found.replicas == 2
    assert found.rate == pytest.approx(10.0)
    assert found.utilisation == pytest.approx(0.5)
    assert (found.in_flight, found.queued) == (3, 7)
    assert found.p50 == pytest.approx(0.1, rel=0.13)


def test_no_process_and_no_request_are_nothing() -> None:
    assert told([]).replicas == 0
    found = told([_signals().tally(1_000.0)])
    assert (found.rate, found.p50, found.capacity) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-12, 1e9])
def test_a_duration_beyond_the_buckets_is_in_the_last_of_them(seconds: float) -> None:
    signals = _signals()
    signals.answered(1_001.0, seconds)
    assert 0 < told([signals.tally(1_002.0)]).p50 <= 1024
