"""What seems to take too long is tried seldom, so that it costs little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.latency import LatencyModel
from trilane.serving.trials import Trials


def _takes(seconds: float) -> LatencyModel:
    return LatencyModel(alpha=seconds, beta=0.0)


def test_what_is_expected_before_anything_ran_is_believed_for_a_while() -> None:
    trials = Trials()
    assert not trials.due(7.0, _takes(0.05), 1, 1e-3)
    assert not trials.due(7.9, _takes(0.05), 1, 1e-3)
    assert trials.due(8.0, _takes(0.05), 1, 1e-3)


def test_one_is_due_when_nothing_ran_for_twenty_times_what_it_is_expected_to_take() -> None:
    trials = Trials()
    trials.began(1.0)
    assert not trials.due(2.9, _takes(0.1), 1, 1e-3)
    assert trials.due(3.0, _takes(0.1), 1, 1e-3)
    trials.began(3.0)
    assert not trials.due(4.9, _takes(0.1), 1, 1e-3)
    assert not trials.due(3.0, _takes(0.0), 1, 1e-3)  # none follows at once however quick it is
    assert trials.due(3.01, _takes(0.0), 1, 1e-3)


def test_there_is_one_at_a_time_and_a_rest_after_it_whatever_came_of_it() -> None:
    trials = Trials()
    trials.began(0.0)
    trials.began(10.0, tried=True)
    assert not trials.due(1e9, _takes(0.1), 1, 1e-3)
    trials.ended(0.4)
    assert not trials.due(17.9, _takes(0.1), 1, 1e-3)
    assert trials.due(18.0, _takes(0.1), 1, 1e-3)


@pytest.mark.parametrize(("took", "rest"), [(0.6, 10.0), (4.0, 10.0), (6.0, 12.0)])
def test_nobody_waits_a_minute_for_the_next_one_however_slow_the_last_was(took: float, rest: float) -> None:
    trials = Trials()
    trials.began(0.0, tried=True)
    trials.ended(took)
    assert not trials.due(rest - 0.1, _takes(0.1), 1, 1e-3)
    assert trials.due(rest, _takes(0.1), 1, 1e-3)


def test_one_is_let_in_to_be_tried_and_another_only_if_nothing_came_of_it() -> None:
    trials = Trials()
    trials.began(0.0)
    let_in = [trials.lets_in(now, _takes(0.1), 1e-3) for now in (1.5, 2.5, 2.6, 4.4, 4.6, 4.7)]
    assert let_in == [False, True, False, False, True, False]


def test_what_was_never_as_quick_is_tried_twenty_times_as_seldom_and_what_has_no_time_never() -> None:
    trials, latency = Trials(), _takes(0.01)
    latency.observe(1, 0.01)
    trials.began(0.0)
    assert trials.due(0.2, latency, 1, 0.011)
    assert not trials.due(3.9, latency, 1, 0.009)
    assert trials.due(4.01, latency, 1, 0.009)
    assert not trials.due(1e9, latency, 1, 0.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(1e-3, 5), st.floats(1e-3, 0.5)), min_size=1, max_size=200))
def test_trials_take_a_twentieth_of_the_time_and_slow_ones_a_half(came: list[tuple[float, float, float]]) -> None:
    trials, now, taken = Trials(), 0.0, list[tuple[float, float]]()
    for gap, takes, expected in came:
        now += gap
        if trials.due(now, _takes(expected), 1, 1e-3):
            trials.began(now, tried=True)
            trials.ended(takes)
            taken.append((now, takes))
            now += takes
    for first, (begin, _) in enumerate(taken):
        for last in range(first + 1, len(taken)):
            spent = sum(takes for _, takes in taken[first:last])
            share = 20 if max(takes for _, takes in taken[first:last]) <= 0.5 else 2
            assert spent <= (taken[last][0] - begin) / share * (1 + 1e-9)
    assert trials.due(now + 110.0, _takes(0.1), 1, 1e-3)
