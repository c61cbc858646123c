"""Ages and statuses of many values at once: as columns of the matrix that a model gets, and the worst of them.

Law: serving and training ask this one function, so that equal ages and statuses are equal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import BATCH, DEFAULT, FRESH, PRIOR, STALE, STATUSES
from trilane.features.plan import Column, FeaturePlan

__all__ = ["told", "worst_of"]

Statuses: TypeAlias = npt.NDArray[np.uint8]

_BY_BADNESS = np.array([FRESH, STALE, BATCH, PRIOR, DEFAULT], np.uint8)
_BADNESS = np.array([0, 1, 2, 4, 0, 3], np.uint8)  # by status


def worst_of(statuses: Statuses) -> Statuses:
    """Of each row [rows, values] the worst status; a missing value may be an answer, and counts as fresh."""
    return np.asarray(_BY_BADNESS[_BADNESS[statuses].max(axis=1)], np.uint8)


def told(plan: FeaturePlan, statuses: Statuses, ages: Ints, lanes: Mapping[str, Ints | Floats | float]) -> Floats:
    """The traits of a plan [rows, traits], of answers [rows, features of all views].

    `ages` of the answers and `lanes`, the age of each view's lane (one, or of each row; none of a lane without values),
    are in microseconds.
    """
    starts = plan.starts
    found = np.full((len(statuses), len(plan.traits)), np.nan)
    for place, column in enumerate(plan.traits):
        found[:, place] = _one(column, starts[column.view.name], statuses, ages, lanes)
    return found


def _one(
    column: Column, start: int, statuses: Statuses, ages: Ints, lanes: Mapping[str, Ints | Floats | float]
) -> Floats | float:
    view, position, trait = column
    if position is None:
        return np.asarray(lanes.get(view.name, np.nan), np.float64) / 1e6
    codes = statuses[:, start + position]
    if trait != "age_s":
        return np.asarray(codes == STATUSES.index(trait.removeprefix("is_")), np.float64)
    # What is usual has no age, however old the version is that it was taken from.
    return np.where(np.isin(codes, (FRESH, STALE, BATCH)), ages[:, start + position] / 1e6, np.nan)
