"""Request views computed on columns: the same function on the rows of a request and on a training set.

Laws: rows are independent, also in the type of a column, which follows from the declaration and not from the rows that
happen to be there. The function sees NumPy columns of its own, and must return a value of each feature for each row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from msgspec.structs import astuple

from trilane.clock import instant
from trilane.errors import DefinitionError
from trilane.features.algebra import Array, Floats
from trilane.features.view import View
from trilane.types import Field

__all__ = ["RowColumns", "as_column", "compute"]

_FLOAT64 = np.dtype(np.float64)


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


class RowColumns:
    """Takes the columns of `fields` out of rows, each as `as_column` has it; those of floats are made together."""

    def __init__(self, fields: Sequence[Field]) -> None:
        floats = tuple(field.name for field in fields if field.dtype.name == "float64")
        self._fields, self._floats = tuple(fields), floats if len(floats) > 1 else ()
        self._getter: Callable[[Any], tuple[float | None, ...]] = attrgetter(*floats) if self._floats else astuple
        self._pack = struct.Struct(f"={len(self._floats)}d").pack

    def of(self, rows: Sequence[Any]) -> dict[str, Array]:
        """The columns, in the order of the fields: new ones, that nobody else has."""
        together = self._together(rows) if self._floats and rows else {}
        if len(together) == len(self._fields):
            return together
        return {
            field.name: together[field.name]
            if field.name in together
            else as_column(field, [getattr(row, field.name) for row in rows])
            for field in self._fields
        }

    def _together(self, rows: Sequence[Any]) -> dict[str, Array]:
        names, pack = self._floats, self._pack
        get = astuple if rows[0].__struct_fields__ == names else self._getter
        try:  # in one block: of few rows a call for each column costs more than its numbers
            block = np.frombuffer(b"".join([pack(*get(row)) for row in rows])).reshape(len(rows), len(names))
        except struct.error:  # None, which becomes NaN
            block = np.array(list(map(get, rows)), np.float64)
        return dict(zip(names, block.T.copy(), strict=True))


def compute(view: View, columns: Mapping[str, Array], size: int, *, own: bool = False) -> Floats:
    """The features of a request view as float64 [size, features]; NaN where missing.

    `own`: nobody else reads the columns, so that the author's function may as well write into them. Raises
    DefinitionError where the author's function fails or breaks its declaration.
    """
    where, names = f"request view {view.name!r}", view.feature_names
    try:
        with np.errstate(all="ignore"):
            result = view.function(columns if own else {name: column.copy() for name, column in columns.items()})
    except (Exception, SystemExit) as error:
        raise DefinitionError(
            f"the function raised {type(error).__name__}: {error}",
            where=where,
            remedy="Fix it",
            file=view.place,
        ) from error
    if not isinstance(result, Mapping) or result.keys() != set(names):
        returned = ", ".join(sorted(map(str, result))) if isinstance(result, Mapping) else type(result).__name__
        raise DefinitionError(
            f"the function returned {returned}",
            where=where,
            remedy=f"Return a mapping with exactly {', '.join(names)}",
            file=view.place,
        )
    found, shape = list[Floats](), (size,)
    for name in names:
        values = result[name]
        if type(values) is np.ndarray and values.dtype == _FLOAT64 and values.shape == shape:
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
        found.append(np.broadcast_to(values, shape))
    if not found:
        return np.empty((size, 0))
    return np.concatenate(found).reshape(len(found), size).T.copy()  # as np.stack gives it, in a third of its time


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
