"""The cascade over the rows of a training set: what serving would have answered with lanes as old as they were.

Law: value and status are those that serving gives the same values and ages; `trilane.serving.reading` decides them for
a request, this for many instants at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import BATCH, DEFAULT, FRESH, MISSING, STALE
from trilane.features.view import LastBatch, Stale, View

__all__ = ["Own", "cascade"]


@dataclass(frozen=True, slots=True)
class Own:
    """What a stored view itself has at each row: values [rows, features], age in microseconds, whether it has any."""

    values: Floats
    ages: Ints
    there: npt.NDArray[np.bool_]


def cascade(view: View, own: Own, stand_ins: Mapping[str, Own]) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """Values and statuses [rows, features]; `stand_ins`: the batch views that the cascade names."""
    values = np.full(own.values.shape, np.nan)
    statuses = np.full(own.values.shape, MISSING, np.uint8)
    fresh = own.there & (own.ages <= view.freshness)
    _take(values, statuses, own, fresh, FRESH)
    left = ~fresh
    for step in view.fallback:
        if not left.any():
            break
        if isinstance(step, Stale):
            stale = left & own.there & (own.ages <= step.max_age)
            _take(values, statuses, own, stale, STALE)
            left &= ~stale
        elif isinstance(step, LastBatch):
            batch, names = stand_ins[step.view.name], step.view.feature_names
            usable = left & batch.there & (batch.ages <= step.max_age)
            for column, name in enumerate(view.feature_names):
                source = step.source_of(name)
                if source in names:
                    _fill(values, statuses, column, usable, batch.values[:, names.index(source)], BATCH)
        else:
            for column, feature in enumerate(view.features):
                if feature.default is not None:
                    _fill(values, statuses, column, left, np.full(len(left), feature.default), DEFAULT)
    return values, statuses


def _take(values: Floats, statuses: npt.NDArray[np.uint8], own: Own, rows: npt.NDArray[np.bool_], status: int) -> None:
    values[rows] = own.values[rows]
    statuses[rows] = np.where(np.isnan(own.values[rows]), MISSING, status)


def _fill(
    values: Floats,
    statuses: npt.NDArray[np.uint8],
    column: int,
    rows: npt.NDArray[np.bool_],
    found: Floats,
    status: int,
) -> None:
    empty = rows & np.isnan(values[:, column]) & ~np.isnan(found)
    values[empty, column] = found[empty]
    statuses[empty, column] = status
