"""Whatever bytes come for a model, they are a question or a refusal with its path; nothing else happens."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES, Tensor, TensorSpec
from trilane.serving.inference import Inference
from trilane.serving.protocol.oip import Wanted, decode, encode
from trilane.serving.protocol.oip_grpc import answered, parameters_of, question_of
from trilane.serving.protocol.oip_messages import message
from trilane.serving.protocol.oip_tensors import from_bytes, to_bytes

SPECS = (TensorSpec("x", "FP32", (-1, 3)),)
Request: Any = message("ModelInferRequest")


def _is_told(error: ContractError, where: str = "") -> None:
    assert error.what
    assert error.where
    assert error.where.startswith(where)


def _decode(body: bytes, header: int | None) -> tuple[list[Tensor], Wanted] | None:
    """The tensors; None if the body is refused, which says why and where."""
    try:
        question, wanted = decode(body, header, model="m", version="", takes=SPECS)
    except ContractError as error:
        _is_told(error)
        return None
    return list(question.inputs), wanted


@st.composite
def _tensors(draw: st.DrawFn, *, nan: bool = True) -> Tensor:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    kind = DATATYPES[datatype]
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = math.prod(shape)
    if datatype == "BYTES":
        texts = draw(st.lists(st.text(max_size=5), min_size=size, max_size=size))
        array = np.empty(size, object)
        array[:] = [text.encode() for text in texts]
    elif kind.kind == "f":
        width = kind.itemsize * 8
        one = st.floats(width=width, allow_nan=nan, allow_infinity=nan)  # type: ignore[arg-type]
        array = np.array(draw(st.lists(one, min_size=size, max_size=size)), kind)
    else:
        low, high = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
        array = np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size)), kind)
    return Tensor(draw(st.text(max_size=5)), datatype, array.reshape(shape))


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.name, one.datatype, one.array.shape) != (other.name, other.datatype, other.array.shape):
        return False
    return to_bytes(one.array, one.datatype) == to_bytes(other.array, other.datatype)


def _body(tensors: list[Tensor], binary: list[bool]) -> tuple[bytes, int]:
    """A request as a client writes it: nested lists, or binary after the JSON."""
    inputs, parts = [], []
    for tensor, raw in zip(tensors, binary, strict=True):
        one: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.array.shape)}
        if raw:
            parts.append(to_bytes(tensor.array, tensor.datatype))
            one["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            array = tensor.array if tensor.array.ndim and tensor.array.size else tensor.array.reshape(-1)
            one["data"] = (
                np.vectorize(bytes.decode, otypes=[object])(array).tolist()
                if (tensor.datatype == "BYTES" and array.size)
                else array.tolist()
            )
        inputs.append(one)
    text = json.dumps({"inputs": inputs}).encode()
    return text + b"".join(parts), len(text)


@given(st.lists(st.tuples(_tensors(nan=False), st.booleans()), max_size=4))
def test_what_a_client_writes_is_read_as_it_was(parts: list[tuple[Tensor, bool]]) -> None:
    tensors = [tensor for tensor, _ in parts]
    body, header = _body(tensors, [raw for _, raw in parts])
    found = _decode(body, header)
    assert found is not None
    assert all(_same(one, other) for one, other in zip(found[0], tensors, strict=True))


@given(st.lists(_tensors(), max_size=4))
def test_what_is_answered_in_binary_is_read_as_it_was(tensors: list[Tensor]) -> None:
    body, header = encode(Inference("m", "1", tensors), Wanted(binary=True))
    text = json.loads(body if header is None else body[:header])
    place = len(body) if header is None else header
    for told, tensor in zip(text["outputs"], tensors, strict=True):
        size = told["parameters"]["binary_data_size"]
        array = from_bytes(memoryview(body)[place : place + size], told["datatype"], told["shape"], "x")
        assert _same(Tensor(told["name"], told["datatype"], array), tensor)
        place += size
    assert place == len(body)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_a_question_or_refused(body: bytes, header: int | None) -> None:
    _decode(body, header)


def _unlikely() -> st.SearchStrategy[Any]:
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    return st.recursive(
        scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3)
    )


INPUT = st.fixed_dictionaries(
    {
        "name": st.text(max_size=4) | _unlikely(),
        "shape": st.lists(st.integers(-2, 3) | st.sampled_from([2**31, 2**62, 2**63, -(2**63)]), max_size=20)
        | _unlikely(),
        "datatype": st.sampled_from([*DATATYPES, "FP128", ""]) | _unlikely(),
    },
    optional={
        "data": st.lists(st.floats() | st.integers() | st.text(max_size=2), max_size=5) | _unlikely(),
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "x"]), st.integers(-2, 30) | _unlikely(), max_size=2
        )
        | _unlikely(),
    },
)
BODY = st.fixed_dictionaries(
    {"inputs": st.lists(INPUT, max_size=3) | _unlikely()},
    optional={
        "id": st.text(max_size=3) | _unlikely(),
        "parameters": st.dictionaries(st.sampled_from(["timeout", "priority", "explain"]), _unlikely()) | _unlikely(),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.text(max_size=3)}), max_size=2) | _unlikely(),
    },
)


@given(BODY, st.binary(max_size=40), st.integers(-3, 3))
def test_messages_of_the_right_form_with_any_values_are_a_question_or_refused(
    said: dict[str, Any], rest: bytes, off: int
) -> None:
    text = json.dumps(said).encode()
    _decode(text, None)
    _decode(text + rest, max(len(text) + off, 0))


@given(st.data())
def test_a_flipped_byte_or_a_cut_is_a_question_or_refused(data: st.DataObject) -> None:
    tensors = data.draw(st.lists(_tensors(nan=False), min_size=1, max_size=3))
    body, header = _body(tensors, [True] * len(tensors))
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(0, 3))):
        broken[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    _decode(bytes(broken), header)
    _decode(body[:cut], header)
    _decode(body, data.draw(st.integers(0, len(body) + 5)))


@given(st.binary(max_size=60), st.lists(st.integers(0, 2**33) | st.integers(-3, 5), max_size=5))
def test_bytes_in_their_lengths_never_reach_beyond_the_tensor(raw: bytes, shape: list[int]) -> None:
    try:
        array = from_bytes(memoryview(raw), "BYTES", shape, "inputs[0]")
    except ContractError as error:
        _is_told(error, "inputs[0]")
        return
    told = [struct.pack("<I", len(text)) + text for text in array.reshape(-1).tolist()]
    assert b"".join(told) == raw


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, '{"inputs":' + "[" * 90_000, "9" * 10_000, "NaN" * 9]
)
def test_deep_and_long_texts_are_refused(text: str) -> None:
    assert _decode(text.encode(), None) is None
    data = f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":{text}}}]}}'
    assert _decode(data.encode(), None) is None


@given(st.lists(_tensors(), max_size=3), st.booleans())
def test_a_message_of_grpc_is_read_as_it_was_written_and_answered_alike(tensors: list[Tensor], raw: bool) -> None:
    raw = raw or any(tensor.datatype == "FP16" for tensor in tensors)
    answer: Any = answered(Inference("m", "1", tensors), Request(raw_input_contents=[b""] if raw else []))
    request = Request(model_name="m")
    for output in answer.outputs:
        one = request.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if output.HasField("contents"):
            one.contents.CopyFrom(output.contents)
    request.raw_input_contents.extend(answer.raw_output_contents)
    question = question_of(Request.FromString(request.SerializeToString()), {}, deadline=math.inf)
    assert all(_same(one, other) for one, other in zip(question.inputs, tensors, strict=True))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_of_grpc_or_none_and_then_a_question_or_refused(body: bytes) -> None:
    try:
        request = Request.FromString(body)
    except DecodeError:
        return
    try:
        question_of(request, parameters_of(request.parameters), deadline=math.inf)
    except ContractError as error:
        _is_told(error)
