"""A trained model in LightGBM's or XGBoost's own format, as a runtime: its numbers are the library's own.

Law: the score of a row is the same bits in every batch, for both libraries sum its trees in one order.
"""

from __future__ import annotations

import numpy as np

from trilane.errors import ModelError
from trilane.models.runtime.protocol import TensorRuntime
from trilane.models.signature import Matrix, Scores, Signature
from trilane.models.tensor import DATATYPES

__all__ = ["BoostedRuntime"]


class BoostedRuntime:
    """`tensors`, opened from a model of one score, asked for the columns of `signature`."""

    def __init__(self, tensors: TensorRuntime, signature: Signature) -> None:
        (taken,), (given,) = tensors.inputs, tensors.outputs
        if taken.shape != (-1, signature.width) or given.shape != (-1,):
            raise ModelError(
                f"the model takes {list(taken.shape)} and gives {list(given.shape)}, not one score for"
                f" {signature.width} columns",
                where="the artifact",
                remedy="Train and pack it again",
            )
        self.signature, self._tensors, self._dtype = signature, tensors, DATATYPES[taken.datatype]

    def predict(self, matrix: Matrix) -> Scores:
        self.signature.check(matrix)
        (scores,) = self._tensors.run([np.ascontiguousarray(matrix, self._dtype)])
        return scores.astype(np.float64, copy=False)

    def close(self) -> None:
        self._tensors.close()
