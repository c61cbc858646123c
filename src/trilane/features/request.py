"""Request views computed on columns: the same function on the rows of a request and on a training set.

Laws: rows are independent, also in the type of a column, which follows from the declaration and not from the rows that
happen to be there. The function sees NumPy columns of its own, and must return a value of each feature for each row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

import numpy as np

from trilane.clock import instant
from trilane.errors import DefinitionError
from trilane.features.algebra import Array, Floats
from trilane.features.view import View
from trilane.types import Field

__all__ = ["as_column", "as_columns", "compute"]


def as_column(field: Field, values: Sequence[object] | Array) -> Array:
    """The NumPy column of a request input: strings as objects, instants as int64 microseconds.

    What may be null is float64 with NaN for null, strings aside. What is a NumPy column already is one of these.
    """
    if isinstance(values, np.ndarray):
        return values
    if field.dtype.name == "string":
        return np.array(values, dtype=object)
    if field.dtype.name == "timestamp":
        kind = np.float64 if field.nullable else np.int64
        return np.array([np.nan if v is None else instant(v) for v in values], kind)  # type: ignore[arg-type]
    if field.nullable or field.dtype.name == "float64":
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array(values, field.dtype.numpy)


def as_columns(fields: Sequence[Field], rows: Sequence[object]) -> dict[str, Array]:
    """The columns of what `rows` hold, each as `as_column` has it; those of floats are made together."""
    floats = tuple(field.name for field in fields if field.dtype.name == "float64")
    together: dict[str, Array] = {}
    if len(floats) > 1 and rows:
        # In one call: of a few rows a call for each column costs more than its numbers. None becomes NaN.
        block = np.ascontiguousarray(np.array(list(map(_getter(floats), rows)), np.float64).T)
        together = dict(zip(floats, block, strict=True))
    return {
        field.name: together[field.name]
        if field.name in together
        else as_column(field, [getattr(row, field.name) for row in rows])
        for field in fields
    }


@functools.lru_cache(256)
def _getter(names: tuple[str, ...]) -> Callable[[object], tuple[float | None, ...]]:
    return attrgetter(*names)


def compute(view: View, columns: Mapping[str, Array], size: int) -> Floats:
    """The features of a request view as float64 [size, features]; NaN where missing.

    Raises DefinitionError where the author's function fails or breaks its declaration.
    """
    where = f"request view {view.name!r}"
    try:
        with np.errstate(all="ignore"):
            # Copies, for an author may well write into them, and others read these columns too.
            result = view.function({name: column.copy() for name, column in columns.items()})
    except (Exception, SystemExit) as error:
        raise DefinitionError(
            f"the function raised {type(error).__name__}: {error}",
            where=where,
            remedy="Fix it",
            file=view.place,
        ) from error
    if not isinstance(result, Mapping) or set(result) != set(view.feature_names):
        returned = ", ".join(sorted(map(str, result))) if isinstance(result, Mapping) else type(result).__name__
        raise DefinitionError(
            f"the function returned {returned}",
            where=where,
            remedy=f"Return a mapping with exactly {', '.join(view.feature_names)}",
            file=view.place,
        )
    found: list[Floats] = []
    for name in view.feature_names:
        values = result[name]
        if type(values) is np.ndarray and values.dtype == np.float64 and values.shape == (size,):
            found.append(values)
            continue
        values = _as_array(view, name, values)
        if values.shape not in ((size,), ()):
            raise DefinitionError(
                f"feature {name!r} has shape {values.shape}, not ({size},)",
                where=where,
                remedy="Return one value for each row",
                file=view.place,
            )
        found.append(np.broadcast_to(values, (size,)))
    return np.stack(found, axis=1) if found else np.empty((size, 0))


def _as_array(view: View, name: str, returned: object) -> Floats:
    try:
        values = np.asarray(returned)
        if values.dtype.kind not in "biufO":
            raise TypeError(f"it is of type {values.dtype}")
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            f"feature {name!r} is no number: {error}",
            where=f"request view {view.name!r}",
            remedy="Return numbers",
            file=view.place,
        ) from error
