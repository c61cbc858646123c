"""What lag costs is measured as what a model loses beside itself, with an interval."""

from __future__ import annotations

import numpy as np
import pytest

from trilane.feedback.measurement import auc
from trilane.feedback.sensitivity import Loss, losses, slope


def test_equal_scores_lose_nothing_and_noise_loses_what_the_auc_says() -> None:
    chance = np.random.default_rng(1)
    label = chance.integers(0, 2, 2_000).astype(np.float64)
    base = np.round(label + chance.normal(0, 1, 2_000), 1)  # with ties
    worse = np.round(label + chance.normal(0, 3, 2_000), 1)
    level, (same, lost) = losses(label, base, [base, worse])
    assert level == pytest.approx(auc(base, label))
    assert (same.loss, same.low, same.high) == (0, 0, 0)
    assert lost.value == pytest.approx(auc(worse, label))
    assert lost.loss == pytest.approx(level - lost.value)
    assert 0 < lost.low < lost.loss < lost.high


def test_numbers_are_judged_by_the_increase_of_their_error() -> None:
    label = np.arange(100.0)
    level, (lost,) = losses(label, label + 1, [label + 1.5])
    assert level == pytest.approx(1)
    assert (lost.loss, lost.low, lost.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_slope_is_of_the_first_hour_if_there_is_one() -> None:
    found = [Loss(value=0, loss=x, low=x, high=2 * x) for x in (0.0, 0.1, 0.6, 9.0)]
    assert slope([0, 10, 60, 600], found) == pytest.approx((0.01, 0.01, 0.02))
    assert slope([0], found[:1]) == (0, 0, 0)
    assert slope([120], [found[1]]) == pytest.approx((0.1 / 120, 0.1 / 120, 0.2 / 120))
