"""Golden rows of a model of tensors: inputs, and the outputs that must come of them, as JSON that people can read.

The form is that of the Open Inference Protocol: `inputs` and `outputs`, each with name, datatype, shape and data. Laws:
a model whose answers are off by more than the tolerance is not served; inputs alone warm a model up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trilane.contract import split_message
from trilane.errors import ContractError, ModelError
from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import DATATYPES, Tensor, TensorSpec, checked

__all__ = ["GoldenTensors", "check_golden", "read_golden", "written"]


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class GoldenTensors(msgspec.Struct, forbid_unknown_fields=True):
    """What is in the file."""

    inputs: list[_Given]
    outputs: list[_Given] = []

    def tensors(self) -> list[Tensor]:
        """The inputs as tensors. Raises ContractError for one that is none."""
        return [_tensor(one) for one in self.inputs]

    def arrays(self, specs: Sequence[TensorSpec], where: str) -> list[npt.NDArray[Any]]:
        """The inputs in the order of `specs`. Raises ModelError if they do not fit."""
        try:
            return [one.array for one in checked(self.tensors(), specs, where="the model")]
        except ContractError as error:
            raise ModelError(f"the golden rows do not fit: {error.what}", where=where, remedy=error.remedy) from None


def read_golden(path: Path) -> GoldenTensors:
    """The golden rows in a file. Raises ModelError if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=GoldenTensors)
    except OSError as error:
        raise ModelError(f"the golden rows cannot be read: {error.strerror}", where=str(path)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason, place = split_message(str(error))
        remedy = "Write inputs and outputs, each with name, datatype, shape and data"
        raise ModelError(reason, where=f"{path}: {place}", remedy=remedy) from None


def check_golden(
    golden: GoldenTensors, answers: Arrays, specs: Sequence[TensorSpec], *, tolerance: float, where: str
) -> None:
    """Raises ModelError that names the first output which is not what the golden rows say."""
    for one in golden.outputs:
        expected = _tensor(one).array
        place = next((at for at, spec in enumerate(specs) if spec.name == one.name), None)
        if place is None:
            what = f"the golden rows have an output {one.name!r}, the model has none"
            raise ModelError(what, where=where, remedy=f"It gives {', '.join(spec.name for spec in specs)}")
        found = answers[place]
        if found.shape != expected.shape or not _close(found, expected, tolerance):
            shown = f"{found.reshape(-1)[:4].tolist()} instead of {expected.reshape(-1)[:4].tolist()}"
            raise ModelError(
                f"the output {one.name!r} of the golden rows is {shown}",
                where=where,
                remedy="Serve the model that the golden rows were made with, or make them anew",
            )


def written(golden: GoldenTensors, answers: Arrays, specs: Sequence[TensorSpec]) -> bytes:
    """The file of these inputs with these outputs."""
    pairs = zip(specs, answers, strict=True)
    outputs = [_Given(spec.name, spec.datatype, array.shape, _data(array)) for spec, array in pairs]
    return msgspec.json.format(msgspec.json.encode(GoldenTensors(golden.inputs, outputs)))


def _data(array: npt.NDArray[Any]) -> list[Any]:
    found = array.reshape(-1).tolist()
    return [one.decode() if isinstance(one, bytes) else None if one != one else one for one in found]  # noqa: PLR0124


def _tensor(given: _Given) -> Tensor:
    dtype = DATATYPES.get(given.datatype)
    if dtype is None or min(given.shape, default=0) < 0:
        what = f"{given.name!r} has no data type or shape that can be"
        raise ContractError(what, where=given.name, remedy=f"Write one of {', '.join(DATATYPES)}")
    try:
        if given.datatype == "BYTES":
            array = np.empty(len(given.data), object)
            array[:] = [str(one).encode() for one in given.data]
        else:
            array = np.asarray([math.nan if one is None else one for one in _flat(given.data)], dtype)
        return Tensor(given.name, given.datatype, array.reshape(given.shape))
    except (TypeError, ValueError, OverflowError) as error:
        what = f"{given.name!r} has data that do not fit its shape and type: {error}"
        raise ContractError(what, where=given.name, remedy="Write the values row by row") from None


def _flat(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for one in values:
        found.extend(_flat(one) if isinstance(one, list) else [one])
    return found


def _close(found: npt.NDArray[Any], expected: npt.NDArray[Any], tolerance: float) -> bool:
    if found.dtype.kind != "f":
        return bool((found == expected).all())
    return bool(np.allclose(found.astype(np.float64), expected, rtol=tolerance, atol=tolerance, equal_nan=True))
