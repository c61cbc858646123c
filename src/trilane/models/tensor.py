"""Tensors by name, as models of any kind take and give them: data types, shapes, and how one is checked by the other.

Laws: the words for data types are those of the Open Inference Protocol, version 2; an array is C-contiguous and of the
NumPy type that its word means; BYTES are an object array of `bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trilane.errors import ContractError

__all__ = ["DATATYPES", "Tensor", "TensorSpec", "checked"]

DATATYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model takes or gives under `name`; -1 in `shape` is any length, and the first axis counts the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Tensor(msgspec.Struct, frozen=True):
    """An array and its name. `datatype` is a key of `DATATYPES`."""

    name: str
    datatype: str
    array: npt.NDArray[Any]


def checked(tensors: Sequence[Tensor], specs: Sequence[TensorSpec], *, where: str) -> list[Tensor]:
    """`tensors` in the order of `specs`. Raises ContractError for a name, data type or shape that does not fit."""
    if len(tensors) == len(specs) == 1 and tensors[0].name == specs[0].name:
        _check(tensors[0], specs[0], 0)
        return [tensors[0]]
    given = {tensor.name: place for place, tensor in enumerate(tensors)}
    if len(given) != len(tensors) or len(given) != len(specs) or any(spec.name not in given for spec in specs):
        raise _unlike(tensors, specs, where)
    for spec in specs:
        _check(tensors[given[spec.name]], spec, given[spec.name])
    return [tensors[given[spec.name]] for spec in specs]


def _unlike(tensors: Sequence[Tensor], specs: Sequence[TensorSpec], where: str) -> ContractError:
    """Why the names do not fit."""
    known, seen = {spec.name for spec in specs}, set[str]()
    for place, tensor in enumerate(tensors):
        if tensor.name not in known:
            what = f"{where} takes no input {tensor.name!r}"
            return ContractError(what, where=f"inputs[{place}].name", remedy=f"Send {', '.join(sorted(known))}")
        if tensor.name in seen:
            what = f"the input {tensor.name!r} is there twice"
            return ContractError(what, where=f"inputs[{place}].name", remedy="Send each input once")
        seen.add(tensor.name)
    missing = next(spec.name for spec in specs if spec.name not in seen)
    return ContractError(f"{where} needs the input {missing!r}", where="inputs", remedy="Send every input")


def _check(tensor: Tensor, spec: TensorSpec, place: int) -> None:
    shape = tensor.array.shape
    if tensor.datatype != spec.datatype:
        what = f"the input {spec.name!r} is {spec.datatype}, not {tensor.datatype}"
        raise ContractError(what, where=f"inputs[{place}].datatype", remedy=f"Send it as {spec.datatype}")
    want = spec.shape
    if shape[1:] == want[1:] and want[:1] == (-1,) and shape:  # any number of rows, as nearly all models take
        return
    if len(shape) != len(want) or any(one not in (have, -1) for one, have in zip(want, shape, strict=True)):
        what = f"the input {spec.name!r} has shape {list(shape)}, and the model takes {list(spec.shape)}"
        raise ContractError(what, where=f"inputs[{place}].shape", remedy="-1 stands for any length")
