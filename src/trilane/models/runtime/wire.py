"""Tensors on their way to a model's process and back: a frame is a magic word, two lengths, a JSON head, raw arrays.

Laws: nothing is ever unpickled; lengths are checked before anything is made of them, so that a frame that lies is a
ValueError, not a full memory; arrays are C-contiguous and little-endian, BYTES are each a length and the bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trilane.models.runtime.protocol import Arrays
from trilane.models.tensor import DATATYPES, TensorSpec

__all__ = ["PREFIX", "Frame", "Head", "lengths", "pack", "unpack"]

PREFIX = struct.Struct("<4sIQ")
_MAGIC = b"TLT1"
_HEAD_BYTES, _BODY_BYTES = 1 << 20, 8 << 30


class _Part(msgspec.Struct, array_like=True, frozen=True):
    datatype: str
    shape: tuple[int, ...]
    size: int


class Head(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a frame says: `kind` is open, opened, run, done, failed or dead; the other facts go with some of them."""

    kind: str
    what: str = ""
    remedy: str = ""
    error: str = ""
    facts: dict[str, Any] = {}
    parts: tuple[_Part, ...] = ()


class Frame(msgspec.Struct, frozen=True):
    """A head, and the arrays that came with it."""

    head: Head
    arrays: list[npt.NDArray[Any]]


def pack(head: Head, arrays: Arrays = (), specs: Sequence[TensorSpec] = ()) -> list[bytes | memoryview]:
    """The pieces of a frame, to be written one after another; `specs` say the data types of `arrays`."""
    bodies = [_body(array, spec.datatype) for array, spec in zip(arrays, specs, strict=True)]
    parts = tuple(
        _Part(spec.datatype, array.shape, len(body)) for array, spec, body in zip(arrays, specs, bodies, strict=True)
    )
    text = msgspec.json.encode(msgspec.structs.replace(head, parts=parts))
    return [PREFIX.pack(_MAGIC, len(text), sum(map(len, bodies))), text, *bodies]


def lengths(prefix: bytes) -> tuple[int, int]:
    """The lengths of head and body. Raises ValueError for what is no frame."""
    magic, head, body = PREFIX.unpack(prefix)
    if magic != _MAGIC or head > _HEAD_BYTES or body > _BODY_BYTES:
        raise ValueError("this is no frame of tensors")
    return head, body


def unpack(text: bytes, body: bytes | bytearray) -> Frame:
    """The frame of a head and a body; its arrays are views of the body. Raises ValueError if they do not fit."""
    try:
        head = msgspec.json.decode(text, type=Head)
    except msgspec.DecodeError as error:
        raise ValueError(f"the head of a frame is broken: {error}") from None
    start, arrays, whole = 0, [], memoryview(body)
    for part in head.parts:
        stop = start + part.size
        if part.size < 0 or stop > len(whole) or min(part.shape, default=0) < 0 or part.datatype not in DATATYPES:
            raise ValueError("the sizes in a frame do not fit its body")
        arrays.append(_array(whole[start:stop], part))
        start = stop
    if start != len(whole):
        raise ValueError(f"{len(whole) - start} bytes of a frame belong to no tensor")
    return Frame(head, arrays)


def _body(array: npt.NDArray[Any], datatype: str) -> bytes | memoryview:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one)) + one for one in array.reshape(-1).tolist())
    found = np.ascontiguousarray(array, DATATYPES[datatype])
    return found.reshape(-1).view(np.uint8).data if found.size else b""


def _array(body: memoryview, part: _Part) -> npt.NDArray[Any]:
    dtype, count = DATATYPES[part.datatype], math.prod(part.shape)
    if part.datatype != "BYTES":
        if count * dtype.itemsize != len(body):
            raise ValueError("a tensor in a frame has another size than its shape")
        return np.frombuffer(body, dtype).reshape(part.shape)
    found, at = np.empty(min(count, len(body) // 4), object), 0
    for place in range(count):
        if at + 4 > len(body):
            raise ValueError("a tensor in a frame ends before its shape does")
        stop = at + 4 + int(struct.unpack_from("<I", body, at)[0])
        if stop > len(body):
            raise ValueError("a text in a frame ends outside of it")
        found[place] = bytes(body[at + 4 : stop])
        at = stop
    if at != len(body):
        raise ValueError("a tensor in a frame has another size than its shape")
    return found.reshape(part.shape)
