"""Aggregations as the author declares them: what to compute, of which column, over which window.

What each keeps and how it merges is `trilane.features.algebra`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trilane.errors import DefinitionError
from trilane.features.window import Window

__all__ = ["Aggregation", "count", "first", "last", "max", "mean", "min", "stddev", "sum", "variance"]

_NUMERIC = ("bool", "int64", "float64")
_ORDERED = (*_NUMERIC, "timestamp")


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One declared aggregation. `default` answers for a window without a value; without it the answer is missing."""

    op: str
    column: str | None
    window: Window
    default: float | None = None

    def result_type(self, column_type: str | None) -> str:
        """The name of the result's type, given the column's. Raises DefinitionError where they do not fit."""
        if self.op == "count":
            return "int64"
        allowed = _ORDERED if self.op in ("min", "max", "first", "last") else _NUMERIC
        if column_type is None or column_type not in allowed:
            raise DefinitionError(
                f"{self.op} of {self.column!r}, a {column_type}, is not defined",
                remedy=f"Aggregate a column of {', '.join(allowed)}, or derive one in the transform",
            )
        if self.op == "sum":
            return "float64" if column_type == "float64" else "int64"
        return column_type if self.op in ("min", "max", "first", "last") else "float64"

    def spec(self) -> dict[str, object]:
        """What determines the value, as plain facts."""
        return {
            "op": self.op,
            "column": self.column,
            "window": self.window.length,
            "hop": self.window.hop,
            "default": self.default,
        }


def _declare(
    op: str, column: str | None, window: str | int, hop: str | int | None, default: float | None
) -> Aggregation:
    return Aggregation(op, column, Window.of(window, hop=hop), default)


def count(column: str | None = None, *, window: str | int, hop: str | int | None = None) -> Aggregation:
    """Number of events, or of events whose `column` is not null. Never missing: an empty window counts 0."""
    return _declare("count", column, window, hop, 0)


def sum(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Exact sum of `column`; missing, or `default`, where the window has no value."""
    return _declare("sum", column, window, hop, default)


def mean(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Arithmetic mean of `column`, from its exact sum."""
    return _declare("mean", column, window, hop, default)


def min(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Smallest value of `column`."""
    return _declare("min", column, window, hop, default)


def max(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Largest value of `column`."""
    return _declare("max", column, window, hop, default)


def first(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Value of `column` at the earliest event time; of several at the same instant, the smallest."""
    return _declare("first", column, window, hop, default)


def last(column: str, *, window: str | int, hop: str | int | None = None, default: float | None = None) -> Aggregation:
    """Value of `column` at the latest event time; of several at the same instant, the largest."""
    return _declare("last", column, window, hop, default)


def variance(
    column: str,
    *,
    window: str | int,
    sample: bool = False,
    hop: str | int | None = None,
    default: float | None = None,
) -> Aggregation:
    """Population variance of `column` (with `sample=True` the sample variance, missing below two values)."""
    return _declare("variance_sample" if sample else "variance", column, window, hop, default)


def stddev(
    column: str,
    *,
    window: str | int,
    sample: bool = False,
    hop: str | int | None = None,
    default: float | None = None,
) -> Aggregation:
    """Square root of the variance of `column`."""
    return _declare("stddev_sample" if sample else "stddev", column, window, hop, default)
