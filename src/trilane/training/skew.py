"""The skew of a feature: how the values that were served differ from those of lanes without lag."""

from __future__ import annotations

import msgspec
import numpy as np

from trilane.features.algebra import Floats

__all__ = ["Skew", "skew_of", "worst_first"]

_SAMPLED = 1_000_000  # rows of which differences are looked at, evenly spread, so that memory stays bounded


class Skew(msgspec.Struct, frozen=True, kw_only=True):
    """One feature over the rows; a value is missing where it is NaN.

    `differ`: the share of rows whose values differ, one of them missing included. `absolute`, `relative`: mean, median
    and 99th percentile over the rows where both are there and differ; relative to the ideal value, where that is not
    0. `smape`: the mean of 2|a-b|/(|a|+|b|), from 0 to 2, over all rows where both are there. Of larger sets, these
    are of a million rows.
    """

    rows: int
    differ: float
    only_ideal: int
    only_served: int
    absolute: tuple[float, float, float]
    relative: tuple[float, float, float]
    smape: float


def skew_of(ideal: Floats, served: Floats) -> Skew:
    """The skew of one column, ideal and as served, row by row.

    >>> skew_of(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])).differ
    0.3333333333333333
    """
    there, seen = ~np.isnan(ideal), ~np.isnan(served)
    both = there & seen
    unequal = int((both & (ideal != served)).sum()) + int((there != seen).sum())
    rows = len(ideal)
    sample = np.flatnonzero(both)[:: -(-max(int(both.sum()), 1) // _SAMPLED)]
    a, b = ideal[sample], served[sample]
    apart = np.abs(a - b)
    size = np.abs(a) + np.abs(b)
    changed = apart > 0
    relative = apart[changed & (a != 0)] / np.abs(a[changed & (a != 0)])
    return Skew(
        rows=rows,
        differ=unequal / max(rows, 1),
        only_ideal=int((there & ~seen).sum()),
        only_served=int((seen & ~there).sum()),
        absolute=_summary(apart[changed]),
        relative=_summary(relative),
        smape=float(np.mean(2 * apart / np.where(size > 0, size, 1))) if len(apart) else 0.0,
    )


def worst_first(skews: dict[str, Skew]) -> list[tuple[str, Skew]]:
    """Features by skew, the largest first."""
    return sorted(skews.items(), key=lambda pair: (-pair[1].smape - pair[1].differ, pair[0]))


def _summary(values: Floats) -> tuple[float, float, float]:
    if not len(values):
        return (0.0, 0.0, 0.0)
    median, high = np.quantile(values, [0.5, 0.99]).tolist()
    return (float(values.mean()), median, high)
