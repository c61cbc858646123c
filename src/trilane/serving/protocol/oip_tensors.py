"""Tensors as the Open Inference Protocol writes them: raw bytes, or JSON.

Laws: what does not hold exactly what its shape promises is refused with its path, before memory is taken for it; no
number changes silently: one that its data type cannot hold is refused. Raw bytes are read in place.
"""

from __future__ import annotations

import functools
import math
import re
import struct
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from trilane.contract import NOT_JSON, split_message
from trilane.errors import ContractError
from trilane.models.tensor import DATATYPES

__all__ = [
    "LONG",
    "Array",
    "elements_of",
    "from_bytes",
    "from_json",
    "from_values",
    "objects",
    "of_floats",
    "to_bytes",
    "to_json",
    "type_of",
]

Array: TypeAlias = npt.NDArray[Any]

_MOST = 1 << 40  # elements that a shape may promise
_DEEPEST = 16  # axes
_FEW = 16  # numbers that are quicker told as a list
LONG, _MANY = 16_384, 256  # bytes of a text, and exponents in it, from which these are read by what is quick at them
_FLOATS = ("FP16", "FP32", "FP64")


def _elements() -> dict[str, Any]:
    """What msgspec shall find in the lists of each data type."""
    found: dict[str, Any] = {"BOOL": bool, "INT64": int, "BYTES": str, **dict.fromkeys(_FLOATS, float | None)}
    found["UINT64"] = Annotated[
        int, msgspec.Meta(ge=0)
    ]  # the upper bound is NumPy's to check: msgspec has none as large
    for bits in (8, 16, 32):
        found[f"UINT{bits}"] = Annotated[int, msgspec.Meta(ge=0, le=2**bits - 1)]
        found[f"INT{bits}"] = Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
    return found


_ELEMENTS = _elements()
_PLAIN = {name: kind for name, kind in DATATYPES.items() if name not in ("BYTES", "BOOL")}  # any bits are a value
_COMPACT = {"FP32": "f", "FP64": "d"}
_flat_floats = msgspec.json.Decoder(list[float]).decode
_OPENING = re.compile(rb"[\s\[]*")
_LENGTH = struct.Struct("<I")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


def type_of(datatype: str, where: str) -> np.dtype[Any]:
    """NumPy's type for a data type. Raises ContractError if it is none."""
    found = DATATYPES.get(datatype)
    if found is None:
        what, remedy = f"{datatype!r} is no data type", f"Use {', '.join(DATATYPES)}"
        raise ContractError(what, where=f"{where}.datatype", remedy=remedy)
    return found


def elements_of(shape: Sequence[int], where: str) -> int:
    """How many elements a shape promises. Raises ContractError for one that no tensor has."""
    count = volume = 1
    for length in shape:
        count *= length
        volume *= length or 1  # what an axis of length 0 hides
    if len(shape) > _DEEPEST or volume > _MOST or volume < 1 or (shape and min(shape) < 0):
        remedy = f"Send up to {_DEEPEST} lengths from 0, of up to {_MOST} elements together"
        what = f"{_short(shape)} is the shape of no tensor that is taken"
        raise ContractError(what, where=f"{where}.shape", remedy=remedy)
    return count


def from_bytes(view: memoryview, datatype: str, shape: Sequence[int], where: str) -> Array:
    """The array that raw bytes hold: little-endian, row-major, BYTES each after its length. Raises ContractError."""
    plain = _PLAIN.get(datatype)
    if plain is not None and 0 < math.prod(shape) * plain.itemsize == len(view) and len(shape) <= _DEEPEST:
        array = np.frombuffer(view, plain).reshape(shape)
        return array if array.flags.aligned else array.copy()
    kind, count = type_of(datatype, where), elements_of(shape, where)
    if datatype == "BYTES":
        return objects(_texts(view, count, where), shape)
    if len(view) != count * kind.itemsize:
        what = f"{len(view)} bytes, where {_short(shape)} of {datatype} has {count * kind.itemsize}"
        raise ContractError(what, where=where, remedy="Send each element in its own size, and nothing between")
    array = np.frombuffer(view, kind).reshape(shape)
    if datatype == "BOOL" and count and array.view(np.uint8).max() > 1:
        raise ContractError("a byte that is neither 0 nor 1", where=where, remedy="Send 1 for true and 0 for false")
    return array if array.flags.aligned else array.copy()


def to_bytes(array: Array, datatype: str) -> bytes:
    """The raw bytes of an array."""
    if datatype != "BYTES":
        return array.astype(DATATYPES[datatype], copy=False).tobytes()
    return b"".join(part for text in array.reshape(-1).tolist() for part in (_LENGTH.pack(len(text)), text))


def from_json(text: msgspec.Raw, datatype: str, shape: Sequence[int], where: str) -> Array:
    """The array of a JSON list, flat or nested as its shape. Raises ContractError."""
    if len(text) > LONG:
        flat = _flattened(bytes(text), shape) if datatype != "BYTES" else None
        if flat is not None:
            return from_json(msgspec.Raw(flat), datatype, [math.prod(shape)], where).reshape(shape)
        if datatype in _FLOATS and _has_exponents(bytes(text)):
            return from_values(_loaded(text, where), datatype, shape, where)
    usual = _usual(text, datatype, shape)
    if usual is not None:
        return usual
    type_of(datatype, where)
    opening = _OPENING.match(text)
    depth = bytes(opening[0]).count(b"[") if opening else 0
    return _array(lambda: _decoder(datatype, depth).decode(text), depth, datatype, shape, where)


def _flattened(text: bytes, shape: Sequence[int]) -> bytes | None:
    """The flat list of lists that are nested as the shape says; None if they are not, or if it takes a closer look.

    Lists in lists are slow to make: two million of a number each held up everybody for a second. In JSON that holds
    nothing but numbers and words, the brackets and commas alone tell whether each list has its length. A number that
    is at fault is told by its place in the flat list.
    """
    if not 1 < len(shape) <= _DEEPEST or b'"' in text or not 0 < math.prod(shape) <= len(text) or min(shape) < 1:
        return None
    expected = b"," * (shape[-1] - 1)
    for length in reversed(shape[:-1]):
        expected = b",".join([b"[" + expected + b"]"] * length)
    if text.translate(None, _NO_STRUCTURE) != b"[" + expected + b"]":
        return None
    return b"[" + text.translate(None, b"[]") + b"]"


def _has_exponents(text: bytes) -> bool:
    """Whether there are many. msgspec reads some of them, such as 1e308, a thousand times as slowly as others, and the
    million of them that a body may have would hold up everybody for twenty seconds; orjson knows no slow ones.
    """
    return text.count(b"e") + text.count(b"E") > _MANY


def _loaded(text: msgspec.Raw, where: str) -> object:
    try:
        return orjson.loads(memoryview(text))
    except orjson.JSONDecodeError as error:
        raise ContractError(str(error), where=f"{where}.data", remedy="Send elements of its data type") from None


def _usual(text: msgspec.Raw, datatype: str, shape: Sequence[int]) -> Array | None:
    """`of_floats` of a flat list; None for anything else."""
    if datatype not in _COMPACT or bytes(memoryview(text)[1:2]) == b"[":
        return None
    try:
        values = _flat_floats(text)
    except (*NOT_JSON, msgspec.ValidationError):  # the closer look tells what is wrong
        return None
    return of_floats(values, datatype, shape)


def of_floats(values: list[float], datatype: str, shape: Sequence[int]) -> Array | None:
    """The array of finite floats; None where it takes a closer look, which tells what is wrong."""
    code = _COMPACT.get(datatype)
    if code is None or not values or math.prod(shape) != len(values) or len(shape) > _DEEPEST:
        return None
    try:
        packed = _packer(code, len(values))(*values)
    except (struct.error, OverflowError):
        return None
    return np.ndarray(shape, DATATYPES[datatype], packed)


@functools.lru_cache(1_024)
def _packer(code: str, count: int) -> Callable[..., bytes]:
    """What packs so many floats, and refuses those that are too large for their type: NumPy's own way costs twice."""
    return struct.Struct(f"<{count}{code}").pack


def from_values(values: object, datatype: str, shape: Sequence[int], where: str) -> Array:
    """The array of a decoded list, flat or nested as its shape. Raises ContractError."""
    type_of(datatype, where)
    depth, first = 0, values
    while isinstance(first, list) and depth <= _DEEPEST:
        depth, first = depth + 1, first[0] if first else None
    kind: Any = _nested(datatype, depth)
    return _array(lambda: msgspec.convert(values, kind), depth, datatype, shape, where)


def to_json(array: Array, datatype: str) -> bytes:
    """The flat JSON list of an array; NaN and infinities, which JSON lacks, are null. Raises ContractError for BYTES
    that are no UTF-8.
    """
    if datatype == "FP64" and array.ndim == 1 and len(array) <= _FEW:
        return orjson.dumps(array.tolist())
    if datatype != "BYTES":
        return orjson.dumps(np.ascontiguousarray(array).reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        return orjson.dumps([text.decode() for text in array.reshape(-1).tolist()])
    except UnicodeDecodeError:
        raise ContractError(
            "an output is no text, and JSON holds nothing else", where="outputs", remedy='Ask for "binary_data": true'
        ) from None


def objects(values: Sequence[object], shape: Sequence[int]) -> Array:
    """An object array of `values`."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _array(decoded: Callable[[], Any], depth: int, datatype: str, shape: Sequence[int], where: str) -> Array:
    count = elements_of(shape, where)
    if not depth and not shape:  # the one element of a tensor without axes
        return _array(lambda: [decoded()], 1, datatype, shape, where)
    if depth not in (1, len(shape)) or not depth:
        what = f"lists nested {depth} deep, where the shape is {_short(shape)}"
        raise ContractError(what, where=f"{where}.data", remedy="Send one flat list, or lists nested as the shape")
    try:
        values = decoded()
        array = _of_texts(values, depth) if datatype == "BYTES" else _of_numbers(values, datatype, where)
    except msgspec.ValidationError as error:
        reason, path = split_message(str(error))
        raise ContractError(reason, where=f"{where}.data{path[1:]}", remedy=f"Send elements of {datatype}") from None
    except NOT_JSON as error:
        raise ContractError(
            f"malformed JSON: {error}", where=f"{where}.data", remedy="Send valid JSON", status=400
        ) from None
    except (ValueError, OverflowError) as error:
        remedy = f"Send lists of equal lengths, and elements of {datatype}"
        what = "lists of different lengths side by side" if "inhomogeneous" in str(error) else str(error)
        raise ContractError(what, where=f"{where}.data", remedy=remedy) from None
    if array.size != count or (depth > 1 and array.shape != tuple(shape)):
        what = f"data of shape {list(array.shape)}, where the shape is {_short(shape)}"
        raise ContractError(what, where=f"{where}.data", remedy="Send as many elements as the shape says")
    return array.reshape(shape)


def _of_numbers(values: list[Any], datatype: str, where: str) -> Array:
    with np.errstate(over="ignore"):
        array = np.array(values, DATATYPES[datatype])
    if datatype in ("FP16", "FP32") and not np.isfinite(array).all():
        whole = np.array(values, np.float64)
        wrong = np.flatnonzero(np.isinf(array) & np.isfinite(whole))
        if len(wrong):
            what = f"{float(whole.reshape(-1)[wrong[0]])!r} is beyond {datatype}"
            raise ContractError(what, where=f"{where}.data[{wrong[0]}]", remedy="Send it as FP64, or a smaller number")
    return array


def _of_texts(values: list[Any], depth: int) -> Array:
    shape = [len(values)]
    for _ in range(depth - 1):
        lengths = {len(one) for one in values}
        if len(lengths) > 1:
            raise ValueError("lists of different lengths side by side")
        shape.append(lengths.pop() if lengths else 0)
        values = [text for one in values for text in one]
    return objects([text.encode() for text in values], shape)


def _texts(view: memoryview, count: int, where: str) -> list[bytes]:
    whole, size, place = bytes(view), len(view), 0
    if count * 4 > size:
        what = f"{size} bytes are too few for {count} lengths of 4 bytes each"
        raise ContractError(what, where=where, remedy="Send each element after its length")
    texts, unpack = list[bytes](), _LENGTH.unpack_from
    for number in range(count):
        start = place + 4
        (length,) = unpack(whole, place) if start <= size else (size,)
        place = start + length
        if place > size:
            what = f"element {number} ends beyond the {size} bytes of the tensor"
            raise ContractError(what, where=where, remedy="Send each element after its length")
        texts.append(whole[start:place])
    if place != size:
        what = f"{size - place} bytes are left over after {count} elements"
        raise ContractError(what, where=where, remedy="Send as many elements as the shape says")
    return texts


@functools.lru_cache(256)
def _nested(datatype: str, depth: int) -> object:
    kind = _ELEMENTS[datatype]
    for _ in range(depth):
        kind = types.GenericAlias(list, kind)
    return kind


@functools.lru_cache(256)
def _decoder(datatype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind: Any = _nested(datatype, depth)
    return msgspec.json.Decoder(kind)


def _short(shape: Sequence[int]) -> str:
    return str(list(shape)) if len(shape) <= _DEEPEST else f"a shape of {len(shape)} axes"
