"""Questions and answers of the Open Inference Protocol over REST, version 2, with its extension of binary tensors.

Laws: a body is taken whole or refused with the path to the fault; binary parts follow the JSON in the order of the
inputs, and every byte of the body belongs to one of them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from trilane.contract import NOT_JSON, malformed, split_message
from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES, Tensor, TensorSpec
from trilane.serving.deadline import of_parameters
from trilane.serving.inference import Inference, Question
from trilane.serving.protocol.oip_tensors import (
    LONG,
    Array,
    from_bytes,
    from_json,
    from_values,
    of_floats,
    to_bytes,
    to_json,
)

__all__ = ["MOST_PARAMETERS", "MOST_TENSORS", "Wanted", "check_output", "decode", "encode", "priority_of"]

_Scalar = str | int | float | bool | None
_Length = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_ABSENT = msgspec.Raw()
MOST_TENSORS, MOST_PARAMETERS = 4_096, 1_024
_LONGEST_NAME = 1_024
_LONGEST_PARAMETERS = 65_536  # bytes of the text of all: to read half a million of them holds up everybody
_REMEMBERED = 4_096  # bytes of JSON before binary parts, which is the same from question to question, that are kept
_BEGINNING = 256  # bytes of JSON in which its first list begins, nested or flat: to look through all takes long
_SHARED_MEMORY = "shared_memory_region"
_encode = msgspec.json.Encoder().encode


class _Output(msgspec.Struct, gc=False):
    name: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
    parameters: msgspec.Raw = _ABSENT


class _Input(msgspec.Struct, gc=False):
    name: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
    shape: list[_Length]
    datatype: str
    parameters: msgspec.Raw = _ABSENT
    data: msgspec.Raw = _ABSENT


class _LooseOutput(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
    parameters: dict[str, _Scalar] | None = None


class _LooseInput(msgspec.Struct):
    """The same, of a text that was read by Python's own reader, which takes the words NaN and Infinity."""

    name: str
    shape: list[_Length]
    datatype: str
    parameters: dict[str, _Scalar] | None = None
    data: Any = _ABSENT


class _PlainInput(msgspec.Struct, gc=False):
    """One flat list of numbers, as nearly all send it: it is read once, with all the rest."""

    name: Annotated[str, msgspec.Meta(max_length=_LONGEST_NAME)]
    shape: list[_Length]
    datatype: str
    data: list[float]
    parameters: msgspec.Raw = _ABSENT


_Few = msgspec.Meta(max_length=MOST_TENSORS)


class _Body(msgspec.Struct, gc=False):
    inputs: Annotated[list[_Input], _Few]
    id: str | None = None
    parameters: msgspec.Raw = _ABSENT
    outputs: Annotated[list[_Output], _Few] | None = None


class _LooseBody(msgspec.Struct):
    inputs: Annotated[list[_LooseInput], _Few]
    id: str | None = None
    parameters: dict[str, _Scalar] | None = None
    outputs: Annotated[list[_LooseOutput], _Few] | None = None


class _PlainBody(msgspec.Struct, gc=False):
    inputs: list[_PlainInput]
    id: str | None = None
    parameters: msgspec.Raw = _ABSENT
    outputs: list[_Output] | None = None


_NOTHING = memoryview(b"")
_body_of = msgspec.json.Decoder(_Body).decode
_parameters_of = msgspec.json.Decoder(dict[str, _Scalar] | None).decode
_plain_body_of = msgspec.json.Decoder(_PlainBody).decode


class Wanted(msgspec.Struct, frozen=True):
    """How the answer shall be written: its `id`, and which outputs in binary, by name or else all or none."""

    id: str = ""
    binary: bool = False
    by_output: Mapping[str, bool] = msgspec.field(default_factory=dict)


class _Frame(msgspec.Struct, frozen=True):
    """All that follows from a body but the tensors; `waits`: the seconds that its parameters allow."""

    outputs: Sequence[str]
    priority: int
    explain: bool
    parameters: Mapping[str, str | int | float | bool]
    wanted: Wanted
    waits: float


def decode(
    body: bytes,
    header: int | None,
    *,
    model: str,
    version: str,
    takes: Sequence[TensorSpec] = (),
    began: float = 0.0,
    waits: float = math.inf,
    caller: str = "",
) -> tuple[Question, Wanted]:
    """The question in `body`, whose first `header` bytes are JSON (None: all; 0: none, the raw bytes of one input).

    `takes`: the model's inputs, for raw bytes alone; `waits`: seconds from the instant `began` that the caller will
    wait, unless its parameters say less. Raises ContractError.
    """
    if header == 0:
        inputs = [_raw_input(body, takes)]
        return Question(model, inputs, version, deadline=began + waits, caller=caller), Wanted(binary=True)
    if header is not None and header > len(body):
        what = f"the header of {header} bytes ends beyond the body of {len(body)}"
        raise ContractError(what, where="inference-header-content-length", remedy="Send the length of the JSON alone")
    if header is None:
        asked, inputs = _plain(body) or _whole(body)
        if not asked.parameters and not asked.outputs:
            return Question(model, inputs, version, deadline=began + waits, caller=caller), Wanted(asked.id or "")
        frame = _framed(asked)
    else:
        head = body[:header]
        before, frame = _read_head(head) if header <= _REMEMBERED else _read_whole_head(head)
        inputs = _tensors(before, memoryview(body)[header:])
    question = Question(
        model,
        inputs,
        version,
        frame.outputs,
        began + min(waits, frame.waits),
        caller,
        frame.priority,
        frame.explain,
        frame.parameters,
    )
    return question, frame.wanted


def _framed(asked: _Body | _LooseBody | _PlainBody) -> _Frame:
    own, outputs = _own(asked.parameters, ""), asked.outputs or ()
    return _Frame(
        [output.name for output in outputs],
        priority_of(own),
        own.get("explain") is True,
        {name: value for name, value in own.items() if value is not None},
        _wanted(asked.id or "", own, outputs),
        of_parameters(own),
    )


def _own(parameters: msgspec.Raw | dict[str, _Scalar] | None, where: str) -> Mapping[str, _Scalar]:
    """The parameters of a request, or of the tensor at `where`. Raises ContractError."""
    if not isinstance(parameters, msgspec.Raw):
        return parameters or {}
    size = len(parameters)
    if not size:
        return {}
    if size > _LONGEST_PARAMETERS:
        what, remedy = f"parameters of {size} bytes", f"Send at most {_LONGEST_PARAMETERS} bytes of them"
        raise ContractError(what, where=f"{where}parameters", remedy=remedy)
    try:
        return _parameters_of(parameters) or {}
    except msgspec.ValidationError as error:
        reason, path = split_message(str(error))
        remedy = "Send names with texts, numbers or booleans"
        raise ContractError(reason, where=f"{where}parameters{path[1:]}", remedy=remedy) from None
    except NOT_JSON as error:
        what = f"malformed JSON: {error}"
        raise ContractError(what, where=f"{where}parameters", remedy="Send valid JSON", status=400) from None


def _wanted(id: str, own: Mapping[str, _Scalar], outputs: Sequence[_Output | _LooseOutput]) -> Wanted:
    by_output = {}
    for place, output in enumerate(outputs):
        if output.parameters:
            parameters = _own(output.parameters, f"outputs[{place}].")
            check_output(parameters, f"outputs[{place}]")
            if "binary_data" in parameters:
                by_output[output.name] = parameters["binary_data"] is True
    return Wanted(id, own.get("binary_data_output") is True, by_output)


def check_output(parameters: Container[str], where: str) -> None:
    """Raises ContractError for what Triton may be asked to do with an output, and is not done here."""
    _no_shared_memory(parameters, where)
    if "classification" in parameters:
        what, where = "classification is not done here", f"{where}.parameters.classification"
        raise ContractError(what, where=where, remedy="Sort the scores yourself")


def _plain(text: bytes) -> tuple[_PlainBody, list[Tensor]] | None:
    """A question of flat lists of floats with nothing special in them; None where it takes a closer look."""
    if len(text) > LONG or b'"FP' not in text or b"[[" in text[:_BEGINNING]:
        return None
    try:
        asked = _plain_body_of(text)
    except (*NOT_JSON, msgspec.ValidationError):
        return None
    tensors = []
    for one in asked.inputs:
        array = None if one.parameters else of_floats(one.data, one.datatype, one.shape)
        if array is None:
            return None
        tensors.append(Tensor(one.name, one.datatype, array))
    return asked, tensors


def _whole(text: bytes) -> tuple[_Body | _LooseBody, list[Tensor]]:
    """Any question in JSON alone."""
    asked = _read(text)
    return asked, _tensors(asked, _NOTHING)


def _read(text: bytes) -> _Body | _LooseBody:
    try:
        return _body_of(text)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None
    except NOT_JSON as error:
        if b"NaN" in text or b"Infinity" in text:
            return _read_loosely(text)
        what = malformed(text[:64], error)
        raise ContractError(what, where="$", remedy="Send valid JSON", status=400) from None


def _read_whole_head(text: bytes) -> tuple[_Body | _LooseBody, _Frame]:
    asked = _read(text)
    return asked, _framed(asked)


_read_head = functools.lru_cache(256)(_read_whole_head)


def _read_loosely(text: bytes) -> _LooseBody:
    try:
        return msgspec.convert(json.loads(text), _LooseBody)
    except msgspec.ValidationError as error:
        raise _unfit(error) from None
    except (ValueError, RecursionError) as error:  # a number of too many digits, too, is a ValueError
        raise ContractError(f"malformed JSON: {error}", where="$", remedy="Send valid JSON", status=400) from None


def _unfit(error: msgspec.ValidationError) -> ContractError:
    reason, path = split_message(str(error))
    remedy = 'Send {"inputs": [{"name", "shape", "datatype", "data"}, ...]}'
    return ContractError(reason, where=path.removeprefix("$.") if path != "$" else path, remedy=remedy)


def _tensors(asked: _Body | _LooseBody, rest: memoryview) -> list[Tensor]:
    tensors, place = [], 0
    inputs: Sequence[_Input | _LooseInput] = asked.inputs
    for number, one in enumerate(inputs):
        where = f"inputs[{number}]"
        parameters = _own(one.parameters, f"{where}.") if one.parameters else None
        size = parameters.get("binary_data_size") if parameters else None
        if size is None:
            if parameters:
                _no_shared_memory(parameters, where)
            array = _from_text(one, where)
        else:
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest) - place:
                what = f"{size!r} bytes of binary data, where {len(rest) - place} are left"
                remedy = "Send the JSON's length in Inference-Header-Content-Length, and then all binary data"
                raise ContractError(what, where=f"{where}.parameters.binary_data_size", remedy=remedy)
            if one.data is not _ABSENT:
                raise ContractError("data both in JSON and binary", where=f"{where}.data", remedy="Send one of them")
            array = from_bytes(rest[place : place + size], one.datatype, one.shape, where)
            place += size
        tensors.append(Tensor(one.name, one.datatype, array))
    if place != len(rest):
        what = f"{len(rest) - place} bytes after the binary data of all inputs"
        raise ContractError(what, where="body", remedy="Send no more than the inputs announce by binary_data_size")
    return tensors


def _from_text(one: _Input | _LooseInput, where: str) -> Array:
    if one.data is _ABSENT:
        raise ContractError("there is no data", where=f"{where}.data", remedy="Send data, or binary_data_size and it")
    if isinstance(one, _Input):
        return from_json(one.data, one.datatype, one.shape, where)
    return from_values(one.data, one.datatype, one.shape, where)


def _no_shared_memory(parameters: Container[str], where: str) -> None:
    if _SHARED_MEMORY in parameters:
        raise ContractError(
            "tensors in shared memory are not taken",
            where=f"{where}.parameters.{_SHARED_MEMORY}",
            remedy="Send the tensor itself",
        )


def _raw_input(body: bytes, specs: Sequence[TensorSpec]) -> Tensor:
    """The one input of a model, of as many rows as the bytes make."""
    where = "inputs[0]"
    if len(specs) != 1:
        what, remedy = f"raw bytes for a model of {len(specs)} inputs", "Send the JSON of the inputs before the bytes"
        raise ContractError(what, where="inference-header-content-length", remedy=remedy)
    (spec,) = specs
    if spec.datatype == "BYTES":
        whole = len(body).to_bytes(4, "little") + body
        return Tensor(spec.name, "BYTES", from_bytes(memoryview(whole), "BYTES", [1] * len(spec.shape), where))
    free = [axis for axis, length in enumerate(spec.shape) if length < 0]
    row = math.prod(length for length in spec.shape if length > 0) * DATATYPES[spec.datatype].itemsize
    if len(free) > 1 or not row:
        what, remedy = f"the shape {list(spec.shape)} does not follow from raw bytes", "Send the JSON with a shape"
        raise ContractError(what, where=where, remedy=remedy)
    shape = [len(body) // row if length < 0 else length for length in spec.shape]
    return Tensor(spec.name, spec.datatype, from_bytes(memoryview(body), spec.datatype, shape, where))


def priority_of(parameters: Mapping[str, _Scalar]) -> int:
    """The parameter `priority`, 0 if there is none. Raises ContractError."""
    priority = parameters.get("priority", 0)
    if priority is None or isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < 2**63:
        what = f"{priority!r} is no priority"
        raise ContractError(what, where="parameters.priority", remedy="Send a whole number from 0; 1 is the highest")
    return priority


def encode(answer: Inference, wanted: Wanted) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if binary parts follow it."""
    outputs: list[bytes] = []
    parts: list[bytes] = []
    for tensor in answer.outputs:
        head = _opening_of(tensor.name, tensor.datatype, tensor.array.shape)
        if wanted.by_output.get(tensor.name, wanted.binary) if wanted.by_output else wanted.binary:
            part = to_bytes(tensor.array, tensor.datatype)
            parts.append(part)
            outputs.append(b'%b"parameters":{"binary_data_size":%d}}' % (head, len(part)))
        else:
            outputs.append(b'%b"data":%b}' % (head, to_json(tensor.array, tensor.datatype)))
    text = b'%b%b%b"outputs":[%b]}' % (
        _opening(answer.model, answer.version),
        b'"id":%b,' % _encode(wanted.id) if wanted.id else b"",
        b'"parameters":%b,' % _encode(answer.parameters) if answer.parameters else b"",
        b",".join(outputs),
    )
    return (b"".join((text, *parts)), len(text)) if parts else (text, None)


@functools.lru_cache(1_024)
def _opening(model: str, version: str) -> bytes:
    return b'{"model_name":%b,"model_version":%b,' % (_encode(model), _encode(version))


@functools.lru_cache(1_024)
def _opening_of(output: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    return b'{"name":%b,"datatype":"%b","shape":%b,' % (_encode(output), datatype.encode(), _encode(shape))
