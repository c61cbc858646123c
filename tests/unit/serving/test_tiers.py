"""Whose turn it is among the tiers: strict order, floors, aging, and who is put out first."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.tiers import Job, Shares, Turn, Waiting


def _job(number: int, *, tier: int = 0, at: float = 0.0, deadline: float = math.inf, rows: int = 1) -> Job[int]:
    return Job(rows, at, deadline, number, tier)


def _waiting(*jobs: Job[int]) -> Waiting[int]:
    waiting = Waiting[int]()
    for job in jobs:
        waiting.add(job)
    return waiting


jobs = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1.0, 2.0, 3.0, math.inf]), st.integers(1, 9)), max_size=60
).map(lambda found: [_job(i, tier=t, deadline=d, rows=r) for i, (t, d, r) in enumerate(found)])


@given(jobs)
def test_within_a_tier_the_earliest_deadline_goes_first_and_then_who_came_first(found: list[Job[int]]) -> None:
    waiting = _waiting(*found)
    for tier in waiting.filled():
        taken = [waiting.take(tier) for _ in range(waiting.requests_of(tier))]
        assert taken == sorted([job for job in found if job.tier == tier], key=lambda job: (job.deadline, job.payload))
    assert (waiting.requests, waiting.rows) == (0, 0)


@given(jobs)
def test_who_is_put_out_has_the_latest_deadline_and_came_last(found: list[Job[int]]) -> None:
    waiting = _waiting(*found)
    for tier in waiting.filled():
        own = [job for job in found if job.tier == tier]
        assert waiting.put_out(tier) == max(own, key=lambda job: (job.deadline, job.payload))


@given(jobs, st.lists(st.booleans(), max_size=80))
def test_what_waits_is_counted(found: list[Job[int]], taken: list[bool]) -> None:
    waiting, left = _waiting(*found), list(found)
    for first in taken:
        tiers = waiting.filled()
        assert tiers == sorted({job.tier for job in left})
        if not tiers:
            break
        left.remove(waiting.take(tiers[0]) if first else waiting.put_out(tiers[-1]))
        assert waiting.requests == len(left)
        assert waiting.rows == sum(job.rows for job in left)
        for tier in range(4):
            assert waiting.rows_before(tier) == sum(job.rows for job in left if job.tier <= tier)
    assert sorted(job.payload for job in waiting.heads()) == sorted(waiting.first(t).payload for t in waiting.filled())


def _turns(shares: Shares, waiting: Waiting[int], now: float) -> list[Turn]:
    return list(shares.turns(waiting, now))


def test_without_a_policy_the_order_is_strict() -> None:
    waiting = _waiting(_job(1, tier=2), _job(2, tier=0), _job(3, tier=1))
    assert [turn.tier for turn in _turns(Shares(), waiting, 100.0)] == [0, 1, 2]


def test_a_tier_that_got_less_than_its_floor_goes_first_until_it_has_it() -> None:
    shares, waiting = Shares([0.0, 0.2]), _waiting(_job(1, tier=0), _job(2, tier=1))
    for i in range(1_000):
        shares.spend(i * 0.01, 0, 0.01)
    first = _turns(shares, waiting, 10.0)[0]
    assert first.tier == 1
    assert first.seconds == pytest.approx(0.1)
    shares.spend(10.0, 1, 0.11)
    assert _turns(shares, waiting, 10.0)[0].tier == 0


def test_a_floor_of_nobody_who_waits_costs_nothing() -> None:
    shares, waiting = Shares([0.0, 0.9]), _waiting(_job(1, tier=0), _job(2, tier=2))
    assert [turn.tier for turn in _turns(shares, waiting, 0.0)] == [0, 2]


def test_who_has_waited_too_long_goes_ahead_for_a_small_share_of_the_time() -> None:
    shares, waiting = Shares(agings=[math.inf, 1.0]), _waiting(_job(1, tier=0), _job(2, tier=1, at=5.0))
    assert _turns(shares, waiting, 5.5)[0] == Turn(0, math.inf)
    first = _turns(shares, waiting, 6.5)[0]
    assert (first.tier, first.aged) == (1, True)
    assert first.seconds == pytest.approx(0.025)
    shares.spend_aged(6.5, 0.03)
    assert _turns(shares, waiting, 6.5)[0] == Turn(0, math.inf)
