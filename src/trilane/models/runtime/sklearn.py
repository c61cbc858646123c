"""Fitted scikit-learn models from joblib or pickle files, as runtimes of named tensors.

Opening such a file runs whatever code it holds. So it is done in the model's own process alone, and only for files in
the folder of models, which its operator trusts as he trusts the code he installs. A classifier gives `probabilities`
and `label`, any other model `prediction`; each takes `features` FP64 [rows, columns].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from trilane.errors import ModelError
from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import TensorSpec

__all__ = ["SklearnTensors"]

_KINDS = {"i": "INT64", "u": "INT64", "b": "BOOL", "f": "FP64"}  # of labels; all others go as text


class SklearnTensors:
    """A fitted estimator or pipeline."""

    platform = "sklearn"

    def __init__(self, path: Path) -> None:
        try:
            fitted: Any = joblib.load(path)
        except MemoryError:
            raise
        except Exception as error:
            raise ModelError(
                f"the file cannot be unpickled: {type(error).__name__}: {error}",
                where=str(path),
                remedy="Write it again with joblib.dump, with the versions of the libraries that are installed here",
            ) from error
        width = getattr(fitted, "n_features_in_", None)
        if width is None or not hasattr(fitted, "predict"):
            raise ModelError(
                f"a {type(fitted).__qualname__} is no fitted scikit-learn model",
                where=str(path),
                remedy="Dump the fitted estimator or pipeline itself",
            )
        self._fitted = fitted
        self.inputs = (TensorSpec("features", "FP64", (-1, int(width))),)
        self.outputs = self._outputs()

    def _outputs(self) -> tuple[TensorSpec, ...]:
        classes = getattr(self._fitted, "classes_", None)
        self._classes = classes if isinstance(classes, np.ndarray) and hasattr(self._fitted, "predict_proba") else None
        if self._classes is not None:
            label = _KINDS.get(self._classes.dtype.kind, "BYTES")
            return TensorSpec("probabilities", "FP64", (-1, len(self._classes))), TensorSpec("label", label, (-1,))
        found = np.asarray(self._fitted.predict(np.zeros((1, self.inputs[0].shape[1]))))
        return (TensorSpec("prediction", _KINDS.get(found.dtype.kind, "BYTES"), (-1, *found.shape[1:])),)

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        (matrix,) = inputs
        if self._fitted is None:
            raise ModelError("the runtime is closed", where="inputs", remedy="Open the model again")
        if not len(matrix):
            return [_typed(np.empty((0, *spec.shape[1:])), spec) for spec in self.outputs]
        if self._classes is None:
            return [_typed(np.asarray(self._fitted.predict(matrix)), self.outputs[0])]
        probabilities = np.asarray(self._fitted.predict_proba(matrix), np.float64)
        labels = self._classes[np.argmax(probabilities, axis=1)]
        return [probabilities, _typed(labels, self.outputs[1])]

    def close(self) -> None:
        self._fitted = None


def _typed(found: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    if spec.datatype != "BYTES":
        return found.astype({"INT64": np.int64, "BOOL": np.bool_, "FP64": np.float64}[spec.datatype])
    texts = np.empty(found.size, object)
    texts[:] = [str(one).encode() for one in found.reshape(-1).tolist()]
    return texts.reshape(found.shape)
