"""Requests run together when that is worth it, and none is lost or computed in vain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trilane.serving.arrivals import Arrivals
from trilane.serving.dispatch import Batch, Dispatcher, Job, Late, Wait
from trilane.serving.latency import LatencyModel
from trilane.serving.simulation import Outcome, Request, poisson, simulate
from trilane.serving.tiers import Shares
from trilane.serving.trials import TRIAL

ALPHA, BETA = 1e-2, 1e-3


def _cost(rows: int) -> float:
    return ALPHA + BETA * rows


def _model() -> LatencyModel:
    return LatencyModel.of({rows: _cost(rows) for rows in (1, 8, 64)})


def _dispatcher(*, gap: float | None = None, max_rows: int = 64, aging: float = math.inf) -> Dispatcher[int]:
    """One whose requests came every `gap` seconds, up to the instant 0."""
    arrivals = Arrivals()
    for i in range(300 if gap else 0):
        arrivals.seen((i - 300) * (gap or 0))
    return Dispatcher(_model(), arrivals=arrivals, max_rows=max_rows, shares=Shares(agings=[aging] * 4))


def _job(number: int, *, at: float = 0.0, deadline: float = math.inf, rows: int = 1, tier: int = 0) -> Job[int]:
    return Job(rows, at, deadline, number, tier)


def _numbers(decision: object) -> list[int]:
    assert isinstance(decision, Batch | Late)
    return [job.payload for job in decision.jobs]


def test_nothing_waits_means_nothing_to_do() -> None:
    assert _dispatcher().next(0.0) is None


def test_a_lone_request_of_slow_traffic_runs_at_once() -> None:
    dispatcher = _dispatcher(gap=1.0)
    dispatcher.add(_job(1), 0.0)
    decision = dispatcher.next(0.0)
    assert _numbers(decision) == [1]
    assert isinstance(decision, Batch)
    assert decision.reason == "idle"
    assert decision.expected == pytest.approx(_cost(1), rel=0.05)


def test_company_that_comes_soon_is_waited_for_but_not_longer_than_it_is_worth() -> None:
    dispatcher = _dispatcher(gap=1e-3)
    dispatcher.add(_job(1), 0.0)
    decision = dispatcher.next(0.0)
    assert isinstance(decision, Wait)
    assert 0 < decision.until <= 1.1 * ALPHA
    dispatcher.add(_job(2, at=0.001), 0.001)
    later = dispatcher.next(decision.until)
    assert _numbers(later) == [1, 2]
    assert isinstance(later, Batch)
    assert later.reason == "waited"


def test_nobody_waits_for_company_while_another_executor_is_free() -> None:
    dispatcher = _dispatcher(gap=1e-3)
    dispatcher.add(_job(1), 0.0)
    assert _numbers(dispatcher.next(0.0, others_busy=False)) == [1]


def test_waiting_ends_before_a_deadline_would_be_missed() -> None:
    dispatcher = _dispatcher(gap=1e-3)
    dispatcher.add(_job(1, deadline=0.0145), 0.0)
    decision = dispatcher.next(0.0)
    assert isinstance(decision, Wait)
    assert decision.until + _cost(1) < 0.0145


def test_a_backlog_never_waits_and_the_nearest_deadlines_go_first() -> None:
    dispatcher = _dispatcher(gap=1e-3, max_rows=4)
    for number in range(9):
        dispatcher.add(_job(number, deadline=10.0 - number), 0.0)
    assert _numbers(dispatcher.next(0.0)) == [8, 7, 6, 5]
    assert _numbers(dispatcher.next(0.0)) == [4, 3, 2, 1]


def test_what_cannot_be_in_time_is_told_before_any_work() -> None:
    dispatcher = _dispatcher(gap=1.0)
    dispatcher.add(_job(1, deadline=0.005), 0.0)
    dispatcher.add(_job(2, deadline=1.0), 0.0)
    late = dispatcher.next(0.0)
    assert isinstance(late, Late)
    assert _numbers(late) == [1]
    assert _numbers(dispatcher.next(0.0)) == [2]


def test_of_those_that_seem_late_one_is_tried_now_and_then_while_nothing_else_waits() -> None:
    dispatcher = _slowed()
    for now in (1.0, 9.0):
        dispatcher.add(_job(0, at=now, deadline=now + 0.1), now)
        assert isinstance(dispatcher.next(now), Late)
    for number, rows in ((1, 5), (2, 1), (3, 1)):
        dispatcher.add(_job(number, at=21.0, deadline=21.1, rows=rows), 21.0)
    assert not dispatcher.may_try(21.1, 21.0)  # others wait
    told, tried = dispatcher.next(21.0), dispatcher.next(21.0)
    assert isinstance(told, Late)
    assert isinstance(tried, Batch)
    assert (_numbers(told), _numbers(tried), tried.reason) == ([1, 3], [2], "trial")
    # While it runs there is no other, and after it none for twice as long as it took.
    for number, at, tries in ((4, 900.0, False), (5, 940.0, True), (6, 941.0, False)):
        if number == 5:
            dispatcher.failed(45.0)
        assert dispatcher.may_try(at + 0.1, at) == tries
        dispatcher.add(_job(number, at=at, deadline=at + 0.1), at)
        assert isinstance(dispatcher.next(at), Batch if tries else Late)
    dispatcher.done(1, 0.02, tried=True)
    dispatcher.add(_job(7, at=942.0, deadline=942.1), 942.0)
    following = dispatcher.next(942.0)
    assert isinstance(following, Batch)
    assert following.reason != "trial"


def test_nothing_is_tried_in_vain_where_others_wait_or_where_there_is_no_time_left() -> None:
    for deadline, others in ((100.1, 1), (100.0, 0), (-math.inf, 0)):
        dispatcher = _slowed()
        dispatcher.add(_job(1, at=90.0, deadline=deadline), 100.0)
        for number in range(others):
            dispatcher.add(_job(2 + number, at=100.0), 100.0)
        assert _numbers(dispatcher.next(100.0)) == [1]
        assert bool(dispatcher.requests) == bool(others)


def _slowed() -> Dispatcher[int]:
    """One whose batches were quick, and now take a second."""
    dispatcher = Dispatcher[int](_model())
    dispatcher.add(_job(0), 0.0)
    assert _numbers(dispatcher.next(0.0)) == [0]
    for seconds in (*[_cost(1)] * 50, *[1.0] * 50):
        dispatcher.done(1, seconds)
    return dispatcher


def test_a_batch_is_no_larger_than_its_nearest_deadline_allows() -> None:
    dispatcher = _dispatcher()
    for number in range(40):
        dispatcher.add(_job(number, deadline=0.025), 0.0)
    decision = dispatcher.next(0.0)
    assert isinstance(decision, Batch)
    assert 8 <= decision.rows < 16
    assert _cost(decision.rows) <= 0.025


def test_where_rows_cost_more_than_a_batch_a_part_runs_ahead() -> None:
    def rows_of_the_next(alpha: float, beta: float, *, deadline: float = math.inf, rate: float = 1.0) -> list[int]:
        arrivals = Arrivals()
        for number in range(300):
            arrivals.seen((number - 300) / rate)
        known = LatencyModel.of({rows: alpha + beta * rows for rows in (1, 8, 64)})
        dispatcher = Dispatcher[int](known, arrivals=arrivals)
        for number in range(10):
            dispatcher.add(_job(number, deadline=deadline + number * 1e-3), 0.0)
        decision = dispatcher.next(0.0)
        assert isinstance(decision, Batch)
        assert (decision.reason == "ahead") == (decision.rows < 10)
        assert dispatcher.requests == 10 - decision.rows  # the others wait on
        return _numbers(decision)

    nearest = [*range(5)]
    assert rows_of_the_next(1e-3, 1e-2) == nearest
    assert rows_of_the_next(1e-2, 1e-3) == [*range(10)]  # together they take less
    assert rows_of_the_next(1e-6, 1e-5) == [*range(10)]  # it is over at once
    assert rows_of_the_next(1e-3, 1e-2, rate=300.0) == [*range(10)]  # it would keep all waiting who come
    assert rows_of_the_next(1e-3, 1e-2, deadline=1.0) == nearest
    assert rows_of_the_next(1e-1, 1e-1, deadline=2.0) == [*range(6)]
    assert rows_of_the_next(1e-1, 1e-1, deadline=1.25) == [*range(10)]  # those behind would be late


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    dispatcher = _dispatcher(gap=1.0, max_rows=4)
    dispatcher.add(_job(1, rows=9), 0.0)
    dispatcher.add(_job(2), 0.0)
    assert _numbers(dispatcher.next(0.0)) == [1]
    assert _numbers(dispatcher.next(0.0)) == [2]


def test_a_higher_tier_goes_first_until_a_lower_one_has_waited_too_long() -> None:
    dispatcher = _dispatcher(max_rows=1, aging=5.0)
    for number, tier in ((1, 1), (2, 0), (3, 0)):
        dispatcher.add(_job(number, tier=tier), 0.0)
    assert _numbers(dispatcher.next(1.0)) == [2]
    dispatcher.add(_job(4, at=4.0, tier=0), 4.0)
    assert _numbers(dispatcher.next(6.0)) in ([1], [3])
    assert sorted(_numbers(dispatcher.next(6.0)) + _numbers(dispatcher.next(6.0)))[-1] == 4


class _Window:
    """The peer: a fixed time to wait from the oldest request, and what cannot be in time is dropped."""

    def __init__(self, window: float, max_rows: int) -> None:
        self._window, self._max_rows = window, max_rows
        self._jobs: list[Job[int]] = []

    def add(self, job: Job[int], now: float) -> None:
        self._jobs.append(job)

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        pass

    def next(self, now: float, *, others_busy: bool = True) -> Batch[int] | Late[int] | Wait | None:
        late = tuple(job for job in self._jobs if now + _cost(1) > job.deadline)
        if late:
            self._jobs = [job for job in self._jobs if now + _cost(1) <= job.deadline]
            return Late(late)
        if not self._jobs:
            return None
        opens = self._jobs[0].arrived + self._window
        if len(self._jobs) < self._max_rows and now < opens:
            return Wait(opens)
        jobs, self._jobs = self._jobs[: self._max_rows], self._jobs[self._max_rows :]
        return Batch(tuple(jobs), len(jobs), 0.0, "window")


def _run(requests: list[Request], policy: Callable[[], Dispatcher[int] | _Window]) -> Outcome:
    return simulate(requests, policy(), _cost)


@pytest.mark.parametrize("load", [0.05, 0.4, 0.9])
def test_one_configuration_is_as_good_as_the_best_fixed_window_at_every_load(load: float) -> None:
    requests = poisson(load * 64 / _cost(64), 3_000 * _cost(64) / (load * 64), seed=4)
    ours = _run(requests, lambda: Dispatcher(_model(), max_rows=64))
    windows = [_run(requests, lambda w=w: _Window(w * ALPHA, 64)) for w in (0.0, 0.5, 2.0)]  # type: ignore[misc]
    assert ours.quantile(0.99) <= 1.05 * min(window.quantile(0.99) for window in windows)
    assert ours.latencies.mean() <= 1.05 * min(window.latencies.mean() for window in windows)


def test_ten_times_the_capacity_still_gets_the_capacity_answered_in_time() -> None:
    random = np.random.default_rng(5)
    capacity = 64 / _cost(64)
    patience = random.uniform(1.0, 4.0, 12_000) * _cost(64)
    gaps = np.cumsum(random.exponential(1 / (10 * capacity), 12_000))
    requests = [Request(at, 1, wait) for at, wait in zip(gaps.tolist(), patience.tolist(), strict=True)]
    ours = _run(requests, lambda: Dispatcher(_model(), max_rows=64))
    assert ours.answered * len(requests) >= 0.9 * capacity * requests[-1].at
    assert _run(requests, lambda: _Window(0.0, 64)).answered < 0.5 * ours.answered


_requests = st.lists(
    st.builds(
        Request,
        st.floats(0, 0.5),
        st.integers(1, 12),
        st.one_of(st.just(math.inf), st.floats(0, 0.2)),
        st.integers(0, 2),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(_requests, st.integers(1, 16), st.integers(1, 3))
def test_each_request_is_decided_once_and_none_runs_that_is_known_to_be_late(
    requests: list[Request], max_rows: int, executors: int
) -> None:
    class Watched(Dispatcher[int]):
        def next(self, now: float, *, others_busy: bool = True) -> Batch[int] | Late[int] | Wait | None:
            decision = super().next(now, others_busy=others_busy)
            if isinstance(decision, Batch | Late):
                decided.extend(job.payload for job in decision.jobs)
            if isinstance(decision, Batch):
                assert decision.rows == sum(job.rows for job in decision.jobs)
                assert decision.rows <= max_rows or len(decision.jobs) == 1
                on_time = now + self.latency.upper(decision.rows) <= min(job.deadline for job in decision.jobs)
                assert on_time != (decision.reason == TRIAL)
                assert on_time or (len(decision.jobs) == 1 and not self.waiting.requests)
            return decision

    decided: list[int] = []
    dispatcher = Watched(_model(), max_rows=max_rows, shares=Shares(agings=[0.05] * 4))
    requests = sorted(requests, key=lambda request: request.at)
    outcome = simulate(requests, dispatcher, _cost, executors=executors)
    assert sorted(decided) == list(range(len(requests)))
    assert dispatcher.requests == dispatcher.rows == 0
    endless = np.array([request.patience == math.inf for request in requests], bool)
    assert np.isfinite(outcome.latencies[endless]).all()


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 5)), min_size=1, max_size=30), st.floats(-1e6, 1e6))
def test_a_clock_that_jumps_loses_nobody_and_makes_nobody_wait_long(came: list[tuple[float, int]], then: float) -> None:
    dispatcher = _dispatcher(gap=1e-3)
    for number, (at, rows) in enumerate(came):
        dispatcher.add(_job(number, at=at, rows=rows), at)
    ran: list[int] = []
    for _ in range(4 * len(came)):
        decision = dispatcher.next(then)
        if isinstance(decision, Wait):
            assert then < decision.until <= then + 2 * ALPHA
            then = decision.until
        elif decision is not None:
            ran += _numbers(decision)
    assert sorted(ran) == list(range(len(came)))
