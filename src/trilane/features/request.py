"""Request views computed on columns: the same function on the rows of a request and on a training set.

Law: rows are independent. The function sees NumPy columns and must return, for each declared feature, as many values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trilane.errors import DefinitionError
from trilane.features.algebra import Array, Floats
from trilane.features.view import View
from trilane.types import Field

__all__ = ["as_column", "compute"]


def as_column(field: Field, values: Sequence[object]) -> Array:
    """The NumPy column of a request input: strings as objects, instants as int64 microseconds, null as NaN."""
    if field.dtype.name == "string":
        return np.array(values, dtype=object)
    if field.dtype.name == "timestamp":
        if any(v is None for v in values):
            return np.array([np.nan if v is None else _microseconds(v) for v in values], np.float64)
        return np.array([_microseconds(v) for v in values], np.int64)
    if field.nullable or field.dtype.name == "float64":
        return np.array([np.nan if v is None else v for v in values], np.float64)
    return np.array(values, field.dtype.numpy)


def _microseconds(value: object) -> int:
    return value if isinstance(value, int) else round(value.timestamp() * 1e6)  # type: ignore[attr-defined]


def compute(view: View, columns: Mapping[str, Array], size: int) -> Floats:
    """The features of a request view as float64 [size, features]; NaN where missing.

    Raises DefinitionError where the author's function fails or breaks its declaration.
    """
    where = f"request view {view.name!r}"
    try:
        with np.errstate(all="ignore"):
            result = view.function(columns)
    except Exception as error:
        raise DefinitionError(
            f"the function raised {type(error).__name__}: {error}",
            where=where,
            remedy="Fix it",
            file=view.place,
        ) from error
    if not isinstance(result, Mapping) or set(result) != set(view.feature_names):
        returned = ", ".join(sorted(result)) if isinstance(result, Mapping) else type(result).__name__
        raise DefinitionError(
            f"the function returned {returned}",
            where=where,
            remedy=f"Return a mapping with exactly {', '.join(view.feature_names)}",
            file=view.place,
        )
    answers = np.empty((size, len(view.features)))
    for position, name in enumerate(view.feature_names):
        values = np.asarray(result[name])
        if values.shape not in ((size,), ()):
            raise DefinitionError(
                f"feature {name!r} has shape {values.shape}, not ({size},)",
                where=where,
                remedy="Return one value for each row",
                file=view.place,
            )
        try:
            answers[:, position] = values
        except (TypeError, ValueError) as error:
            raise DefinitionError(
                f"feature {name!r} is no number: {error}",
                where=where,
                remedy="Return numbers",
                file=view.place,
            ) from error
    return answers
