"""How values of Avro's simple types become values of a source's fields.

Law: nothing is turned into what it is not unawares: a number that is an instant is read as an instant alone.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.sources.formats.columns import Columns
from trilane.sources.formats.cursor import Cursor, Fault, Ints
from trilane.sources.formats.protocol import Unfit
from trilane.types import Field

__all__ = ["WIDTHS", "Schema", "Step", "leaf"]

Schema: TypeAlias = Any  # Avro's own JSON, checked by fastavro
Step: TypeAlias = Callable[[Cursor, Columns], None]

_EXACT = 2**53  # integers below it are floats, and their quotients by powers of ten up to 22 are rounded once
_PER_MICROSECOND = {"timestamp-millis": (1_000, 1), "timestamp-micros": (1, 1), "timestamp-nanos": (1, 1_000)}
WIDTHS = {"null": 0, "boolean": 1, "float": 4, "double": 8}


def leaf(schema: Schema, kind: str, field: Field) -> Step:
    """Reads a value of a simple type into its column."""
    logical = schema.get("logicalType") if isinstance(schema, dict) else None
    name, wanted = field.name, field.dtype.name
    found: Callable[[Cursor], npt.NDArray[Any]] | None = None
    if wanted == "timestamp" and kind == "string":

        def read_text(cursor: Cursor, columns: Columns) -> None:
            columns.put_instants(name, cursor.rows, cursor.span(cursor.zigzag()))

        return read_text
    if wanted == "timestamp" and kind == "long" and logical in _PER_MICROSECOND:
        times, over = _PER_MICROSECOND[logical]
        found = lambda cursor: _scaled(cursor.zigzag(), times, over)  # noqa: E731
    elif wanted == "timestamp" and logical == "date":
        found = lambda cursor: _scaled(cursor.zigzag(), 86_400_000_000, 1)  # noqa: E731
    elif wanted == "float64" and logical == "decimal":
        found = _decimals(schema, kind)
    elif wanted == "float64" and kind in ("float", "double"):
        found = _floats(WIDTHS[kind])
    elif wanted in ("int64", "float64") and kind in ("int", "long") and not _is_moment(logical):
        found = Cursor.zigzag
    elif wanted == "bool" and kind == "boolean":
        found = _booleans
    elif wanted == "string" and kind == "string":
        found = lambda cursor: cursor.span(cursor.zigzag())  # noqa: E731
    elif wanted == "string" and kind == "enum":
        found = _symbols(schema["symbols"])
    elif wanted == "string" and kind == "fixed" and logical == "uuid":
        found = _uuids
    if found is None:
        what = f"{kind} ({logical})" if logical else kind
        raise Unfit(f"$.{name}", f"{what} in the schema cannot be read as {wanted}")
    take = found

    def read(cursor: Cursor, columns: Columns) -> None:
        columns.put(name, cursor.rows, take(cursor))

    return read


def _is_moment(logical: str | None) -> bool:
    """Whether a number is an instant, which nobody should take for a number unawares."""
    return logical is not None and ("timestamp" in logical or logical == "date")


def _scaled(numbers: Ints, times: int, over: int) -> Ints:
    """In microseconds; what does not fit lies outside of all years anyway."""
    most = 2**62 // times
    return np.clip(numbers, -most, most) * times // over


def _floats(width: int) -> Callable[[Cursor], npt.NDArray[Any]]:
    def read(cursor: Cursor) -> npt.NDArray[Any]:
        with np.errstate(invalid="ignore"):  # a signalling NaN is one like any other
            return np.asarray(cursor.words(width).view(f"<f{width}")[:, 0], np.float64)

    return read


def _booleans(cursor: Cursor) -> npt.NDArray[Any]:
    found = cursor.byte()
    cursor.refuse(found > 1)
    return np.asarray(found == 1)


def _symbols(symbols: Sequence[str]) -> Callable[[Cursor], Ints]:
    encoded = [symbol.encode() for symbol in symbols]
    joined = np.frombuffer(b"".join(encoded), np.uint8)
    lengths = np.array([len(one) for one in encoded], np.int64)
    starts = np.cumsum(lengths) - lengths

    def read(cursor: Cursor) -> Ints:
        number = cursor.zigzag()
        bad = (number < 0) | (number >= len(encoded))
        cursor.refuse(bad)
        number = np.where(bad, 0, number)
        return np.stack([starts[number] + cursor.texts.add(joined), lengths[number]], axis=1)

    return read


def _uuids(cursor: Cursor) -> Ints:
    raw = cursor.words(16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.full((len(raw), 36), ord("-"), np.uint8)
    spots = np.array([spot for spot in range(36) if spot not in (8, 13, 18, 23)])
    text[:, spots[0::2]], text[:, spots[1::2]] = digits[raw >> 4], digits[raw & 15]
    starts = cursor.texts.add(text) + 36 * np.arange(len(raw))
    return np.stack([starts, np.full(len(raw), 36)], axis=1)


def _decimals(schema: Schema, kind: str) -> Callable[[Cursor], npt.NDArray[np.float64]]:
    """The floats nearest to decimals, which are big-endian numbers over a power of ten."""
    scale = int(schema.get("scale", 0))
    context = decimal.Context(prec=1_000, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)

    def nearest(digits: int) -> float:
        try:
            return float(context.scaleb(context.create_decimal(digits), -scale))
        except (decimal.DecimalException, OverflowError):
            return np.inf

    def read(cursor: Cursor) -> npt.NDArray[np.float64]:
        lengths = np.full(len(cursor.rows), schema["size"]) if kind == "fixed" else cursor.zigzag()
        spans = cursor.span(lengths)
        numbers = np.zeros(len(spans), np.int64)
        huge = spans[:, 1] > 8
        for byte in range(8):
            places = np.flatnonzero((spans[:, 1] > byte) & ~huge)
            found = cursor.texts.raw[spans[places, 0] + byte].astype(np.int64)
            numbers[places] = (numbers[places] << 8) | (found if byte else found.astype(np.int8))
        huge |= np.abs(numbers) >= _EXACT
        if scale > 22:
            huge[:] = True
        result = numbers / 10.0 ** min(scale, 22)
        plain = cursor.texts.plain if huge.any() else b""
        for place in np.flatnonzero(huge).tolist():
            start, length = spans[place].tolist()
            result[place] = nearest(int.from_bytes(plain[start : start + min(length, 400)], "big", signed=True))
        cursor.refuse(spans[:, 1] > 400, Fault("type", "$", "a decimal has more than 400 bytes"))
        return result

    return read
