"""The typed inputs and outputs of a model, and the check of a matrix against them.

Law: the columns of the input matrix are the inputs of the signature, in its order; NaN is a value (missing), so it
passes.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from trilane.errors import ModelError

__all__ = ["Column", "Matrix", "Scores", "Signature"]

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]


class Column(msgspec.Struct, frozen=True, array_like=True):
    """A named column and its NumPy dtype."""

    name: str
    dtype: str = "float32"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes in and what comes out; JSON by `msgspec.json`, in both directions.

    >>> signature = Signature.of(["hour", "distance"])
    >>> msgspec.json.encode(signature)
    b'{"inputs":[["hour","float32"],["distance","float32"]],"outputs":[["score","float64"]]}'
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...] = (Column("score", "float64"),)

    def __post_init__(self) -> None:
        names = [column.name for column in self.inputs]
        if not names or len(set(names)) < len(names):
            raise ModelError(
                "a signature needs input columns, each with a name of its own",
                where=", ".join(names),
                remedy="Name every feature once",
            )

    @classmethod
    def of(cls, names: list[str] | tuple[str, ...]) -> Signature:
        """The signature of a model that turns these float32 columns into one score."""
        return cls(tuple(Column(name) for name in names))

    @property
    def width(self) -> int:
        """The number of input columns."""
        return len(self.inputs)

    def check(self, matrix: NDArray[np.generic]) -> None:
        """Raises ModelError if `matrix` is not float32 of shape [rows, width]."""
        if matrix.ndim != 2 or matrix.shape[1] != self.width:
            shown = ", ".join(column.name for column in self.inputs)
            raise ModelError(
                f"the model takes {self.width} columns, the matrix has shape {list(matrix.shape)}",
                where="features",
                remedy=f"Give one row per answer, with the columns {shown}",
            )
        if matrix.dtype != np.float32:
            raise ModelError(
                f"the model takes float32, the matrix is {matrix.dtype}",
                where="features",
                remedy="Convert it with `.astype(numpy.float32)`",
            )
