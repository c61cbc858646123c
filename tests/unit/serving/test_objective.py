"""What an endpoint may promise, and how its answers are counted against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.serving.degradation import CACHED, CONSTANT, FRESH, STALE
from trilane.serving.engine import Answers
from trilane.serving.objective_count import ObjectiveCount
from trilane.serving.reading import Fault, Reading


def _made(*rungs: int) -> Answers:
    size = len(rungs)
    faults = (Fault("late", frozenset(row for row in range(size) if rungs[row])),) if any(rungs) else ()
    empty = Reading(np.zeros((size, 1)), np.zeros((size, 1), np.uint8), np.zeros((size, 1), np.int64), faults)
    return Answers("x", "b", 0, [], np.zeros(size), empty, faults, np.array(rungs, np.uint8))


@pytest.mark.parametrize(
    ("what", "facts"),
    [
        ("quick", {"at_least": 0.9}),
        ("in_time", {"at_most": 0.9}),
        ("in_time", {}),
        ("constant", {"at_least": 0.9}),
        ("fresh", {"at_least": 0.9, "at_most": 0.1}),
        ("fresh", {"at_least": 1.0}),
        ("fresh", {"at_least": 0.0}),
        ("constant", {"at_most": 1.5}),
        ("fresh", {"at_least": 0.9, "within": "5ms"}),
        ("in_time", {"at_least": 0.9, "within": "0s"}),
        ("in_time", {"at_least": 0.9, "over": "5m"}),
    ],
)
def test_what_can_be_no_promise_is_refused(what: str, facts: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as caught:
        tl.objective(what, **facts)
    assert caught.value.remedy


def test_a_percentage_is_told_as_the_share_that_it_is() -> None:
    with pytest.raises(DefinitionError, match=r"99\.9 % is 0\.999"):
        tl.objective("in_time", at_least=99.9)


def test_an_objective_says_what_it_is_and_is_counted_under_one_key_whatever_its_target() -> None:
    one = tl.objective("in_time", at_least=0.999, within="20ms")
    assert (one.text, one.key) == ("in_time (20ms) >= 99.9 %", "in_time:20ms")
    assert one.budget == pytest.approx(0.001)
    assert tl.objective("in_time", at_least=0.9, within="20ms").key == one.key
    assert tl.objective("constant", at_most=0.01, over="7d").text == "constant <= 1 %"


def test_rows_are_counted_by_time_by_fate_and_by_rung() -> None:
    shares = [tl.objective(what, at_least=0.9) for what in ("answered", "in_time", "fresh")]
    shares += [tl.objective("in_time", at_least=0.5, within="10ms"), tl.objective("constant", at_most=0.1)]
    count = ObjectiveCount(shares, deadline=0.05)
    count.answered(3, 0.005)
    count.answered(2, 0.02)
    count.answered(1, 0.06)
    count.refused(4)
    count.made_by(_made(FRESH, FRESH, FRESH))
    count.made_by(_made(FRESH, STALE, CACHED, CONSTANT))
    assert count.counts() == {
        "answered": (10, 4),
        "in_time": (10, 5),
        "fresh": (7, 3),
        "in_time:10ms": (10, 7),
        "constant": (7, 1),
    }
