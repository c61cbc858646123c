"""LightGBM's own text models as runtimes of named tensors: what cannot be exported to ONNX, with LightGBM's own
numbers.

Laws: the score of a row is the same bits in every batch, since trees are summed row by row in one order; a file is
opened from the bytes that were checked (`trial`), for LightGBM ends the process over a broken one.
"""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError
from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import TensorSpec

__all__ = ["LightGbmTensors"]


class LightGbmTensors:
    """A booster of a text model: `features` FP64 [rows, columns] in, `score` FP64 [rows] or [rows, classes] out."""

    platform = "lightgbm_txt"

    def __init__(self, model: bytes) -> None:
        try:
            booster = lightgbm.Booster(model_str=model.decode())
            width, classes = booster.num_feature(), booster.num_model_per_iteration()
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise ModelError(
                f"LightGBM cannot open the model: {error}",
                where="model.txt",
                remedy="Write it again with Booster.save_model",
            ) from error
        self.inputs = (TensorSpec("features", "FP64", (-1, width)),)
        self.outputs = (TensorSpec("score", "FP64", (-1,) if classes == 1 else (-1, classes)),)
        self._booster: Any = booster

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        (matrix,) = inputs
        if self._booster is None:
            raise ModelError("the runtime is closed", where="inputs", remedy="Open the model again")
        if not len(matrix):  # LightGBM refuses a matrix without rows
            return [np.empty((0, *self.outputs[0].shape[1:]))]
        try:
            return [np.asarray(self._booster.predict(matrix, num_threads=1), np.float64)]
        except (lightgbm.basic.LightGBMError, ValueError) as error:
            raise ModelError(f"LightGBM cannot run the model: {error}", where="inputs") from error

    def close(self) -> None:
        self._booster = None
