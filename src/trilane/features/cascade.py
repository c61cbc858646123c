"""The declared cascade of worse values, decided per value: at read for a request, and for the rows of a training set.

Law: a value comes from the first step that has one; the lane's own value of a window that its history does not answer
for is no step, as it would count too much or too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import DEFAULT, FRESH, MISSING, PRIOR, STALE, STATUSES, constants_of
from trilane.features.view import LastBatch, Prior, Stale, View

__all__ = ["Answered", "Bools", "Own", "answered"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Own:
    """What a stored view itself has at each row: values [rows, features], age in microseconds, whether it has any.

    `lacking` [rows, features]: which values no history answers for; None: none.
    """

    values: Floats
    ages: Ints
    there: Bools
    lacking: Bools | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What serving answers: values, statuses and ages in microseconds [rows, features]; `open`: which may still come
    from a later step.
    """

    values: Floats
    statuses: npt.NDArray[np.uint8]
    ages: Ints
    open: Bools

    def take(self, own: Own, rows: Bools, status: int) -> None:
        """Gives rows the lane's own values, missing ones included, but for those that it lacks."""
        cells = self.open & rows[:, None]
        if own.lacking is not None:
            cells &= ~own.lacking
        np.copyto(self.values, own.values, where=cells)
        np.copyto(self.statuses, np.where(np.isnan(own.values), MISSING, status).astype(np.uint8), where=cells)
        np.copyto(self.ages, own.ages[:, None], where=cells)
        self.open[cells] = False

    def fill(self, column: int, rows: Bools | bool, found: Floats, status: int, ages: Ints) -> None:
        """Gives `found` to those of the rows that have no value yet."""
        empty = self.open[:, column] & rows & np.isnan(self.values[:, column]) & ~np.isnan(found)
        self.values[empty, column] = found[empty]
        self.statuses[empty, column] = status
        self.ages[empty, column] = ages[empty]


def answered(view: View, own: Own, stand_ins: Mapping[str, Own], priors: Mapping[str, float]) -> Answered:
    """The answers; `stand_ins`: the batch views that the cascade names, of those that have values; `priors`: what is
    usual, by `view.feature`.
    """
    shape = own.values.shape
    found = Answered(
        np.full(shape, np.nan), np.full(shape, MISSING, np.uint8), np.zeros(shape, np.int64), np.ones(shape, bool)
    )
    fresh = own.there & (own.ages <= view.freshness)
    found.take(own, fresh, FRESH)
    for step in view.fallback:
        if not found.open.any():
            break
        if isinstance(step, Stale):
            found.take(own, own.there & ~fresh & (own.ages <= step.max_age), STALE)
        elif isinstance(step, LastBatch):
            if step.view.name in stand_ins:
                _stand_in(view, step, stand_ins[step.view.name], found)
        else:
            status, ages = PRIOR if isinstance(step, Prior) else DEFAULT, np.zeros(shape[0], np.int64)
            for column, value in constants_of(view, step, priors).items():
                found.fill(column, True, np.full(shape[0], value), status, ages)
    return found


def _stand_in(view: View, step: LastBatch, batch: Own, found: Answered) -> None:
    usable = batch.there if step.max_age is None else batch.there & (batch.ages <= step.max_age)
    names = step.view.feature_names
    for column, name in enumerate(view.feature_names):
        source = step.source_of(name)
        if source in names:
            found.fill(column, usable, batch.values[:, names.index(source)], STATUSES.index(step.status), batch.ages)
