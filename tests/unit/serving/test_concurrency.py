"""The learnt limit finds what a server can work on at once, on servers that are simulated."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.concurrency import ConcurrencyLimit


class _Slots:
    """A server that works on so many requests at once, `seconds` each; the others wait their turn."""

    def __init__(self, slots: int, seconds: float, *, seed: int = 1) -> None:
        self.slots, self.seconds, self._random = slots, seconds, random.Random(seed)
        self.now = 0.0

    def run(self, limit: ConcurrencyLimit, seconds: float, *, asked: float = math.inf) -> None:
        """All that is asked for is let in up to the limit, for so long."""
        end = self.now + seconds
        while self.now < end:
            in_flight = int(min(limit.limit, asked))
            latency = self.seconds * max(1.0, in_flight / self.slots) * self._random.uniform(0.9, 1.1)
            self.now += latency / in_flight
            limit.answered(self.now, latency, in_flight, self.seconds)


@pytest.mark.parametrize("slots", [10, 50, 400])
@pytest.mark.parametrize("start", [8, 1_000])
def test_it_settles_a_little_above_what_the_server_works_on(slots: int, start: int) -> None:
    limit, server = ConcurrencyLimit(start=start), _Slots(slots, 0.01)
    server.run(limit, 10.0)
    assert slots <= limit.limit <= slots * 1.4 + 8


def test_it_falls_when_the_server_loses_slots_and_recovers_when_they_are_back() -> None:
    limit, server = ConcurrencyLimit(), _Slots(100, 0.01)
    server.run(limit, 10.0)
    server.slots = 25
    server.run(limit, 4.0)
    assert limit.limit <= 45
    server.slots = 100
    server.run(limit, 4.0)
    assert limit.limit >= 100


def test_traffic_that_needs_less_does_not_raise_it() -> None:
    limit, server = ConcurrencyLimit(start=32), _Slots(1_000, 0.01)
    server.run(limit, 10.0, asked=10)
    assert limit.limit == 32


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 100), st.integers(0, 5_000), st.floats(0, 100)), max_size=200))
def test_whatever_is_told_it_stays_within_its_bounds(told: list[tuple[float, float, int, float]]) -> None:
    limit, now = ConcurrencyLimit(least=8, most=512), 0.0
    for gap, latency, in_flight, unloaded in told:
        now += gap
        limit.answered(now, latency, in_flight, unloaded)
        assert 8 <= limit.limit <= 512
