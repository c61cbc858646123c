"""The declared cascade of worse values, decided per value at read.

Law: a value comes from the first step that has one; the lane's own value of a window that its history does not answer
for is no step, as it would count too much or too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.clock import format_duration
from trilane.features.algebra import Floats, Ints
from trilane.features.fallback import DEFAULT, FRESH, MISSING, PRIOR, STALE, STATUSES, constants_of
from trilane.features.view import LastBatch, Prior, Stale, View

__all__ = ["Answer", "Own", "Statuses", "cascade"]

Statuses: TypeAlias = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Answer:
    """The values of a view; `statuses` is None where all is as promised: then they are fresh, or missing if NaN."""

    values: Floats
    statuses: Statuses | None
    ages: Ints | int


@dataclass(frozen=True, slots=True)
class Own:
    """What a stored view answers by itself: values [rows, features], their age; and why its long windows have none."""

    age: int
    values: Floats
    lack: str = ""


@dataclass(frozen=True, slots=True)
class _Worse:
    """Values that the steps of a cascade fill in, one after another; `open`: the columns that still may be filled."""

    values: Floats
    statuses: Statuses
    ages: Ints
    open: npt.NDArray[np.bool_]

    def take(self, own: Own, columns: npt.NDArray[np.bool_], status: int) -> None:
        """Gives columns the lane's own values, missing ones included."""
        values = own.values[:, columns]
        self.values[:, columns] = values
        self.statuses[:, columns] = np.where(np.isnan(values), MISSING, status)
        self.ages[:, columns] = own.age
        self.open[columns] = False

    def fill(self, column: int, values: Floats, status: int, age: int) -> None:
        """Gives `values` to the rows of a column that have none yet."""
        if not self.open[column]:
            return
        empty = np.isnan(self.values[:, column]) & ~np.isnan(values)
        self.values[empty, column] = values[empty]
        self.statuses[empty, column] = status
        self.ages[empty, column] = age


def cascade(
    view: View,
    size: int,
    stored: Mapping[str, Own],
    long: npt.NDArray[np.bool_] | None,
    priors: Mapping[str, float],
) -> tuple[Answer, list[str]]:
    """The answer of a view for `size` rows, and why it is worse than promised, if it is.

    `stored`: what each stored view answers by itself; `long`: which features need a history, of a view that has one;
    `priors`: what is usual, by `view.feature`.
    """
    own = stored.get(view.name)
    is_fresh = own is not None and own.age <= view.freshness
    if own is not None and is_fresh and not own.lack:
        return Answer(own.values, None, own.age), []
    shape = (size, len(view.features))
    open_ = np.ones(shape[1], bool)
    statuses, ages = np.full(shape, MISSING, np.uint8), np.zeros(shape, np.int64)
    worse = _Worse(np.full(shape, np.nan), statuses, ages, open_)
    good = ~long if own is not None and own.lack and long is not None else open_.copy()
    if own is not None and is_fresh:  # but for its long windows
        worse.take(own, good, FRESH)
    for step in view.fallback:
        if isinstance(step, Stale):
            if own is not None and not is_fresh and own.age <= step.max_age:
                worse.take(own, good, STALE)
        elif isinstance(step, LastBatch):
            _stand_in(view, step, stored.get(step.view.name), worse)
        else:
            found = constants_of(view, step, priors)
            for column, value in found.items():
                worse.fill(column, np.full(size, value), PRIOR if isinstance(step, Prior) else DEFAULT, 0)
    return Answer(worse.values, worse.statuses, worse.ages), _reasons(view, own, is_fresh=is_fresh)


def _stand_in(view: View, step: LastBatch, batch: Own | None, worse: _Worse) -> None:
    if batch is None or not step.is_within(batch.age):
        return
    names = step.view.feature_names
    for column, name in enumerate(view.feature_names):
        source = step.source_of(name)
        if source in names:
            worse.fill(column, batch.values[:, names.index(source)], STATUSES.index(step.status), batch.age)


def _reasons(view: View, own: Own | None, *, is_fresh: bool) -> list[str]:
    """Why a view does not answer as promised."""
    if own is None:
        return ["no values yet"]
    behind = [] if is_fresh else [f"{own.age / 1e6:.0f} s behind, {format_duration(view.freshness)} promised"]
    return [*behind, own.lack] if own.lack else behind
