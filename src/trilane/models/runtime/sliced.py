"""A runtime that is given large matrices in slices of the size at which it is fastest.

Law: the scores are those of the runtime itself, for none depends on the batch it is made in.
"""

from __future__ import annotations

import numpy as np

from trilane.models.runtime.protocol import Runtime
from trilane.models.signature import Matrix, Scores, Signature

__all__ = ["SlicedRuntime"]


class SlicedRuntime:
    """`runtime`, asked for at most `rows` rows at a time."""

    def __init__(self, runtime: Runtime, *, rows: int) -> None:
        self._runtime, self._rows = runtime, rows

    @property
    def signature(self) -> Signature:
        return self._runtime.signature

    def predict(self, matrix: Matrix) -> Scores:
        if len(matrix) <= self._rows or matrix.ndim != 2:
            return self._runtime.predict(matrix)
        scores = np.empty(len(matrix), np.float64)
        for start in range(0, len(matrix), self._rows):
            scores[start : start + self._rows] = self._runtime.predict(matrix[start : start + self._rows])
        return scores

    def close(self) -> None:
        self._runtime.close()
