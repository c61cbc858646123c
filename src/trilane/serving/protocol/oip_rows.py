"""The inputs of an endpoint as tensors: one for each field of its contract, a row each.

Laws: what the contract refuses in JSON is refused in tensors, with the path to the tensor and the row; a nullable field
may be left out, and NaN is null where a number may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from trilane.contract import Contract, split_message
from trilane.errors import ContractError
from trilane.models.tensor import Tensor, TensorSpec
from trilane.types import Field

__all__ = ["TensorRows"]

_DATATYPES = {"bool": "BOOL", "int64": "INT64", "float64": "FP64", "string": "BYTES", "timestamp": "BYTES"}
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
# A contract takes an integer for a float; of floats, too, any width.
_ALSO = {"INT64": _INTEGERS, "FP64": _INTEGERS | {"FP16", "FP32", "FP64"}}
_FEW = 32  # numbers below which a call of NumPy costs more than a look at each
_PLACE = re.compile(r"\$\[(\d+)\](?:\.(\w+))?(.*)")


class TensorRows:
    """Reads the rows of one contract; `specs` are its tensors."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._fields = {field.name: field for field in contract.fields}
        self._required = [field.name for field in contract.fields if not field.nullable]
        self._rows: Any = list[contract.struct]  # type: ignore[name-defined]
        self.specs = tuple(TensorSpec(field.name, _DATATYPES[field.dtype.name], (-1,)) for field in contract.fields)

    def rows(self, tensors: Sequence[Tensor]) -> list[msgspec.Struct]:
        """The rows that the tensors hold together. Raises ContractError."""
        columns = {tensor.name: self._column(tensor, place) for place, tensor in enumerate(tensors)}
        if len(columns) != len(tensors):
            raise ContractError("an input is there twice", where="inputs", remedy="Send each input once")
        missing = [name for name in self._required if name not in columns]
        if missing or not columns:
            what = f"the input {missing[0]!r} is missing" if missing else "there is no input"
            raise ContractError(what, where="inputs", remedy=f"{self._contract.name!r} has {', '.join(self._fields)}")
        size = len(next(iter(columns.values())))
        for place, (name, values) in enumerate(columns.items()):
            if len(values) != size:
                what = f"{name!r} has {len(values)} rows, where {next(iter(columns))!r} has {size}"
                raise ContractError(what, where=f"inputs[{place}].shape", remedy="Send a value for each row")
        names = tuple(columns)
        try:
            rows: list[msgspec.Struct] = msgspec.convert(
                [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)], self._rows
            )
        except msgspec.ValidationError as error:
            raise self._refused(error, names) from None
        return rows

    def _refused(self, error: msgspec.ValidationError, names: tuple[str, ...]) -> ContractError:
        reason, path = split_message(str(error))
        found = _PLACE.fullmatch(path)
        where = path
        if found and found[2] in names:
            where = f"inputs[{names.index(found[2])}].data[{found[1]}]"
        return ContractError(reason, where=where, remedy=f"Send what {self._contract.name!r} promises")

    def _column(self, tensor: Tensor, place: int) -> list[Any]:
        field = self._fields.get(tensor.name)
        if field is None:
            what, remedy = f"there is no input {tensor.name!r}", f"Send {', '.join(self._fields)}"
            raise ContractError(what, where=f"inputs[{place}].name", remedy=remedy)
        wanted = _DATATYPES[field.dtype.name]
        if tensor.datatype != wanted and tensor.datatype not in _ALSO.get(wanted, ()):
            what = f"the input {tensor.name!r} is {wanted}, not {tensor.datatype}"
            raise ContractError(what, where=f"inputs[{place}].datatype", remedy=f"Send it as {wanted}")
        shape = tensor.array.shape
        if len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
            what = f"the input {tensor.name!r} has shape {list(shape)}"
            raise ContractError(what, where=f"inputs[{place}].shape", remedy="Send a value a row: [rows], or [rows, 1]")
        if wanted == "BYTES":
            return _texts(tensor, place)
        if wanted == "FP64" and tensor.array.dtype.kind == "f":
            return _numbers(tensor, field, place)
        values: list[Any] = tensor.array.reshape(-1).tolist()
        return values


def _numbers(tensor: Tensor, field: Field, place: int) -> list[Any]:
    array = tensor.array.reshape(-1)
    values: list[Any] = array.tolist()
    if len(values) <= _FEW and all(map(math.isfinite, values)):
        return values
    finite = np.isfinite(array)
    for row in np.flatnonzero(~finite).tolist():
        if not (field.nullable and np.isnan(array[row])):
            what, where = f"{array[row]} is no finite number", f"inputs[{place}].data[{row}]"
            raise ContractError(what, where=where, remedy="Send a number, or NaN where null is allowed")
        values[row] = None
    return values


def _texts(tensor: Tensor, place: int) -> list[Any]:
    texts: list[bytes] = tensor.array.reshape(-1).tolist()
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError:
        row = next(number for number, text in enumerate(texts) if text.decode(errors="ignore").encode() != text)
        where = f"inputs[{place}].data[{row}]"
    raise ContractError("no UTF-8 text", where=where, remedy="Send text as UTF-8")
