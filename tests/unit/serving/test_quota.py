"""Quotas: what token buckets let through over any time, and how they forget strangers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.serving.quota import Bucket, Quotas


def test_a_full_bucket_lets_a_burst_through_and_then_tells_when_the_next_token_comes() -> None:
    bucket = Bucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.05) == pytest.approx(0.05)
    assert bucket.take(0.101) == 0.0


def test_rows_that_were_let_through_are_paid_before_more_are() -> None:
    bucket = Bucket(rate=10, burst=5, now=0.0)
    assert bucket.take(0.0) == 0.0
    bucket.charge(24)
    assert bucket.take(0.0) == pytest.approx(2.1)
    assert bucket.take(2.11) == 0.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(rate=10, burst=1, now=10.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(5.0) == pytest.approx(0.1)


@given(
    st.floats(0.1, 1e4),
    st.floats(1, 1e3),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), max_size=200),
)
def test_over_any_time_no_more_than_burst_and_rate_allow_is_let_through(
    rate: float, burst: float, asks: list[tuple[float, int]]
) -> None:
    bucket, now, passed, largest = Bucket(rate, burst, 0.0), 0.0, 0, 0
    for gap, rows in asks:
        now += gap
        if bucket.take(now) == 0.0:
            bucket.charge(rows - 1)
            passed, largest = passed + rows, max(largest, rows)
        assert passed <= burst + rate * now + largest + 1e-6


@given(st.floats(0.1, 1e3), st.floats(1, 1e3), st.floats(0, 10))
def test_who_waits_as_long_as_was_said_is_let_through(rate: float, burst: float, debt: float) -> None:
    bucket = Bucket(rate, burst, 0.0)
    bucket.charge(burst + debt)
    wait = bucket.take(0.0)
    assert wait > 0
    assert bucket.take(wait * (1 + 1e-9) + 1e-9) == 0.0


def test_each_caller_has_a_bucket_of_its_own_and_those_without_a_name_share_one() -> None:
    quotas = Quotas(tl.Policy(callers=[tl.Caller("free"), tl.Caller("paid", rate=2)], others=tl.Caller(rate=1)))
    assert quotas.of("free", 0.0) is None
    paid, one, nobody = (quotas.of(name, 0.0) for name in ("paid", "one", ""))
    assert paid is not None
    assert paid.rate == 2
    assert one is not None
    assert one is not quotas.of("two", 0.0)
    assert one is quotas.of("one", 1.0)
    assert nobody is quotas.of("", 1.0)


def test_one_of_several_processes_grants_its_part() -> None:
    bucket = Quotas(tl.Policy(callers=[tl.Caller("paid", rate=8, burst=16)]), parts=4).of("paid", 0.0)
    assert bucket is not None
    assert (bucket.rate, bucket.burst) == (2, 4)


def test_strangers_do_not_fill_the_memory() -> None:
    quotas = Quotas(tl.Policy(others=tl.Caller(rate=1)))
    first = quotas.of("0", 0.0)
    for number in range(10_000):
        quotas.of(str(number), 0.0)
    assert len(quotas._strangers) == 4_096
    assert quotas.of("0", 0.0) is not first


def test_without_a_rate_nothing_is_limited() -> None:
    assert not Quotas(tl.Policy(callers=[tl.Caller("one")])).limits
    assert Quotas(tl.Policy(others=tl.Caller(rate=1))).limits
