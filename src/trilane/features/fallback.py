"""Statuses of a feature value, and the declared cascade of worse values.

Law: the cascade is decided at read, per value, by ages alone: the lane's value while it is fresh, then each step in
order; the first that has a value gives it, with its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, overload

from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError
from trilane.features import aggregation
from trilane.features.aggregation import Aggregation, Scope
from trilane.features.view import Constant, LastBatch, Stale, Step, View

__all__ = ["STATUSES", "check_cascade", "default", "last", "stale"]

STATUSES = ("fresh", "stale", "batch", "default", "missing")
FRESH, STALE, BATCH, DEFAULT, MISSING = range(5)


def stale(*, max_age: str | int) -> Stale:
    """The lane's own value, marked stale, while it is at most `max_age` old."""
    return Stale(duration(max_age))


def default() -> Constant:
    """Each feature's own `default=`; where it has none, the value is missing."""
    return Constant()


@overload
def last(subject: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation: ...
@overload
def last(subject: View, *, max_age: str | int, features: Mapping[str, str] | None = None) -> LastBatch: ...
def last(
    subject: str | View,
    *,
    window: str | int | None = "",
    max_age: str | int | None = None,
    features: Mapping[str, str] | None = None,
    **scope: Unpack[Scope],
) -> Aggregation | LastBatch:
    """Of a column: its value at the latest event in a window. Of a batch view: a fallback to its last landed values.

    `features` maps a feature's name to the batch feature that stands in for it, where the names differ.
    """
    if isinstance(subject, str):
        if window == "":
            raise DefinitionError("last of a column needs a window", where=subject, remedy='Add window="24h"')
        return aggregation.last(subject, window=window, **scope)
    if max_age is None:
        raise DefinitionError("last of a view needs max_age", where=subject.name, remedy='Add max_age="36h"')
    return LastBatch(subject, duration(max_age), dict(features or {}))


def check_cascade(view_name: str, features: tuple[str, ...], freshness: int, steps: tuple[Step, ...]) -> None:
    """Refuses a cascade that cannot work: no batch view, unknown stand-ins, a step that can never be reached."""
    where = f"view {view_name!r}"
    for position, step in enumerate(steps):
        if isinstance(step, Constant) and position != len(steps) - 1:
            raise DefinitionError("nothing can follow tl.default()", where=where, remedy="Put tl.default() last")
        if isinstance(step, Stale) and (position or step.max_age <= freshness):
            raise DefinitionError(
                f"tl.stale(max_age={format_duration(step.max_age)!r}) must come first and exceed the freshness of "
                f"{format_duration(freshness)}",
                where=where,
                remedy="Move it to the front with a larger max_age",
            )
        if isinstance(step, LastBatch):
            _check_stand_ins(where, features, step)


def _check_stand_ins(where: str, features: tuple[str, ...], step: LastBatch) -> None:
    if step.view.lane != "batch":
        raise DefinitionError(
            f"{step.view.name!r} is a {step.view.lane} view", where=where, remedy="Fall back to a batch view"
        )
    known = {feature.name for feature in step.view.features}
    for name, stand_in in step.names.items():
        if name not in features or stand_in not in known:
            raise DefinitionError(
                f"the fallback maps {name!r} to {stand_in!r}, and one of them does not exist",
                where=where,
                remedy=f"Map {', '.join(features)} to {', '.join(sorted(known))}",
            )
    if not any(step.source_of(name) in known for name in features):
        raise DefinitionError(
            f"no feature of {step.view.name!r} stands in for any of {', '.join(features)}",
            where=where,
            remedy='Add features={"name": "name in the batch view"}',
        )
