"""While a store does not answer nobody waits for it; who is well again is found out beside the answers."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trilane.errors import UnavailableError
from trilane.serving.breaker import Breaker
from trilane.serving.guard import GuardedStore, HeldUp
from trilane.stores.online.hedging import Hedging

ASKED = [("nearline/a", [b"x", b"y"]), ("batch/b", [b"z"])]


class Sick:
    """A store that takes `seconds` of the watch for a read, and then fails, or answers."""

    atomic, max_key_bytes = True, 511

    def __init__(self) -> None:
        self.now, self.seconds, self.fails = 0.0, 0.001, False
        self.reads: list[tuple[Any, float]] = []
        self.probes: list[Callable[[], None]] = []
        self.hedging = Hedging(0.05)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def read(
        self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
    ) -> list[list[bytes | None]]:
        self.reads.append((requests, within))
        self.now += min(self.seconds, within)
        if self.fails or self.seconds > within:
            raise UnavailableError("no answer")
        return [[b"1" for _ in keys] for _, keys in requests]

    def guarded(self, told: Callable[[bool], None] = lambda _won: None) -> GuardedStore:
        return GuardedStore(
            self, start=self.probes.append, timer=lambda: self.now, hedging=self.hedging, read_twice=told
        )


def _refused(store: GuardedStore, within: float = 1.0) -> str:
    with pytest.raises(UnavailableError) as caught:
        store.read(ASKED, within=within)
    return caught.value.what


def test_a_read_of_a_decision_is_given_the_limit_or_less_and_any_other_its_own_time() -> None:
    sick = Sick()
    store = sick.guarded()
    for within in (1.0, 0.01, math.inf):
        assert store.read(ASKED, within=within) == [[b"1", b"1"], [b"1"]]
    assert [within for _, within in sick.reads] == [0.05, 0.01, math.inf]


def test_a_store_that_hangs_is_waited_for_once_until_a_probe_finds_it_well() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.seconds = 60.0
    assert _refused(store) == "no answer"
    assert sick.now == 0.05
    for _ in range(100):
        assert _refused(store) == "its breaker is open: a call failed after 0.05 s"
    assert (sick.now, len(sick.reads), sick.probes) == (0.05, 1, [])
    sick.now += 0.2
    for _ in range(100):
        _refused(store)
    [probe] = sick.probes  # one, although many ask
    before = sick.now
    probe()
    assert sick.reads[-1] == ([("nearline/a", [b"x"])], 0.05)
    sick.seconds = 0.001
    assert "its breaker is open" in _refused(store)  # the probe failed
    sick.now = before + 10
    _refused(store)
    sick.probes[-1]()
    assert store.read(ASKED, within=1.0)[1] == [b"1"]


def test_failures_that_cost_no_time_open_the_breaker_by_their_share() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.seconds, sick.fails = 0.0, True
    assert [_refused(store) for _ in range(10)] == ["no answer"] * 10
    assert _refused(store) == "its breaker is open: 10 of the last 10 calls failed"


def test_a_read_that_had_no_time_says_nothing_of_the_store() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.seconds = 60.0
    for _ in range(100):
        assert _refused(store, within=0.002) == "no answer"
    assert store.breaker.is_closed


def test_reads_as_large_as_they_are_slow_open_nothing() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.seconds = 0.2
    for _ in range(100):
        store.read(ASKED)
    assert store.breaker.is_closed
    sick.seconds = 0.04
    for _ in range(100):
        with contextlib.suppress(UnavailableError):
            store.read(ASKED, within=1.0)
    assert "took 0.025 s or more" in _refused(store)


def test_who_was_first_of_two_questions_is_told() -> None:
    told: list[bool] = []
    sick = Sick()
    store = sick.guarded(told.append)
    for second in (False, True):
        sick.hedging.ask()
        store.read(ASKED)
        sick.hedging.decide(second=second)
        store.read(ASKED)
        store.read(ASKED)
    assert told == [False, True]
    for second in (True, False, True):  # by threads that read at the same time
        sick.hedging.decide(second=second)
    store.read(ASKED)
    assert sorted(told) == [False, False, True, True, True]


def test_a_read_that_may_not_hold_up_its_caller_is_given_up_and_nothing_is_held_against_the_store() -> None:
    sick = Sick()
    store = sick.guarded()
    assert store.read(ASKED, within=1.0, patience=0.005)[1] == [b"1"]
    assert not store.is_long
    sick.seconds = 60.0
    for within in (1.0, math.inf):
        before = sick.now
        with pytest.raises(HeldUp):
            store.read(ASKED, within=within, patience=0.005)
        assert sick.now - before == pytest.approx(0.005)
        assert (store.breaker.is_closed, store.is_long) == (True, True)
    assert _refused(store, within=0.001) == "no answer", "less time than patience: then that is all there is"


def test_an_error_that_came_before_patience_ended_is_an_error() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.fails = True
    with pytest.raises(UnavailableError, match="no answer"):
        store.read(ASKED, within=1.0, patience=0.005)
    assert not store.is_long


def test_reads_of_a_store_that_is_slow_are_long_until_they_are_quick_or_its_breaker_is_open() -> None:
    sick = Sick()
    store = sick.guarded()
    sick.seconds = 0.02
    for _ in range(5):
        store.read(ASKED, within=1.0)
    assert store.is_long
    for _ in range(100):
        _ignored(store, within=0.001)  # which have no time say nothing of how long it takes
    assert store.is_long
    sick.seconds = 60.0
    _refused(store)
    assert (store.breaker.is_closed, store.is_long) == (False, False)
    sick.seconds, sick.now = 0.001, sick.now + 10
    _refused(store)
    sick.probes[-1]()
    for _ in range(100):
        store.read(ASKED, within=1.0)
    assert (store.breaker.is_closed, store.is_long) == (True, False)


def _ignored(store: GuardedStore, within: float) -> None:
    with pytest.raises(UnavailableError):
        store.read(ASKED, within=within)


def test_what_many_threads_read_is_counted_whole() -> None:
    """Half of the reads fail, so the breaker's window is rewritten by each of them."""
    threads, each = 4, 2_000

    class Odd(Sick):
        def read(
            self, requests: Sequence[tuple[str, Sequence[bytes]]], *, within: float = math.inf
        ) -> list[list[bytes | None]]:
            if requests is ASKED:
                return [[b"1"], [b"1"]]
            raise UnavailableError("no answer")

    breaker = Breaker(window=50, failures=1.0, hang=math.inf)  # never all of them
    store = GuardedStore(Odd(), limit=0.0, breaker=breaker, timer=lambda: 0.0)

    def read() -> None:
        for turn in range(each):
            with contextlib.suppress(UnavailableError):
                store.read(ASKED if turn % 2 else [], within=1.0)

    running = [threading.Thread(target=read) for _ in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert breaker.is_closed
    assert (breaker._calls, len(breaker._last)) == (50, 50)
    assert breaker._failed == sum(outcome & 1 for outcome in breaker._last)


def test_to_greet_a_store_opens_its_connection_and_never_raises() -> None:
    sick = Sick()
    store = sick.guarded()
    store.greet()
    sick.fails = True
    store.greet()
    assert len(sick.reads) == 2
    assert store.breaker.is_closed
