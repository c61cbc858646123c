"""Tensors in JSON and in bytes: what is nothing special goes a shorter way to the same array."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES
from trilane.serving.protocol.oip_tensors import LONG, from_bytes, from_json, from_values, to_bytes

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


@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), datatype=st.sampled_from(["FP32", "INT64", "BOOL"]))
def test_long_lists_in_lists_are_read_as_short_ones_are(shape: list[int], datatype: str) -> None:
    values = (np.arange(math.prod(shape)) % 2).reshape(shape)
    plain = json.dumps(values.astype(bool).tolist() if datatype == "BOOL" else values.tolist())
    long = plain.replace(",", ", " + " " * LONG, 1)
    found = [from_json(msgspec.Raw(text.encode()), datatype, shape, "it") for text in (plain, long)]
    assert found[0].dtype == found[1].dtype
    assert found[0].tolist() == found[1].tolist() == values.astype(found[0].dtype).tolist()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[[1,2],[3]]", "it.data"),
        ("[[1,2],[3,4],[5,6]]", "it.data"),
        ("[[1,2],[[3],4]]", "it.data[1][0]"),
        ("[[1,2],[3,{}]]", "it.data[3]"),
        ("[[1,2],[3,true]]", "it.data[3]"),
        ('[[1,2],[3,"4"]]', "it.data[1][1]"),
        ("[[],[]]", "it.data"),
        ("[[1,2],3]", "it.data[1]"),
    ],
)
def test_long_lists_that_are_not_nested_as_the_shape_says_are_refused(text: str, where: str) -> None:
    long = msgspec.Raw((text + " " * LONG).encode())
    with pytest.raises(ContractError) as caught:
        from_json(long, "FP32", [2, 2], "it")
    assert caught.value.where == where


def test_a_tensor_without_axes_is_one_element_alone_or_in_a_list() -> None:
    for text in (b"3.5", b"[3.5]"):
        assert from_json(msgspec.Raw(text), "FP64", [], "it").tolist() == 3.5
    assert from_json(msgspec.Raw(b'"a"'), "BYTES", [], "it").tolist() == b"a"
    with pytest.raises(ContractError, match="nested 0 deep"):
        from_json(msgspec.Raw(b"3.5"), "FP64", [1], "it")
