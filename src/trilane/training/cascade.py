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
from trilane.features.fallback import DEFAULT, FRESH, MISSING, PRIOR, STALE, STATUSES, constants_of
from trilane.features.view import LastBatch, Prior, Stale, View

__all__ = ["Answered", "Own", "cascade"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Own:
    """What a stored view itself has at each row: values [rows, features], age in microseconds, whether it has any."""

    values: Floats
    ages: Ints
    there: Bools


@dataclass(frozen=True, slots=True)
class Answered:
    """What serving would have answered: values, statuses and ages in microseconds [rows, features]."""

    values: Floats
    statuses: npt.NDArray[np.uint8]
    ages: Ints

    def take(self, own: Own, rows: Bools, status: int) -> None:
        """Gives rows the lane's own values, missing ones included."""
        values = own.values[rows]
        self.values[rows] = values
        self.statuses[rows] = np.where(np.isnan(values), MISSING, status)
        self.ages[rows] = own.ages[rows][:, None]

    def fill(self, column: int, rows: Bools, found: Floats, status: int, ages: Ints) -> None:
        """Gives `found` to those of the rows that have no value yet."""
        empty = rows & np.isnan(self.values[:, column]) & ~np.isnan(found)
        self.values[empty, column] = found[empty]
        self.statuses[empty, column] = status
        self.ages[empty, column] = ages[empty]


def cascade(view: View, own: Own, stand_ins: Mapping[str, Own], priors: Mapping[str, float]) -> Answered:
    """The answers; `stand_ins`: the batch views that the cascade names; `priors`: what is usual, by `view.feature`."""
    shape = own.values.shape
    answered = Answered(np.full(shape, np.nan), np.full(shape, MISSING, np.uint8), np.zeros(shape, np.int64))
    fresh = own.there & (own.ages <= view.freshness)
    answered.take(own, fresh, FRESH)
    left = ~fresh
    for step in view.fallback:
        if not left.any():
            break
        if isinstance(step, Stale):
            stale = left & own.there & (own.ages <= step.max_age)
            answered.take(own, stale, STALE)
            left &= ~stale
        elif isinstance(step, LastBatch):
            batch, names = stand_ins[step.view.name], step.view.feature_names
            usable = left & batch.there
            if step.max_age is not None:
                usable &= batch.ages <= step.max_age
            for column, name in enumerate(view.feature_names):
                source = step.source_of(name)
                if source in names:
                    found = batch.values[:, names.index(source)]
                    answered.fill(column, usable, found, STATUSES.index(step.status), batch.ages)
        else:
            status = PRIOR if isinstance(step, Prior) else DEFAULT
            for column, value in constants_of(view, step, priors).items():
                answered.fill(column, left, np.full(len(left), value), status, np.zeros(len(left), np.int64))
    return answered
