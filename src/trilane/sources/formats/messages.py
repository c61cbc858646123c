"""From a Protobuf message's descriptor to the steps that read the wanted fields of many messages at once.

Laws: a message that a source cannot be read from is refused with the path to the reason; a step reads each value within
its own bytes, in time that grows with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trilane.sources.formats.columns import Columns
from trilane.sources.formats.cursor import Cursor, Fault, Ints
from trilane.sources.formats.protocol import Unfit
from trilane.types import Field

__all__ = ["Reader", "reader"]

Descriptor: TypeAlias = Any  # of Protobuf, whose adapter alone imports it
_Step: TypeAlias = Callable[[Cursor, Columns], None]
_Numbers = npt.NDArray[Any]

_VARINT, _WIDE, _TEXT, _GROUP, _NARROW = 0, 1, 2, 3, 5
_MESSAGE, _ENUM, _STRING, _BOOL = 11, 14, 9, 8
_WIRE = {1: _WIDE, 6: _WIDE, 16: _WIDE, 2: _NARROW, 7: _NARROW, 15: _NARROW, 9: _TEXT, 11: _TEXT, 12: _TEXT}
_FIXED = {1: "<f8", 2: "<f4", 6: "<u8", 7: "<u4", 15: "<i4", 16: "<i8"}
_TOGETHER, _MOST = 64, 1_000  # turns in which all are read together; turns at all
_ODD = Fault("protobuf", "$", "the message sets its fields too often")
_DEEPEST = 64


def reader(message: Descriptor, fields: Sequence[Field], paths: Mapping[str, str]) -> Reader:
    """The reader of values of `message`. `paths`: where a field lies, if not under its own name. Raises Unfit."""
    wanted: dict[str, Any] = {}
    for field in fields:
        place, way = wanted, paths.get(field.name, field.name).split(".")
        for name in way[:-1]:
            place = place.setdefault(name, {})
            if isinstance(place, Field):
                raise Unfit(f"$.{field.name}", "a path leads through another field")
        place[way[-1]] = field
    return Reader(message, wanted, "$")


class Reader:
    """Reads messages of one type; `absent`: the fields that have a value though none is set, and its symbol."""

    def __init__(self, message: Descriptor, wanted: Mapping[str, Any], path: str) -> None:
        self._steps: dict[int, _Step] = {}
        self.absent: list[tuple[str, str]] = []
        known = message.fields_by_name
        self._names: dict[str, list[str]] = {name: _leaves(target) for name, target in wanted.items()}
        for name, target in wanted.items():
            if name not in known:
                for field in _fields(target):
                    if not field.nullable:
                        raise Unfit(
                            f"$.{field.name}", f"{message.full_name} has no field {name!r}, and it may not be null"
                        )
                continue
            found = known[name]
            if found.is_repeated:
                raise Unfit(f"$.{_leaves(target)[0]}", f"{name} is repeated in {message.full_name}")
            step = self._step(found, target, f"{path}.{name}")
            self._steps[found.number << 3 | _WIRE.get(found.type, _VARINT)] = self._alone(found, step)

    def read(self, cursor: Cursor, columns: Columns) -> None:
        """Reads one message between each place and end of `cursor`."""
        for name, symbol in self.absent:
            fresh = cursor.rows[~columns.valid[name][cursor.rows]]
            if symbol:
                columns.put_text(name, fresh, symbol)
            else:
                columns.put(name, fresh, np.zeros(1, columns.values[name].dtype))
        going = np.flatnonzero(cursor.at < cursor.end)
        turn = 0
        while len(going):
            part = cursor.only(going)
            if turn >= _TOGETHER or len(going) < 4:
                self._forward(part)
            if turn >= _MOST:
                part.refuse(part.at < part.end, _ODD)
                part.at = part.end.copy()
            left = np.flatnonzero(part.at < part.end)
            if len(left) == len(going):
                self._turn(part, columns)
            elif len(left):
                rest = part.only(left)
                self._turn(rest, columns)
                part.join(left, rest)
            cursor.join(going, part)
            sound = cursor.texts.faulty[part.rows] < 0
            going = going[(part.at < part.end) & sound]
            turn += 1

    def _turn(self, cursor: Cursor, columns: Columns) -> None:
        """Reads the next field of each."""
        tags = cursor.varint()
        first = tags[0]
        if (tags == first).all():
            self._field(int(first), cursor, columns)
            return
        for tag in np.unique(tags).tolist():
            places = np.flatnonzero(tags == tag)
            part = cursor.only(places)
            self._field(tag, part, columns)
            cursor.join(places, part)

    def _field(self, tag: int, cursor: Cursor, columns: Columns) -> None:
        step = self._steps.get(tag)
        wire = tag & 7
        if tag >> 3 == 0 or tag >= 2**32 or wire in (4, 6, 7):
            cursor.refuse(np.ones(len(cursor.rows), bool))
        elif step is not None:
            step(cursor, columns)
        elif wire == _VARINT:
            cursor.varint()
        elif wire == _TEXT:
            cursor.span(cursor.varint().view(np.int64))
        elif wire == _GROUP:
            self._one_by_one(cursor, lambda plain, at, end: _skip(plain, at, end, tag, 0))
        else:
            cursor.skip(8 if wire == _WIDE else 4)

    def _forward(self, cursor: Cursor) -> None:
        """Moves each to its next wanted field."""

        def move(plain: bytes, at: int, end: int) -> int:
            while at < end:
                tag, after = _varint(plain, at, end)
                if tag in self._steps:
                    return at
                at = _skip(plain, after, end, tag, 0)
            return at

        self._one_by_one(cursor, move)

    def _one_by_one(self, cursor: Cursor, move: Callable[[bytes, int, int], int]) -> None:
        plain, ends = cursor.texts.plain, cursor.end.tolist()
        bad = np.zeros(len(ends), bool)
        for place, at in enumerate(cursor.at.tolist()):
            try:
                cursor.at[place] = move(plain, at, ends[place])
            except ValueError:
                bad[place], cursor.at[place] = True, ends[place]
        cursor.refuse(bad)

    def _alone(self, found: Descriptor, step: _Step) -> _Step:
        """The step, which takes the values of others of its oneof away."""
        if found.containing_oneof is None:
            return step
        others = [one.name for one in found.containing_oneof.fields if one is not found and one.name != found.name]
        names = [leaf for name in others for leaf in self._names.get(name, ())]

        def read(cursor: Cursor, columns: Columns) -> None:
            for name in names:
                columns.valid[name][cursor.rows] = False
            step(cursor, columns)

        return read

    def _step(self, found: Descriptor, target: Any, path: str) -> _Step:  # noqa: ANN401
        if found.type == _MESSAGE:
            return _message(found.message_type, target, path)
        if not isinstance(target, Field):
            raise Unfit(f"$.{_leaves(target)[0]}", f"{path[2:]} is no message")
        if not found.has_presence:
            symbols = {one.number: one.name for one in found.enum_type.values} if found.type == _ENUM else {}
            is_text = target.dtype.name == "string"
            self.absent.append((target.name, symbols.get(found.default_value, "") if is_text else ""))
        return _leaf(found, target)


def _message(message: Descriptor, target: Any, path: str) -> _Step:  # noqa: ANN401
    """Reads a message within a message."""
    if isinstance(target, Field):
        if message.full_name == "google.protobuf.Timestamp" and target.dtype.name == "timestamp":
            return _moment(target)
        if not (message.full_name.startswith("google.protobuf.") and message.name.endswith("Value")):
            hint = f"name one of its fields in paths: {{{target.name!r}: '{path[2:]}.<field>'}}"
            raise Unfit(f"$.{target.name}", f"it is the message {message.full_name}; {hint}")
        target = {"value": target}
    inner = Reader(message, target, path)

    def read(cursor: Cursor, columns: Columns) -> None:
        inner.read(_within(cursor), columns)

    return read


def _within(cursor: Cursor) -> Cursor:
    spans = cursor.span(cursor.varint().view(np.int64))
    return Cursor(cursor.texts, spans[:, 0].copy(), spans.sum(axis=1), cursor.rows, cursor.broken)


def _moment(field: Field) -> _Step:
    """Reads a google.protobuf.Timestamp: seconds and nanoseconds, of which microseconds are kept."""
    parts = Reader.__new__(Reader)
    parts.absent, parts._names = [], {}
    parts._steps = {8: _spare(f"{field.name}.seconds"), 16: _spare(f"{field.name}.nanos")}
    wrong = Fault("type", f"$.{field.name}", "the instant lies outside the years 1 to 9999")

    def read(cursor: Cursor, columns: Columns) -> None:
        count = len(cursor.texts.faulty)
        for name in ("seconds", "nanos"):
            columns.spare.setdefault(f"{field.name}.{name}", np.zeros(count, np.int64))
        parts.read(_within(cursor), columns)
        seconds = columns.spare[f"{field.name}.seconds"][cursor.rows]
        nanos = columns.spare[f"{field.name}.nanos"][cursor.rows]
        bad = (nanos < 0) | (nanos >= 10**9) | (np.abs(seconds) > 2**40)
        cursor.refuse(bad, wrong)
        columns.put(field.name, cursor.rows, np.where(bad, 0, seconds) * 1_000_000 + np.where(bad, 0, nanos) // 1_000)

    return read


def _spare(name: str) -> _Step:
    def read(cursor: Cursor, columns: Columns) -> None:
        columns.spare[name][cursor.rows] = cursor.varint().view(np.int64)

    return read


def _leaf(found: Descriptor, field: Field) -> _Step:
    """Reads a value of a simple type into its column."""
    name, wanted, kind = field.name, field.dtype.name, found.type
    if wanted == "timestamp" and kind == _STRING:

        def read_text(cursor: Cursor, columns: Columns) -> None:
            columns.put_instants(name, cursor.rows, cursor.span(cursor.varint().view(np.int64)))

        return read_text
    take: Callable[[Cursor], _Numbers] | None = None
    is_number = kind not in (_BOOL, _STRING, 10, _MESSAGE, 12)
    if wanted == "string" and kind == _STRING:
        take = lambda cursor: cursor.span(cursor.varint().view(np.int64))  # noqa: E731
    elif wanted == "string" and kind == _ENUM:
        take = _named(found.enum_type, name)
    elif wanted == "bool" and kind == _BOOL:
        take = lambda cursor: np.asarray(cursor.varint() != 0)  # noqa: E731
    elif is_number and (wanted == "float64" or (wanted == "int64" and kind not in (1, 2))):
        take = _number(kind, wanted, name)
    if take is None:
        raise Unfit(f"$.{name}", f"{_KINDS.get(kind, 'an integer')} in the message cannot be read as {wanted}")
    found_by = take

    def read(cursor: Cursor, columns: Columns) -> None:
        columns.put(name, cursor.rows, found_by(cursor))

    return read


_KINDS = {1: "double", 2: "float", 8: "bool", 9: "string", 11: "message", 12: "bytes", 14: "enum"}


def _number(kind: int, wanted: str, name: str) -> Callable[[Cursor], _Numbers]:
    narrow = kind in (5, 13, 14, 17)
    large = Fault("type", f"$.{name}", "Expected `int` <= 9223372036854775807")

    def read(cursor: Cursor) -> _Numbers:
        if kind in _FIXED:
            raw = cursor.words(int(_FIXED[kind][2])).view(_FIXED[kind])[:, 0]
        elif kind in (17, 18):
            raw = cursor.zigzag()
        else:
            raw = cursor.varint()
            if kind in (3, 5, 14):
                raw = raw.view(np.int64)
        if narrow:
            raw = raw.astype(np.uint32 if kind == 13 else np.int32)
        if wanted == "int64" and raw.dtype == np.uint64:
            bad = raw > 2**63 - 1
            cursor.refuse(bad, large)
            raw = np.where(bad, 0, raw)
        return raw.astype(np.float64 if wanted == "float64" else np.int64)

    return read


def _named(enum: Descriptor, name: str) -> Callable[[Cursor], Ints]:
    by_number = {value.number: value.name.encode() for value in reversed(enum.values)}
    order = np.array(sorted(by_number))
    encoded = [by_number[number] for number in order.tolist()]
    pool = np.frombuffer(b"".join(encoded), np.uint8)
    lengths = np.array([len(one) for one in encoded], np.int64)
    starts = np.cumsum(lengths) - lengths
    unknown = Fault("type", f"$.{name}", f"the number is none of {enum.full_name}")

    def read(cursor: Cursor) -> Ints:
        numbers = cursor.varint().astype(np.int32)
        places = np.minimum(np.searchsorted(order, numbers), len(order) - 1)
        cursor.refuse(order[places] != numbers, unknown)
        return np.stack([starts[places] + cursor.texts.add(pool), lengths[places]], axis=1)

    return read


def _fields(target: Any) -> list[Field]:  # noqa: ANN401
    if isinstance(target, Field):
        return [target]
    return [field for inner in target.values() for field in _fields(inner)]


def _leaves(target: Any) -> list[str]:  # noqa: ANN401
    return [field.name for field in _fields(target)]


def _skip(plain: bytes, at: int, end: int, tag: int, depth: int) -> int:
    """Where the field with this tag ends. Raises ValueError if it does not by `end`."""
    wire = tag & 7
    if depth > _DEEPEST or tag >> 3 == 0 or tag >= 2**32:
        raise ValueError("no field")
    if wire == _VARINT:
        return _varint(plain, at, end)[1]
    if wire == _GROUP:
        while True:
            inner, at = _varint(plain, at, end)
            if inner == tag + 1:
                return at
            at = _skip(plain, at, end, inner, depth + 1)
    if wire == _TEXT:
        length, at = _varint(plain, at, end)
    elif wire in (_WIDE, _NARROW):
        length = 8 if wire == _WIDE else 4
    else:
        raise ValueError("no field")
    if length > end - at:
        raise ValueError("too long")
    return at + length


def _varint(plain: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = plain[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no end")
