"""What was read of many values, column by column, checked against the source's fields.

Laws: a row passes if the contract would take the same values as JSON: no null where none may be, numbers that are
finite and fit, instants of the years 1 to 9999, texts of UTF-8, constraints kept. Whatever is wrong with a row is told
once, the first in order of the fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.constraint import bound_text
from trilane.contract import Rejection, split_message
from trilane.sources.formats.cursor import Fault, Ints, Texts
from trilane.sources.formats.protocol import Decoded
from trilane.sources.instants import parse_instants
from trilane.types import Field, arrow_type

__all__ = ["Columns", "texts_of"]

_SMALLEST = -(2**63)  # an Int64 may not be it: its negation is none
_YEAR_ONE, _YEAR_10000 = -62_135_596_800_000_000, 253_402_300_800_000_000  # microseconds
_DTYPES: dict[str, npt.DTypeLike] = {"bool": np.bool_, "float64": np.float64}
_BREAKS = {"ge": np.less, "gt": np.less_equal, "le": np.greater, "lt": np.greater_equal}
_PYTHON = {"bool": "bool", "int64": "int", "float64": "float", "string": "str", "timestamp": "datetime"}


class Columns:
    """A column for each of `fields`: numbers, or for texts where they lie; all null at first."""

    def __init__(self, fields: Sequence[Field], texts: Texts) -> None:
        self._fields, self._texts = {field.name: field for field in fields}, texts
        count = len(texts.faulty)
        self.values: dict[str, npt.NDArray[Any]] = {
            f.name: np.zeros((count, 2), np.int64)
            if f.dtype.name == "string"
            else np.zeros(count, _DTYPES.get(f.dtype.name, np.int64))
            for f in fields
        }
        self.spare: dict[str, Ints] = {}  # parts of values, for those who read them
        self.valid = {f.name: np.zeros(count, bool) for f in fields}

    def put(self, name: str, rows: Ints, values: npt.NDArray[Any]) -> None:
        """Sets the values of a field in these rows; instants in microseconds, texts as starts and lengths."""
        self.values[name][rows] = values
        self.valid[name][rows] = True

    def put_text(self, name: str, rows: Ints, text: str) -> None:
        """Sets the same text, or the instant or number that it spells, in all of these rows."""
        spelled = np.frombuffer(text.encode(), np.uint8)
        start = self._texts.add(spelled)
        self.put(name, rows, np.broadcast_to(np.array([start, len(spelled)]), (len(rows), 2)))

    def put_instants(self, name: str, rows: Ints, spans: Ints) -> None:
        """Sets instants that are written as RFC 3339 texts."""
        texts, bad = _strings(texts_of(self._texts, spans))
        parsed = parse_instants(texts)
        if parsed is not None and not bad:
            self.put(name, rows, parsed.cast(pa.int64()).to_numpy())
            return
        for place, text in enumerate(texts.to_pylist()):
            row = rows[place : place + 1]
            try:
                when = msgspec.convert(text, self._fields[name].annotation)
            except msgspec.ValidationError as error:
                self._refuse(row, "type", name, split_message(str(error))[0])
            else:
                self.put(name, row, pa.array([when], pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())

    def finish(self) -> Decoded:
        """The rows without fault as a table, and the others as rejections."""
        columns = [self._column(field) for field in self._fields.values()]
        schema = pa.schema([pa.field(f.name, arrow_type(f), f.nullable) for f in self._fields.values()])
        faulty = self._texts.faulty
        indexes = np.flatnonzero(faulty < 0)
        if len(indexes) < len(faulty):
            taken = pa.array(indexes)
            columns = [column.take(taken) for column in columns]
        faults = self._texts.faults
        rejections = [
            Rejection(row, fault.code, fault.path, fault.reason)
            for row in np.flatnonzero(faulty >= 0).tolist()
            for fault in [faults[faulty[row]]]
        ]
        return Decoded(pa.table(columns, schema=schema), indexes, rejections)

    def _refuse(self, rows: Ints, code: str, name: str, reason: str) -> None:
        self._texts.refuse(rows, Fault(code, f"$.{name}", reason))

    def _column(self, field: Field) -> pa.Array:
        name, kind = field.name, field.dtype.name
        values, valid = self.values[name], self.valid[name]
        sound = self._texts.faulty < 0
        if not field.nullable:
            self._refuse(np.flatnonzero(~valid & sound), "type", name, f"Expected `{_PYTHON[kind]}`, got `null`")
        for bad, code, reason in _unfit(kind, values):
            self._refuse(np.flatnonzero(bad & valid), code, name, reason)
        for rule, bound in field.instants:
            self._refuse(np.flatnonzero(valid & _BREAKS[rule](values, bound)), "type", name, bound_text(rule, bound))
        if kind == "string":
            column, bad_texts = _strings(texts_of(self._texts, values, valid))
            self._refuse(np.asarray(bad_texts, np.int64), "type", name, "the text is no UTF-8")
        else:
            numbers = (
                np.where((values >= _YEAR_ONE) & (values < _YEAR_10000), values, 0) if _is_instant(kind) else values
            )
            column = pa.array(numbers, mask=~valid)
            column = column.cast(arrow_type(field)) if _is_instant(kind) else column
        if field.rules and not _is_instant(kind):
            self._keep(field, column)
        return column

    def _keep(self, field: Field, column: pa.Array) -> None:
        """Refuses values that break a constraint, in the words of the decoder of JSON."""
        rows = np.flatnonzero(self.valid[field.name] & (self._texts.faulty < 0))
        found = column.take(pa.array(rows)).to_pylist()
        with contextlib.suppress(msgspec.ValidationError):  # which of them it is, they are asked one by one below
            msgspec.convert(found, list[field.annotation])  # type: ignore[name-defined]
            return
        for row, value in zip(rows.tolist(), found, strict=True):
            try:
                msgspec.convert(value, field.annotation)
            except msgspec.ValidationError as error:
                self._refuse(np.array([row]), "type", field.name, split_message(str(error))[0])


def _is_instant(kind: str) -> bool:
    return kind == "timestamp"


def _unfit(kind: str, values: npt.NDArray[Any]) -> list[tuple[npt.NDArray[np.bool_], str, str]]:
    """Which values no JSON of this type could have."""
    if kind == "float64":
        return [(~np.isfinite(values), "nan", "the number is not finite")]
    if kind == "int64":
        return [(values == _SMALLEST, "type", f"Expected `int` >= {_SMALLEST + 1}")]
    if kind == "timestamp":
        beyond = (values < _YEAR_ONE) | (values >= _YEAR_10000)
        return [(beyond, "type", "the instant lies outside the years 1 to 9999")]
    return []


def texts_of(texts: Texts, spans: Ints, valid: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """The bytes at `spans` as one binary array; null where not `valid`."""
    starts, lengths = spans[:, 0], spans[:, 1]
    if valid is not None and not valid.all():
        lengths = np.where(valid, lengths, 0)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    places = np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
    mask = None if valid is None else pa.array(valid)
    bitmap = None if mask is None else mask.buffers()[1]
    return pa.Array.from_buffers(
        pa.binary(), len(spans), [bitmap, pa.py_buffer(offsets), pa.py_buffer(texts.raw[places])]
    )


def _strings(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The column as strings, with empty ones in the places of those that are no UTF-8."""
    with contextlib.suppress(pa.ArrowInvalid):  # which of them it is, they are asked one by one below
        return column.cast(pa.string()), []
    found, bad = column.to_pylist(), []
    for place, value in enumerate(found):
        try:
            found[place] = None if value is None else value.decode()
        except UnicodeDecodeError:
            found[place] = ""
            bad.append(place)
    return pa.array(found, pa.string()), bad
