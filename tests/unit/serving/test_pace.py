"""When reads of a store are taken to be long, and when to be quick again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.serving.pace import LONG, Pace

quick = st.floats(0.0, LONG, exclude_max=True)


@given(st.lists(quick, max_size=200))
def test_quick_reads_never_make_them_long(reads: list[float]) -> None:
    pace = Pace()
    for seconds in reads:
        pace.note(seconds, 1)
        assert not pace.is_long


@given(st.lists(st.floats(0.0, 10.0), max_size=50), st.floats(1.5 * LONG, 10.0))
def test_whatever_was_before_a_few_long_reads_in_a_row_make_them_long(before: list[float], seconds: float) -> None:
    pace = Pace()
    for one in before:
        pace.note(one, 1)
    for _ in range(5):
        pace.note(seconds, 1)
    assert pace.is_long


def _until_quick(pace: Pace) -> int:
    """How many quick reads it takes."""
    reads = 0
    while pace.is_long:
        pace.note(LONG / 1_000, 1)
        reads += 1
    return reads


@given(st.lists(st.floats(0.0, 10.0), max_size=50), st.booleans())
def test_whatever_was_before_many_quick_reads_in_a_row_make_them_quick(before: list[float], held_up: bool) -> None:
    pace = Pace()
    for one in before:
        pace.note(one, 1)
    if held_up:
        pace.held_up()
        assert pace.is_long
    assert _until_quick(pace) <= 32
    for _ in range(100):
        pace.note(LONG / 1_000, 1)
    assert (pace.is_long, pace.calm) == (False, True)


def test_one_read_of_middling_length_says_little_and_one_that_hung_enough() -> None:
    pace = Pace()
    pace.note(2 * LONG, 1)
    assert (pace.is_long, pace.calm) == (False, False)
    pace.note(100.0, 1)
    assert pace.is_long


def test_a_single_long_read_among_quick_ones_keeps_them_long() -> None:
    pace = Pace()
    pace.held_up()
    for turn in range(200):
        pace.note(0.0 if turn % 20 else 0.02, 1)
        assert pace.is_long


@pytest.mark.parametrize(("keys", "is_long"), [(10, True), (10_000, False)])
def test_what_a_read_takes_for_its_size_does_not_count(keys: int, is_long: bool) -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(0.02, keys)
    assert pace.is_long is is_long


def test_who_is_held_up_again_and_again_tries_ever_more_seldom_but_goes_on_trying() -> None:
    pace, tries = Pace(), []
    for _ in range(8):
        pace.held_up()
        tries.append(_until_quick(pace))
    assert tries == [32, 64, 128, 256, 512, 512, 512, 512]
