"""While a store does not answer nobody waits for it; who is well again is found out beside the answers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from trilane.errors import UnavailableError
from trilane.serving.guard import GuardedStore
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
    for won in (0, 1):
        sick.hedging.ask()
        sick.hedging.won += won
        store.read(ASKED)
        store.read(ASKED)
    assert told == [False, True]
