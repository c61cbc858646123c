"""A breaker opens for what fails or is slow, rests, probes one at a time, and is never moved by what is out of date."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trilane.errors import UnavailableError
from trilane.serving.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, admitted


def _call(breaker: Breaker, now: float, *, failed: bool = False, seconds: float = 0.0) -> bool:
    ticket = breaker.enter(now)
    if ticket:
        breaker.leave(ticket, now, seconds, failed=failed)
    return bool(ticket)


def test_a_few_failures_open_nothing_and_half_of_the_last_calls_do() -> None:
    breaker = Breaker(window=10, least=10)
    for _ in range(9):
        _call(breaker, 0.0, failed=True)
    assert breaker.state == CLOSED
    _call(breaker, 0.0)
    assert (breaker.state, breaker.reason) == (OPEN, "9 of the last 10 calls failed")


def test_slow_calls_open_it_although_they_succeed() -> None:
    breaker = Breaker(window=4, least=4, slow=0.05)
    for seconds in (0.01, 0.06, 0.01, 0.05):
        _call(breaker, 0.0, seconds=seconds)
    assert (breaker.state, breaker.reason) == (OPEN, "2 of the last 4 calls took 0.05 s or more")


def test_one_call_that_hung_and_failed_opens_it_and_one_that_failed_at_once_does_not() -> None:
    breaker = Breaker(hang=0.05)
    _call(breaker, 0.0, failed=True, seconds=0.001)
    assert breaker.state == CLOSED
    _call(breaker, 0.0, failed=True, seconds=0.06)
    assert breaker.state == OPEN


def test_bad_calls_leave_the_window_behind_good_ones() -> None:
    breaker = Breaker(window=4, least=4)
    for failed in (True, False, False, False, False, True, False, False, False):
        _call(breaker, 0.0, failed=failed)
    assert breaker.state == CLOSED


def test_after_its_rest_one_probe_at_a_time_is_let_in_and_closes_or_opens_it() -> None:
    breaker = Breaker(hang=0.0, rest=1.0, longest=3.0, probes=2)
    _call(breaker, 0.0, failed=True)
    assert not breaker.would_enter(0.9)
    assert breaker.enter(0.9) == 0
    probe = breaker.enter(1.0)
    assert probe
    assert breaker.enter(1.1) == 0
    breaker.leave(probe, 1.2, 0.1, failed=True)
    assert (breaker.state, breaker.enter(3.1)) == (OPEN, 0)  # the rest has doubled
    assert _call(breaker, 3.2)
    assert breaker.state == HALF_OPEN
    assert _call(breaker, 3.3)
    assert (breaker.state, breaker.reason, breaker.opened) == (CLOSED, "", 1)


def test_a_probe_that_never_tells_is_given_up() -> None:
    breaker = Breaker(hang=0.0, rest=1.0)
    _call(breaker, 0.0, failed=True)
    lost = breaker.enter(1.0)
    assert breaker.enter(1.5) == 0
    assert breaker.enter(2.0) == lost


def test_what_began_before_it_opened_does_not_close_it() -> None:
    breaker = Breaker(hang=0.0, rest=1.0)
    early = breaker.enter(0.0)
    _call(breaker, 0.0, failed=True)
    probe = breaker.enter(1.0)
    breaker.leave(early, 1.0, 0.5)
    assert breaker.state == HALF_OPEN
    breaker.leave(probe, 1.0, 0.1)
    assert breaker.state == CLOSED
    breaker.leave(early, 1.0, 0.5, failed=True)
    assert breaker.state == CLOSED


class Machine(RuleBasedStateMachine):
    """Any calls in any order, against a window that is counted anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(window=6, least=3, failures=0.5, slow=0.2, slowness=0.7, hang=1.0, rest=1.0, longest=4.0)
        self.now = 0.0
        self.open: list[int] = []
        self.window: list[tuple[bool, bool]] = []
        self.opened_at = 0.0
        self.closed_by: list[int] = []

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_asks(self) -> None:
        before = self.breaker.state
        would = self.breaker.would_enter(self.now)
        ticket = self.breaker.enter(self.now)
        assert bool(ticket) == would
        if before == CLOSED:
            assert ticket
        if before == OPEN and ticket:
            assert self.now >= self.opened_at + 1.0
        if ticket:
            self.open.append(ticket)

    @precondition(lambda self: self.open)
    @rule(which=st.randoms(), seconds=st.sampled_from([0.0, 0.1, 0.3, 2.0]), failed=st.booleans())
    def a_call_ends(self, which: object, seconds: float, failed: bool) -> None:
        ticket = self.open.pop(which.randrange(len(self.open)))  # type: ignore[attr-defined]
        before, generation = self.breaker.state, self.breaker._generation
        self.breaker.leave(ticket, self.now, seconds, failed=failed)
        if ticket != generation:
            assert (self.breaker.state, self.breaker._generation) == (before, generation)
            return
        if before == CLOSED:
            self.window = [*self.window[-5:], (failed, seconds >= 0.2)]
            self._expect(hung=failed and seconds >= 1.0)
        else:
            assert self.breaker.state == (OPEN if failed or seconds >= 0.2 else CLOSED)
        if self.breaker.state == OPEN:
            self.opened_at = self.now
        if self.breaker.state != CLOSED or before != CLOSED:
            self.window = []

    def _expect(self, *, hung: bool) -> None:
        size = len(self.window)
        failed, slow = (sum(one[place] for one in self.window) for place in (0, 1))
        shares = size >= 3 and ((failed and failed >= 0.5 * size) or (slow and slow >= 0.7 * size))
        if self.breaker.state == OPEN:
            assert hung or shares
        else:
            assert not hung
            assert not shares

    @invariant()
    def an_open_one_says_why(self) -> None:
        assert bool(self.breaker.reason) == (self.breaker.state != CLOSED)


TestMachine = Machine.TestCase


@pytest.mark.parametrize("slow", [0.1, 10.0])
def test_a_healthy_dependency_is_never_refused(slow: float) -> None:
    breaker = Breaker(slow=slow)
    assert all(_call(breaker, float(second), seconds=0.01) for second in range(1_000))


def test_whoever_is_not_let_through_hears_why_and_when_to_ask_again() -> None:
    breaker = Breaker(hang=0.05, rest=2.0)
    assert breaker.rests(10.0) == 0
    breaker.leave(admitted(breaker, 10.0, where="model 'm'"), 10.1, 0.1, failed=True)
    assert breaker.rests(10.6) == pytest.approx(1.5)
    with pytest.raises(UnavailableError, match=r"its breaker is open: a call failed after 0\.1 s") as caught:
        admitted(breaker, 10.6, where="model 'm'")
    assert caught.value.facts["retry_after_s"] == pytest.approx(1.5)
    assert admitted(breaker, 12.2, where="model 'm'")
