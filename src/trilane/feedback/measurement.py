"""How good scores turned out to be: ranking, log loss and calibration, given what later proved true.

Laws: each is a pure function of scores and outcomes and exact up to floating sums; none depends on the order of rows.
An outcome that is not known (NaN) is left out, and `Measurement.count` says how many were known. With nothing to
compare, the answer is NaN, not an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.errors import ContractError

__all__ = ["Bin", "Measurement", "auc", "calibration", "log_loss", "measure"]

Floats = npt.NDArray[np.float64]
Column = Sequence[float | None] | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Scores in [low, high): how many, their mean, and the share whose outcome was positive."""

    low: float
    high: float
    count: int
    mean_score: float
    positive_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The figures of one set of decisions: `count` with a known outcome, of them `positives`."""

    count: int
    positives: int
    auc: float
    log_loss: float
    calibration: tuple[Bin, ...]


def auc(scores: Column, outcomes: Column) -> float:
    """The probability that a positive scores above a negative, ties counting half; NaN without one of each.

    The rank form of Mann and Whitney (1947): sorts once, whatever the number of pairs.

    >>> auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
    0.875
    """
    score, outcome = _known(scores, outcomes)
    positives = int(outcome.sum())
    negatives = len(outcome) - positives
    if not positives or not negatives:
        return math.nan
    _, which, counts = np.unique(score, return_inverse=True, return_counts=True)
    # Twice the mean rank of each distinct score, so that all stays in integers until the last division.
    twice_rank = 2 * np.cumsum(counts) - counts + 1
    twice_wins = int(twice_rank[which[outcome == 1]].sum()) - positives * (positives + 1)
    return twice_wins / (2 * positives * negatives)


def log_loss(scores: Column, outcomes: Column, *, floor: float = 1e-15) -> float:
    """The mean of -log of the probability that the scores gave to what happened, kept above `floor`."""
    score, outcome = _known(scores, outcomes)
    if not len(score):
        return math.nan
    if score.min() < 0 or score.max() > 1:
        raise ContractError("a score is no probability", where="scores", remedy="Give scores between 0 and 1")
    likely = np.clip(np.where(outcome == 1, score, 1 - score), floor, 1.0)
    return float(-np.log(likely).mean())


def calibration(scores: Column, outcomes: Column, *, bins: int = 10) -> tuple[Bin, ...]:
    """For `bins` equal slices of [0, 1]: do as many turn out positive as the scores say? Empty slices are left out."""
    score, outcome = _known(scores, outcomes)
    place = np.clip((score * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    totals = np.bincount(place, score, bins), np.bincount(place, outcome, bins)
    return tuple(
        Bin(
            low=i / bins,
            high=(i + 1) / bins,
            count=int(count[i]),
            mean_score=float(totals[0][i] / count[i]),
            positive_share=float(totals[1][i] / count[i]),
        )
        for i in range(bins)
        if count[i]
    )


def measure(scores: Column, outcomes: Column, *, bins: int = 10) -> Measurement:
    """All figures at once."""
    score, outcome = _known(scores, outcomes)
    return Measurement(
        count=len(score),
        positives=int(outcome.sum()),
        auc=auc(score, outcome),
        log_loss=log_loss(score, outcome),
        calibration=calibration(score, outcome, bins=bins),
    )


def _known(scores: Column, outcomes: Column) -> tuple[Floats, Floats]:
    score, outcome = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    if score.shape != outcome.shape or score.ndim != 1:
        raise ContractError(
            f"{score.shape} scores do not match {outcome.shape} outcomes", remedy="Give one outcome for each score"
        )
    known = ~np.isnan(outcome)
    score, outcome = score[known], outcome[known]
    if np.isnan(score).any():
        raise ContractError("a score is NaN", where="scores", remedy="Leave out decisions without a score")
    if not np.isin(outcome, (0.0, 1.0)).all():
        raise ContractError(
            "an outcome is neither 0 nor 1", where="outcomes", remedy="Say 1 for positive, 0 for negative"
        )
    return score, outcome
