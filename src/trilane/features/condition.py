"""Conditions on single events: which of them an aggregation looks at (`filter=`, `by=`, the bins of a histogram).

Law: a condition looks at one column of one event; where that is null, the condition does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from trilane.errors import DefinitionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trilane.features.algebra import Array

__all__ = ["Bucket", "Condition", "buckets_of", "is_true", "within"]

Bucket: TypeAlias = str | int
Kind: TypeAlias = Literal["true", "in", "not in", "from"]

_MOST_BUCKETS = 100
_TYPES: Mapping[Kind, tuple[str, ...]] = {
    "true": ("bool",),
    "in": ("string", "int64", "bool"),
    "not in": ("string", "int64", "bool"),
    "from": ("bool", "int64", "float64"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """`kind` "true": the column is; "in", "not in": of the values; "from": at least the first, below the second."""

    column: str
    kind: Kind
    values: tuple[Bucket | float | None, ...] = ()

    def check(self, kinds: Mapping[str, str]) -> None:
        """Raises DefinitionError where the transform's columns do not fit."""
        found, allowed = kinds.get(self.column), _TYPES[self.kind]
        wanted = {"string": str, "int64": int, "bool": int}.get(found or "")
        fits = self.kind in ("true", "from") or all(isinstance(v, wanted) for v in self.values if wanted)
        if found not in allowed or not fits:
            what = {"true": "filter=", "from": "a histogram"}.get(self.kind, "by=")
            raise DefinitionError(
                f"{what} cannot use {self.column!r}, {'no column' if found is None else 'a ' + found}"
                + ("" if fits else f", with the buckets {', '.join(map(repr, self.values))}"),
                remedy=f"Derive a column of {' or '.join(allowed)} in the transform, and name its own values",
            )

    def holds(self, values: Array, valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """For which events the condition holds, given the column's values (texts as keys) and validity."""
        import numpy as np  # declaring needs none, so that the package and the command line start at once

        from trilane.features.hashing import text_key

        if self.kind == "true":
            return np.asarray(valid & (values != 0))
        if self.kind == "from":
            low, high = (np.nan if isinstance(v, str) or v is None else v for v in self.values)
            numbers = values.astype(np.float64)
            return np.asarray(valid & ~(numbers < low) & ~(numbers >= high))  # what is compared with NaN is neither
        known = np.array([text_key(v) if isinstance(v, str) else int(v or 0) for v in self.values], np.int64)
        found = np.isin(values, known)
        return valid & (found if self.kind == "in" else ~found)

    def spec(self) -> list[object]:
        """The condition as plain facts."""
        return [self.column, self.kind, list(self.values)]


def is_true(column: str) -> Condition:
    """That the boolean `column` is true."""
    return Condition(column, "true")


def within(column: str, low: float | None, high: float | None) -> Condition:
    """That `column` lies in [low, high)."""
    return Condition(column, "from", (low, high))


def buckets_of(column: str, buckets: Sequence[Bucket] | Mapping[str, Bucket]) -> list[tuple[str, Condition]]:
    """Suffix and condition of each declared bucket, and of "other", which takes every other value."""
    named = dict(buckets) if isinstance(buckets, Mapping) else {str(value): value for value in buckets}
    if not 0 < len(named) <= _MOST_BUCKETS or "other" in named or len(named) != len(buckets):
        raise DefinitionError(
            f"by={column!r} has {len(buckets)} buckets, or one twice, or one called 'other'",
            remedy=f"Declare buckets=(...), 1 to {_MOST_BUCKETS} different values; all others fall into 'other'",
        )
    for suffix in named:
        if not f"_{suffix}".isidentifier():
            raise DefinitionError(
                f"the bucket {suffix!r} makes no name of a feature", remedy='Name it: buckets={"web": "Web shop"}'
            )
    found = [(suffix, Condition(column, "in", (value,))) for suffix, value in named.items()]
    return [*found, ("other", Condition(column, "not in", tuple(named.values())))]
