"""Questions and answers of the Open Inference Protocol as its gRPC messages.

Laws: as over REST, a message is taken whole or refused with the path to the fault; what came as raw bytes is answered
as raw bytes, and typed contents by typed contents where the data type has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from google.protobuf import json_format

from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES, Tensor
from trilane.serving.inference import Inference, Question
from trilane.serving.protocol.oip import MOST_PARAMETERS, MOST_TENSORS, check_output, priority_of
from trilane.serving.protocol.oip_messages import message
from trilane.serving.protocol.oip_tensors import Array, elements_of, from_bytes, objects, to_bytes, type_of

__all__ = ["answered", "filled", "parameters_of", "question_of"]

_Parameters: TypeAlias = Mapping[str, Any]
# The list of typed contents in which a data type stands; FP16 has none.
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_Response = message("ModelInferResponse")


def parameters_of(found: Any) -> dict[str, Any]:  # noqa: ANN401 - a map of protobuf's
    """Parameters as plain values. Raises ContractError for more than anybody has to tell."""
    if len(found) > MOST_PARAMETERS:
        what, remedy = f"{len(found)} parameters", f"Send at most {MOST_PARAMETERS}"
        raise ContractError(what, where="parameters", remedy=remedy)
    return {name: getattr(one, one.WhichOneof("parameter_choice") or "bool_param") for name, one in found.items()}


def question_of(request: Any, parameters: _Parameters, *, deadline: float, caller: str = "") -> Question:  # noqa: ANN401
    """The question of a ModelInferRequest. Raises ContractError."""
    for name in ("inputs", "outputs"):
        if (count := len(getattr(request, name))) > MOST_TENSORS:
            raise ContractError(f"{count} {name}", where=name, remedy=f"Send at most {MOST_TENSORS}")
    for place, output in enumerate(request.outputs):
        if output.parameters:
            check_output(output.parameters, f"outputs[{place}]")
    return Question(
        request.model_name,
        _inputs(request),
        request.model_version,
        [output.name for output in request.outputs],
        deadline=deadline,
        caller=caller,
        priority=priority_of(parameters) if parameters else 0,
        explain=parameters.get("explain") is True,
        parameters=parameters,
    )


def _inputs(request: Any) -> list[Tensor]:  # noqa: ANN401
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        what = f"{len(raw)} raw contents for {len(request.inputs)} inputs"
        raise ContractError(what, where="raw_input_contents", remedy="Send one for each input, or none at all")
    tensors = []
    for place, one in enumerate(request.inputs):
        where, shape = f"inputs[{place}]", tuple(one.shape)
        if one.parameters and "shared_memory_region" in one.parameters:
            what = "tensors in shared memory are not taken"
            raise ContractError(what, where=f"{where}.parameters", remedy="Send the tensor itself")
        if raw:
            if one.HasField("contents"):
                what = "contents both raw and typed"
                raise ContractError(what, where=f"{where}.contents", remedy="Send one of them")
            array = from_bytes(memoryview(raw[place]), one.datatype, shape, where)
        else:
            array = _typed(one, shape, where)
        tensors.append(Tensor(one.name, one.datatype, array))
    return tensors


def _typed(one: Any, shape: tuple[int, ...], where: str) -> Array:  # noqa: ANN401
    kind, count = type_of(one.datatype, where), elements_of(shape, where)
    name = _CONTENTS.get(one.datatype)
    if name is None:
        what = f"{one.datatype} has no typed contents"
        raise ContractError(what, where=f"{where}.contents", remedy="Send it in raw_input_contents")
    strange = [field.name for field, _ in one.contents.ListFields() if field.name != name]
    values = getattr(one.contents, name)
    if strange or len(values) != count:
        what = f"{strange[0]} for {one.datatype}" if strange else f"{len(values)} elements, where the shape has {count}"
        remedy = f"Send as many elements as the shape says in {name}"
        raise ContractError(what, where=f"{where}.contents", remedy=remedy)
    if one.datatype == "BYTES":
        return objects(list(values), shape)
    if kind.itemsize < 4 and kind.kind in "iu":
        wide, bounds = np.array(values, np.int64), np.iinfo(kind)
        if ((wide < bounds.min) | (wide > bounds.max)).any():
            what, remedy = f"a number beyond {one.datatype}", f"Send {bounds.min} to {bounds.max}"
            raise ContractError(what, where=f"{where}.contents.{name}", remedy=remedy)
        return wide.astype(kind).reshape(shape)
    return np.array(values, kind).reshape(shape)


def answered(answer: Inference, request: Any) -> Any:  # noqa: ANN401
    """The ModelInferResponse to a request."""
    response: Any = _Response(model_name=answer.model, model_version=answer.version, id=request.id)
    typed = bool(request.inputs) and not request.raw_input_contents
    raw = not typed or any(tensor.datatype not in _CONTENTS for tensor in answer.outputs)
    for tensor in answer.outputs:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            response.raw_output_contents.append(to_bytes(tensor.array, tensor.datatype))
        else:
            values = tensor.array.astype(DATATYPES[tensor.datatype], copy=False).reshape(-1).tolist()
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(values)
    for name, value in answer.parameters.items():
        one = response.parameters[name]
        if isinstance(value, bool):
            one.bool_param = value
        elif isinstance(value, int):
            one.int64_param = value
        elif isinstance(value, float):
            one.double_param = value
        else:
            one.string_param = value
    return response


def filled(name: str, facts: Mapping[str, object]) -> Any:  # noqa: ANN401
    """The message `name` with plain facts in it."""
    return json_format.ParseDict(dict(facts), message(name)(), ignore_unknown_fields=True)
