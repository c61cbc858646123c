"""Aggregations as the author declares them: what to compute, of which column, over which window.

What each keeps and how it merges is `trilane.features.operation`. Law: every feature is one number; an aggregation with
several answers is declared as a family, whose members become features of their own, named `name_suffix`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

from trilane.errors import DefinitionError
from trilane.features.condition import Bucket, Condition, buckets_of, is_true
from trilane.features.window import Window

__all__ = ["Aggregation", "Scope", "count", "first", "last", "max", "mean", "min", "stddev", "sum", "variance"]

_NUMERIC = ("bool", "int64", "float64")
_ORDERED = (*_NUMERIC, "timestamp")
_KEYED = (*_ORDERED, "string")
_ALLOWED = {
    **dict.fromkeys(("min", "max", "first", "last", "first_k", "last_k", "top_k", "bottom_k"), _ORDERED),
    **dict.fromkeys(("distinct", "approx_distinct", "frequent_count", "frequent_share"), _KEYED),
    "frequent_item": _ORDERED,
}
_ANY_COLUMN = ("count", "decayed_count", "time_since_last", "ratio", "rate")
_COUNTS = ("count", "distinct", "frequent_count")
_SAME = ("min", "max", "first", "last", "first_k", "last_k", "top_k", "bottom_k", "frequent_item")


class Scope(TypedDict, total=False):
    """What every aggregation takes besides.

    `hop`: a finer step of the window's tail; `max_overhang`: by which part of its length the window may reach back too
    far, which picks the hop; `default`: the value where there is none; `filter`: a boolean column of
    the transform, only whose true rows count; `by` and `buckets`: one feature for each of the declared values of a
    column, and one for all others.
    """

    hop: str | int | None
    max_overhang: float | None
    default: float | None
    filter: str | None
    by: str | None
    buckets: Sequence[Bucket] | Mapping[str, Bucket]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One declared aggregation. `default` answers for a window without a value; without it the answer is missing.

    `where`: the conditions under which an event counts; `options`: what else determines the value; `over`: the
    aggregations that a rate or a ratio is computed from; `family`: suffix and member, of an aggregation with several
    answers.
    """

    op: str
    column: str | None
    window: Window
    default: float | None = None
    where: tuple[Condition, ...] = ()
    options: tuple[tuple[str, float | int], ...] = ()
    over: tuple[Aggregation, ...] = ()
    family: tuple[tuple[str, Aggregation], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the transform that the aggregation looks at."""
        own = () if self.column is None else (self.column,)
        inner = [name for aggregation in self.over for name in aggregation.columns]
        return tuple(dict.fromkeys((*own, *(condition.column for condition in self.where), *inner)))

    def members(self, name: str) -> list[tuple[str, Aggregation]]:
        """Name and aggregation of each feature that `name` stands for."""
        if not self.family:
            return [(name, self)]
        return [(f"{name}_{suffix}", member) for suffix, member in self.family]

    def result_type(self, column_type: str | None) -> str:
        """The name of the result's type, given the column's. Raises DefinitionError where they do not fit."""
        if self.op in _ANY_COLUMN:
            return "int64" if self.op == "count" else "float64"
        allowed = _ALLOWED.get(self.op, _NUMERIC)
        if column_type is None or column_type not in allowed:
            raise DefinitionError(
                f"{self.op} of {self.column!r}, a {column_type}, is not defined",
                remedy=f"Aggregate a column of {', '.join(allowed)}, or derive one in the transform",
            )
        if self.op == "sum":
            return "float64" if column_type == "float64" else "int64"
        if self.op in _COUNTS:
            return "int64"
        return column_type if self.op in _SAME else "float64"

    def spec(self) -> dict[str, object]:
        """What determines the value, as plain facts."""
        facts: dict[str, object] = {
            "op": self.op,
            "column": self.column,
            "window": self.window.length,
            "hop": self.window.hop,
            "default": self.default,
        }
        if self.where:
            facts["where"] = [condition.spec() for condition in self.where]
        if self.options:
            facts["options"] = dict(self.options)
        if self.over:
            facts["over"] = [aggregation.spec() for aggregation in self.over]
        return facts


def declare(
    op: str, column: str | None, window: str | int | Window | None, scope: Scope, **options: float | int
) -> Aggregation:
    """An aggregation with the conditions and the buckets of `scope`."""
    span = (
        window
        if isinstance(window, Window)
        else Window.of(window, hop=scope.get("hop"), max_overhang=scope.get("max_overhang"))
    )
    condition = scope.get("filter")
    where = () if condition is None else (is_true(condition),)
    plain = Aggregation(op, column, span, scope.get("default"), where, tuple(options.items()))
    return bucketed(plain, scope)


def bucketed(plain: Aggregation, scope: Scope) -> Aggregation:
    """A family of `plain` by the buckets of `scope`, if it has any."""
    by, buckets = scope.get("by"), scope.get("buckets", ())
    if by is None:
        if buckets:
            raise DefinitionError("there are buckets= of no column", remedy='Add by="column"')
        return plain
    if plain.family or plain.over:
        raise DefinitionError(
            f"{plain.op} has several answers or parts already, and cannot also go by={by!r}",
            remedy="Declare one aggregation with filter= for each bucket",
        )
    members = [
        (suffix, dataclasses.replace(plain, where=(*plain.where, condition)))
        for suffix, condition in buckets_of(by, buckets)
    ]
    return dataclasses.replace(plain, family=tuple(members))


def count(column: str | None = None, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Number of events, or of events whose `column` is not null. Never missing: an empty window counts 0."""
    return declare("count", column, window, {**scope, "default": 0})


def sum(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Exact sum of `column`; missing, or `default`, where the window has no value."""
    return declare("sum", column, window, scope)


def mean(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Arithmetic mean of `column`, from its exact sum."""
    return declare("mean", column, window, scope)


def min(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Smallest value of `column`."""
    return declare("min", column, window, scope)


def max(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Largest value of `column`."""
    return declare("max", column, window, scope)


def first(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Value of `column` at the earliest event time; of several at the same instant, the smallest."""
    return declare("first", column, window, scope)


def last(column: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation:
    """Value of `column` at the latest event time; of several at the same instant, the largest."""
    return declare("last", column, window, scope)


def variance(column: str, *, window: str | int | None, sample: bool = False, **scope: Unpack[Scope]) -> Aggregation:
    """Population variance of `column` (with `sample=True` the sample variance, missing below two values)."""
    return declare("variance_sample" if sample else "variance", column, window, scope)


def stddev(column: str, *, window: str | int | None, sample: bool = False, **scope: Unpack[Scope]) -> Aggregation:
    """Square root of the variance of `column`."""
    return declare("stddev_sample" if sample else "stddev", column, window, scope)
