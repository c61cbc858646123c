"""Tensors in JSON and in bytes: what is nothing special goes a shorter way to the same array."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES
from trilane.serving.protocol.oip_tensors import from_bytes, from_json, from_values, to_bytes

FLOATS = ("FP16", "FP32", "FP64")
numbers = st.floats(width=32) | st.floats(allow_infinity=False) | st.integers(-(2**70), 2**70) | st.none()


def _outcome(read: Any, values: object, datatype: str, shape: list[int]) -> object:
    try:
        return to_bytes(read(values, datatype, shape, "inputs[0]"), datatype)
    except ContractError as error:
        return error.where, error.what


def _json(values: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(values).encode())


@given(st.lists(numbers, max_size=6), st.sampled_from(FLOATS), st.integers(0, 7))
def test_a_list_in_json_is_read_as_its_decoded_values_are(values: list[Any], datatype: str, length: int) -> None:
    finite = [None if isinstance(one, float) and not np.isfinite(one) else one for one in values]
    for shape in ([length], [1, len(values)], [len(values), 1]):
        told = _outcome(from_json, _json(finite), datatype, shape)
        assert told == _outcome(from_values, finite, datatype, shape)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (b"[1.5, 1e39]", "inputs[0].data[1]"),
        (b"[1.5, true]", "inputs[0].data[1]"),
        (b"[1.5]", "inputs[0].data"),
        (b"[1.5, 2.5", "inputs[0].data"),
        (b"1.5", "inputs[0].data"),
    ],
)
def test_what_is_no_list_of_two_floats_is_refused_with_its_path(text: bytes, where: str) -> None:
    with pytest.raises(ContractError) as told:
        from_json(msgspec.Raw(text), "FP32", [2], "inputs[0]")
    assert told.value.where == where


@pytest.mark.parametrize("text", [b"[[1.5, 2.5]]", b" [ [1.5, 2.5] ]", b"[1.5,2.5]", b" [ 1.5, 2.5 ]"])
def test_space_and_nesting_change_no_number(text: bytes) -> None:
    found = from_json(msgspec.Raw(text), "FP32", [1, 2], "inputs[0]")
    assert (found.dtype, found.tolist()) == (DATATYPES["FP32"], [[1.5, 2.5]])


@pytest.mark.parametrize("offset", [0, 1])
def test_raw_bytes_are_read_wherever_they_begin(offset: int) -> None:
    packed = memoryview(bytes(offset) + np.array([1.5, -2.5], "<f4").tobytes())[offset:]
    found = from_bytes(packed, "FP32", [1, 2], "inputs[0]")
    assert found.flags.aligned
    assert found.tolist() == [[1.5, -2.5]]
    for shape in ([2, 2], [0, 2], [1] * 16 + [2]):
        with pytest.raises(ContractError):
            from_bytes(packed, "FP32", shape, "inputs[0]")


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_no_numbers_take_a_thousand_times_as_long_as_others(datatype: str) -> None:
    def spent(token: bytes) -> float:
        text = msgspec.Raw(b"[%b]" % b",".join([token] * 20_000))
        began = time.thread_time()
        with contextlib.suppress(ContractError):
            from_json(text, datatype, [20_000], "x")
        return time.thread_time() - began

    usual = max(spent(b"1.5e10"), spent(b"1.5"), 1e-3)
    assert max(spent(b"1e308"), spent(b"-2.2e-308"), spent(b"1E+299")) < 30 * usual


def test_many_exponents_are_read_as_few_are() -> None:
    few, many = [1e-300, 1.5e300, -2.25e-308, 1e22, 3.0], [1e5] * 5_000
    text = b"[%b]" % b",".join(b"%e" % one if one != few[1] else b"1.5e300" for one in (*few, *many))
    assert len(text) > 16_384
    found = from_json(msgspec.Raw(text), "FP64", [len(few) + len(many)], "x")
    assert found.tolist() == [float(b"%e" % one) if one != few[1] else one for one in (*few, *many)]
    for token, told in (
        (b"1e400", "infinity"),
        (b"true", "bool"),
        (b'"1"', "str"),
        (b"{}", "object"),
        (b"[1]", "array"),
    ):
        wrong = msgspec.Raw(text[:-1] + b"," + token + b"]")
        with pytest.raises(ContractError, match=told):
            from_json(wrong, "FP64", [len(few) + len(many) + 1], "x")
    with pytest.raises(ContractError, match="beyond FP32"):
        from_json(msgspec.Raw(text), "FP32", [len(few) + len(many)], "x")
