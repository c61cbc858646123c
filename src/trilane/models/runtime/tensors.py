"""ONNX graphs of any inputs and outputs, and opened artifacts, as runtimes of named tensors.

Laws: what a graph gives that is no tensor (the maps of some scikit-learn exports) is left out; text is UTF-8; an
artifact keeps its own laws, so its score of a row is the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from trilane.errors import ContractError, ModelError
from trilane.models.runtime.onnx import OnnxRuntime
from trilane.models.runtime.protocol import Arrays
from trilane.models.runtime.session import CPU, Provider, open_session
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["OnnxTensors", "ScoreTensors"]

_DATATYPES = {
    "tensor(bool)": "BOOL",
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxTensors:
    """A graph (its bytes, or the path of its file) in ONNX Runtime."""

    platform = "onnxruntime_onnx"

    def __init__(self, model: bytes | str, *, shared: bool | None = None, providers: Sequence[Provider] = CPU) -> None:
        session = open_session(model, shared=shared, providers=providers)
        self.inputs = tuple(_spec(one) for one in session.get_inputs())
        self.outputs = tuple(_spec(one) for one in session.get_outputs() if one.type in _DATATYPES)
        if not self.outputs:
            raise ModelError("the graph gives no tensor", where="outputs", remedy="Export it without a ZipMap")
        self._axes = [[one if isinstance(one, str) else "" for one in each.shape] for each in session.get_inputs()]
        self._names = [spec.name for spec in self.inputs]
        self._wanted = [spec.name for spec in self.outputs]
        self._text = [at for at, spec in enumerate(self.inputs) if spec.datatype == "BYTES"]
        self._texts = [at for at, spec in enumerate(self.outputs) if spec.datatype == "BYTES"]
        self._session: ort.InferenceSession | None = session

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        session = self._session
        if session is None:
            raise ModelError("the runtime is closed", where="inputs", remedy="Open the model again")
        given = list(inputs)
        for place in self._text:
            given[place] = _decoded(given[place], place)
        try:
            answers = session.run(self._wanted, dict(zip(self._names, given, strict=True)))
        except MemoryError:
            raise
        except Exception as error:
            unequal = self._unequal(given)
            if unequal is not None:
                raise unequal from error
            # What it calls an invalid argument, such as a number past the end of a table, whoever asked has sent.
            invalid = type(error).__name__ == "InvalidArgument"
            raise (ContractError if invalid else ModelError)(
                f"ONNX Runtime cannot run the model: {error}",
                where="inputs",
                remedy="Check that the model takes such shapes and values",
            ) from error
        for place in self._texts:
            answers[place] = _encoded(answers[place])
        return list(answers)

    def _unequal(self, given: Sequence[npt.NDArray[Any]]) -> ContractError | None:
        """What tells of inputs whose axes have one name in the graph and several lengths; None if there are none.

        It is looked for once the graph failed: some name axes alike that need not be.
        """
        seen: dict[str, tuple[int, str]] = {}
        for name, axes, array in zip(self._names, self._axes, given, strict=True):
            for axis, length in zip(axes, array.shape, strict=True):
                before, other = seen.setdefault(axis, (length, name)) if axis else (length, name)
                if before != length:
                    what = f"the axis {axis!r} has length {before} in {other!r} and {length} in {name!r}"
                    return ContractError(what, where="inputs", remedy="Send axes of one name with one length")
        return None

    def close(self) -> None:
        self._session = None


class ScoreTensors:
    """An opened artifact: `features` FP32 [rows, columns] in, `score` FP64 [rows] out."""

    platform = "onnxruntime_onnx"

    def __init__(self, runtime: OnnxRuntime) -> None:
        self.inputs = (TensorSpec("features", "FP32", (-1, runtime.signature.width)),)
        self.outputs = (TensorSpec("score", "FP64", (-1,)),)
        self._runtime = runtime

    def run(self, inputs: Arrays) -> list[npt.NDArray[Any]]:
        (matrix,) = inputs
        return [self._runtime.predict(matrix)]

    def close(self) -> None:
        self._runtime.close()


def _spec(declared: ort.NodeArg) -> TensorSpec:
    datatype = _DATATYPES.get(declared.type)
    if datatype is None:
        raise ModelError(
            f"{declared.name!r} is a {declared.type}",
            where=f"inputs.{declared.name}",
            remedy=f"Export the model with one of {', '.join(DATATYPES)}",
        )
    shape = tuple(one if isinstance(one, int) and one >= 0 else -1 for one in declared.shape)
    return TensorSpec(declared.name, datatype, shape)


def _decoded(array: npt.NDArray[Any], place: int) -> npt.NDArray[Any]:
    try:
        texts = [one.decode() if isinstance(one, bytes) else str(one) for one in array.reshape(-1)]
    except UnicodeDecodeError as error:
        raise ContractError(
            f"this is not UTF-8: {error.reason}", where=f"inputs[{place}].data", remedy="Send text as UTF-8"
        ) from None
    found = np.empty(len(texts), object)
    found[:] = texts
    return found.reshape(array.shape)


def _encoded(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found = np.empty(array.size, object)
    found[:] = [one.encode() if isinstance(one, str) else bytes(one) for one in array.reshape(-1).tolist()]
    return found.reshape(array.shape)
