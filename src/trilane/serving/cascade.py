"""The cascade for one request: each lane has one age for all of its rows, and is told when it is worse than promised.

Law: values and statuses are those of `trilane.features.cascade`, which is asked where not all is as promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.clock import format_duration
from trilane.features import cascade as steps
from trilane.features.algebra import Floats, Ints
from trilane.features.cascade import Bools
from trilane.features.view import View, stand_ins

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


def cascade(
    view: View,
    size: int,
    stored: Mapping[str, Own],
    long: Bools | None,
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
    others = {other.name: _of_rows(stored[other.name]) for other in stand_ins(view) if other.name in stored}
    if own is None:
        nothing = np.full((size, len(view.features)), np.nan)
        mine = steps.Own(nothing, np.zeros(size, np.int64), np.zeros(size, bool))
    else:
        mine = _of_rows(own, long if own.lack else None)
    found = steps.answered(view, mine, others, priors)
    return Answer(found.values, found.statuses, found.ages), _reasons(view, own, is_fresh=is_fresh)


def _of_rows(own: Own, long: Bools | None = None) -> steps.Own:
    rows = len(own.values)
    lacking = None if long is None else np.broadcast_to(long, own.values.shape)
    return steps.Own(own.values, np.full(rows, own.age), np.ones(rows, bool), lacking)


def _reasons(view: View, own: Own | None, *, is_fresh: bool) -> list[str]:
    """Why a view does not answer as promised."""
    if own is None:
        return ["no values yet"]
    behind = [] if is_fresh else [f"{own.age / 1e6:.0f} s behind, {format_duration(view.freshness)} promised"]
    return [*behind, own.lack] if own.lack else behind
