"""The watermark follows the latest event, and nothing else."""

from __future__ import annotations

import numpy as np

from trilane.sources.watermark import Watermark

MARK = Watermark(disorder=10, future=5)


def _times(*times: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(times, dtype=np.int64)


def test_an_event_is_late_when_an_earlier_one_is_ahead_by_more_than_the_disorder() -> None:
    verdicts = MARK.judge(_times(100, 90, 89, 101, 90), 1_000)
    assert verdicts.late.tolist() == [False, False, True, False, True]
    assert not verdicts.from_future.any()


def test_a_later_event_makes_no_earlier_one_late() -> None:
    assert not MARK.judge(_times(1, 500), 1_000).late.any()


def test_an_event_from_the_future_moves_nothing() -> None:
    verdicts = MARK.judge(_times(100, 1_006, 99, 1_005), 1_000)
    assert verdicts.from_future.tolist() == [False, True, False, False]
    assert not verdicts.late.any()
    assert verdicts.after.complete_until == 1_005 - 10


def test_each_row_may_have_its_own_arrival() -> None:
    verdicts = MARK.judge(_times(100, 100), _times(95, 94))
    assert verdicts.from_future.tolist() == [False, True]


def test_before_the_first_event_nothing_is_complete() -> None:
    assert MARK.complete_until is None
    assert MARK.judge(_times(), 0).after == MARK
    assert MARK.judge(_times(0), 0).after.complete_until == -10
