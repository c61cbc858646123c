"""Frames of tensors: what goes in comes out, and what lies is a ValueError, never anything worse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from trilane.models.runtime.wire import PREFIX, Head, lengths, pack, unpack
from trilane.models.tensor import DATATYPES, TensorSpec

SHAPES = hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw: Any) -> tuple[TensorSpec, Any]:
    datatype, shape = draw(st.sampled_from(sorted(DATATYPES))), draw(SHAPES)
    if datatype == "BYTES":
        array = draw(hn.arrays(object, shape, elements=st.binary(max_size=9)))
    else:
        array = draw(hn.arrays(DATATYPES[datatype], shape))
    return TensorSpec("x", datatype, shape), array


@given(st.lists(tensors(), max_size=3))
def test_what_is_packed_is_unpacked(given: list[tuple[TensorSpec, Any]]) -> None:
    frame = b"".join(pack(Head("run", "what"), [array for _, array in given], [spec for spec, _ in given]))
    head, body = lengths(frame[: PREFIX.size])
    text, content = frame[PREFIX.size : PREFIX.size + head], frame[PREFIX.size + head :]
    assert len(content) == body
    found = unpack(text, content)
    assert (found.head.kind, found.head.what) == ("run", "what")
    for (spec, array), back in zip(given, found.arrays, strict=True):
        assert back.dtype == DATATYPES[spec.datatype]
        assert back.shape == array.shape
        assert back.tolist() == array.tolist() or back.tobytes() == array.tobytes()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_in_order(text: bytes, body: bytes) -> None:
    for head in (text, b'{"kind":"run","parts":[["BYTES",[9],%d]]}' % len(body), b'{"kind":"run","parts":' + text):
        with pytest.raises(ValueError, match=r"frame"):
            unpack(head, body + b"\xff\xff\xff\xff")


@pytest.mark.parametrize(
    "parts",
    ['["FP32",[-1],4]', '["FP32",[4000000000000],4]', '["FP99",[1],4]', '["FP32",[1],-4]', '["BYTES",[1000000000],4]'],
)
def test_a_head_that_lies_of_sizes_is_refused(parts: str) -> None:
    with pytest.raises(ValueError, match="frame"):
        unpack(b'{"kind":"run","parts":[%s]}' % parts.encode(), b"\0\0\0\0")


def test_a_prefix_that_is_none_or_promises_too_much_is_refused() -> None:
    for prefix in (b"GET ", b"TLT1"):
        with pytest.raises(ValueError, match="no frame"):
            lengths(PREFIX.pack(prefix, 1 << 30, 1 << 60))
