"""Scores are measured as brute force would measure them."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane import ContractError
from trilane.feedback.measurement import auc, calibration, log_loss, measure

# Few distinct scores, so that ties are common.
scores = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1, allow_nan=False))
rows = st.lists(st.tuples(scores, st.sampled_from([0.0, 1.0])), max_size=40)


def _brute_force_auc(pairs: list[tuple[float, float]]) -> float:
    positives = [score for score, outcome in pairs if outcome]
    negatives = [score for score, outcome in pairs if not outcome]
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives)) if positives and negatives else math.nan


def _split(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [score for score, _ in pairs], [outcome for _, outcome in pairs]


@given(rows)
def test_auc_counts_every_pair_and_half_of_the_ties(pairs: list[tuple[float, float]]) -> None:
    assert auc(*_split(pairs)) == pytest.approx(_brute_force_auc(pairs), nan_ok=True, abs=1e-12)


@given(rows, st.randoms())
def test_no_figure_depends_on_the_order_of_rows(pairs: list[tuple[float, float]], random: Random) -> None:
    one = measure(*_split(pairs))
    random.shuffle(pairs)
    other = measure(*_split(pairs))
    assert (one.count, one.positives) == (other.count, other.positives)
    assert one.auc == other.auc or math.isnan(one.auc)
    assert one.log_loss == pytest.approx(other.log_loss, nan_ok=True)


@given(rows)
def test_auc_of_the_opposite_scores_is_the_complement(pairs: list[tuple[float, float]]) -> None:
    score, outcome = _split(pairs)
    assert auc([-s for s in score], outcome) == pytest.approx(1 - auc(score, outcome), nan_ok=True)


@given(rows, st.integers(1, 20))
def test_calibration_counts_each_row_once(pairs: list[tuple[float, float]], bins: int) -> None:
    score, outcome = _split(pairs)
    table = calibration(score, outcome, bins=bins)
    assert sum(one.count for one in table) == len(pairs)
    assert sum(one.count * one.positive_share for one in table) == pytest.approx(sum(outcome))
    assert sum(one.count * one.mean_score for one in table) == pytest.approx(sum(score))
    assert all(one.low <= one.mean_score <= one.high + 1e-9 for one in table)


@given(rows.filter(bool))
def test_log_loss_is_the_mean_surprise(pairs: list[tuple[float, float]]) -> None:
    surprise = [-math.log(min(max(s if o else 1 - s, 1e-15), 1.0)) for s, o in pairs]
    assert log_loss(*_split(pairs)) == pytest.approx(sum(surprise) / len(surprise))


def test_scores_that_separate_have_an_auc_of_one() -> None:
    assert auc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1.0


def test_a_million_rows_of_one_score_have_an_auc_of_one_half() -> None:
    assert auc(np.ones(1_000_000), np.arange(1_000_000) % 2) == 0.5


def test_unknown_outcomes_are_left_out() -> None:
    known = measure([0.2, 0.7], [0, 1])
    assert measure([0.2, 0.5, 0.7, 0.9], [0, None, 1, math.nan]) == known
    assert known.count == 2


def test_without_known_outcomes_there_is_no_figure_and_no_error() -> None:
    nothing = measure([0.5], [None])
    assert (nothing.count, nothing.calibration) == (0, ())
    assert math.isnan(nothing.auc)
    assert math.isnan(nothing.log_loss)


@pytest.mark.parametrize(
    ("scores", "outcomes", "message"),
    [
        ([0.1], [0, 1], "do not match"),
        ([math.nan], [1], "a score is NaN"),
        ([0.5], [0.5], "neither 0 nor 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(scores: list[float], outcomes: list[float], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        measure(scores, outcomes)


def test_log_loss_refuses_scores_that_are_no_probabilities() -> None:
    with pytest.raises(ContractError, match="no probability"):
        log_loss([1.5], [1])
