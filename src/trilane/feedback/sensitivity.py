"""What lag costs a model: how much worse its scores become when one view is late, with how sure that is.

Laws: of equal scores the loss is 0; the interval is a bootstrap over rows (Efron 1979), in which both scores of a row
are drawn together, and is determined by the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Loss", "is_binary", "losses", "slope"]

Floats = npt.NDArray[np.float64]
_SAMPLES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """How much worse than level lanes: `loss` in [`low`, `high`], at 95 %. Of AUC the difference, of RMSE the increase
    as a part of it; `value` is the figure itself.
    """

    value: float
    loss: float
    low: float
    high: float


def is_binary(label: Floats) -> bool:
    """Whether scores are judged by AUC, or by RMSE."""
    return bool(np.isin(label, (0.0, 1.0)).all())


def losses(label: Floats, base: Floats, others: Sequence[Floats], *, seed: int = 0) -> tuple[float, list[Loss]]:
    """The figure of the scores `base`, and what each of `others` loses beside it."""
    weights = np.vstack([np.ones(len(label)), _weights(len(label), seed)])
    figure = _aucs if is_binary(label) else _rmses
    level = figure(label, base, weights)
    found = []
    for scores in others:
        late = figure(label, scores, weights)
        lost = level - late if is_binary(label) else late / np.maximum(level, 1e-300) - 1
        low, high = np.nanquantile(lost[1:], [0.025, 0.975]).tolist()
        found.append(Loss(value=float(late[0]), loss=float(lost[0]), low=low, high=high))
    return float(level[0]), found


def slope(minutes: Sequence[float], found: Sequence[Loss]) -> tuple[float, float, float]:
    """Loss per minute with its interval: the line through no lag and no loss that fits best up to the first hour."""
    near = [(m, one) for m, one in zip(minutes, found, strict=True) if 0 < m <= 60] or [
        (m, one) for m, one in zip(minutes, found, strict=True) if m > 0
    ]
    size = sum(m * m for m, _ in near)
    if not size:
        return 0.0, 0.0, 0.0
    return (
        sum(m * one.loss for m, one in near) / size,
        sum(m * one.low for m, one in near) / size,
        sum(m * one.high for m, one in near) / size,
    )


def _weights(rows: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each row is drawn: Poisson of mean 1, which many rows of a bootstrap have."""
    return np.random.default_rng(seed).poisson(1.0, (_SAMPLES, rows)).astype(np.float64)


def _rmses(label: Floats, scores: Floats, weights: Floats) -> Floats:
    square = (scores - label) ** 2
    return np.asarray(np.sqrt(weights @ square / np.maximum(weights.sum(axis=1), 1)), np.float64)


def _aucs(label: Floats, scores: Floats, weights: Floats) -> Floats:
    """The AUC under each row of weights; ties count half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    positive, negative = label[order] == 1, label[order] != 1
    found = np.empty(len(weights))
    for i, row in enumerate(weights):
        sorted_ = row[order]
        up = np.add.reduceat(sorted_ * positive, starts)
        down = np.add.reduceat(sorted_ * negative, starts)
        pairs = up.sum() * down.sum()
        found[i] = (up * (np.cumsum(down) - down / 2)).sum() / pairs if pairs else np.nan
    return found
