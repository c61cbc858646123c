"""XGBoost's own models (JSON or UBJSON) as runtimes of named tensors.

Laws: as for LightGBM: a row's score is the same bits in every batch, and a file is opened from the bytes that were
checked (`trial`), for XGBoost ends the process over some broken ones.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from trilane.errors import ModelError
from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import TensorSpec

__all__ = ["XgboostTensors", "classes_of"]


class XgboostTensors:
    """A booster: `features` FP32 [rows, columns] in, `score` FP32 [rows] or [rows, classes] out; NaN is missing."""

    platform = "xgboost_json"

    def __init__(self, model: bytes) -> None:
        try:
            booster = xgboost.Booster({"nthread": 1})
            booster.load_model(bytearray(model))
            booster.set_param({"nthread": 1})  # the model's own configuration came with it
            width, classes = booster.num_features(), classes_of(booster)
        except (xgboost.core.XGBoostError, ValueError, KeyError) as error:
            raise ModelError(
                f"XGBoost cannot open the model: {str(error).splitlines()[0]}",
                where="model",
                remedy="Write it again with Booster.save_model, as .json or .ubj",
            ) from error
        self.inputs = (TensorSpec("features", "FP32", (-1, width)),)
        self.outputs = (TensorSpec("score", "FP32", (-1,) if classes == 1 else (-1, classes)),)
        self._booster: Any = booster

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        (matrix,) = inputs
        if self._booster is None:
            raise ModelError("the runtime is closed", where="inputs", remedy="Open the model again")
        shape = (len(matrix), *self.outputs[0].shape[1:])
        if not len(matrix):
            return [np.empty(shape, np.float32)]
        try:
            found = self._booster.inplace_predict(np.ascontiguousarray(matrix), validate_features=False)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise ModelError(f"XGBoost cannot run the model: {str(error).splitlines()[0]}", where="inputs") from error
        return [np.asarray(found, np.float32).reshape(shape)]

    def close(self) -> None:
        self._booster = None


def classes_of(booster: xgboost.Booster) -> int:
    """How many numbers it gives for a row."""
    learner = json.loads(booster.save_config())["learner"]
    parameters = learner["learner_model_param"]
    if learner["objective"]["name"] == "multi:softmax":  # it tells the class alone
        return 1
    return max(int(parameters["num_class"]), int(parameters.get("num_target", "1")), 1)
