"""Arrays by name for a model, and its outputs: the binary form of the Open Inference Protocol, from the asker's side.

Law: what the server gives is checked against what it says of itself before an array is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from trilane.apps.client.answers import Answered, error_of
from trilane.apps.client.questions import Question
from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES
from trilane.serving.protocol.oip_tensors import from_bytes, objects, to_bytes

__all__ = ["HEADER", "Arrays", "inferring", "outputs_of"]

Arrays = Mapping[str, npt.ArrayLike]
HEADER = "inference-header-content-length"
_BY_TYPE = {kind: name for name, kind in DATATYPES.items() if name != "BYTES"}


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int]


class _Answer(msgspec.Struct):
    outputs: list[_Output]


def inferring(model: str, inputs: Arrays, *, outputs: Sequence[str], version: str) -> Question:
    """The question that `inputs` are for a model. Raises ContractError for an array of no type that a model takes."""
    heads, parts = [], []
    for name, values in inputs.items():
        datatype, array = _typed(name, values)
        parts.append(to_bytes(array, datatype))
        size = {"binary_data_size": len(parts[-1])}
        heads.append({"name": name, "datatype": datatype, "shape": array.shape, "parameters": size})
    said: dict[str, Any] = {"inputs": heads, "parameters": {"binary_data_output": True}}
    if outputs:
        said["outputs"] = [{"name": name} for name in outputs]
    text = msgspec.json.encode(said)
    path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")
    headers = {"content-type": "application/octet-stream", HEADER: str(len(text))}
    # Not asked again: an endpoint may have decided, and put it on record.
    return Question("POST", f"{path}/infer", b"".join((text, *parts)), headers, again=False)


def _typed(name: str, values: npt.ArrayLike) -> tuple[str, npt.NDArray[Any]]:
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        texts = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1).tolist()]
        if all(isinstance(text, bytes) for text in texts):
            return "BYTES", objects(texts, array.shape)
    datatype = _BY_TYPE.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        what = f"an array of {array.dtype} is no input of a model"
        raise ContractError(what, where=name, remedy="Give numbers, booleans, texts or bytes, all of one type")
    return datatype, array


def outputs_of(answer: Answered) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name. Raises the error that the answer tells, or ContractError for one of another form."""
    if not 200 <= answer.status < 300:
        raise error_of(answer)
    try:
        told = msgspec.json.decode(answer.body[: answer.header], type=_Answer)
        rest, place, found = memoryview(answer.body)[answer.header :], 0, {}
        for number, one in enumerate(told.outputs):
            end = place + one.parameters["binary_data_size"]
            found[one.name] = from_bytes(rest[place:end], one.datatype, one.shape, f"outputs[{number}]")
            place = end
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ContractError) as error:
        what = f"the answer is of another form: {error}"
        raise ContractError(
            what, where=answer.where, remedy="Check that a Trilane server answers at this URL"
        ) from None
    return found
