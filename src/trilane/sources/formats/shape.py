"""JSON objects of one shape, read together: they differ in nothing but the values of their fields.

A producer writes each event like the one before: the same fields in the same order, the same spaces. So the texts
between the values are learnt from one object and compared in all others, eight bytes at a time; the values are cut out
where the quotes stand, and no object is made for any of them. Laws: what is read here is what the contract reads of the
same text; whatever is not plain (another shape, an escape, a nested value, an exponent, more digits than surely fit, a
broken constraint) is left to whom it is asked one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trilane.constraint import broken_bound
from trilane.sources.instants import parse_instants
from trilane.sources.words import KEEP, LONGEST, Page, is_plain_number, word_of
from trilane.types import Field, arrow_type

__all__ = ["Shapes", "breaks"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_Span = tuple[Ints, Ints]  # where a value begins and ends, in each row

_MOST = 4  # shapes that are known at a time: null in place of a text makes another one
_WORTH = 16  # one is learnt if at least this part of what is left has it
_FIELDS = 64  # with more it is a document and no event
_INTEGER = 19  # digits that may be more than an Int64
_BEGIN = re.compile(rb" *\{")
_PART = re.compile(rb' *"([^"\\\x00-\x1f]*)" *: *(?:"([^"\\\x00-\x1f]*)"|([^\s"\\,{}\[\]]+))( *[,}] *)')


@dataclass(frozen=True, slots=True)
class _Hole:
    """Where a value lies: after the text `before`, and until `back` bytes before the quote number `close` (-1: until
    so many before the end of the object). `bare`: it is no text but a number, true, false or null.
    """

    name: str
    bare: bool
    before: bytes
    close: int
    back: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """The values of an object, the text `after` the last of them, and the quotes in all."""

    holes: tuple[_Hole, ...]
    after: bytes
    quotes: int

    @staticmethod
    def of(text: bytes) -> _Shape | None:
        """What is learnt of one object; None if it is none, or more than one level deep."""
        begin = _BEGIN.match(text)
        place = begin.end() if begin else 0
        before, quotes, holes, ended = text[:place], 0, list[_Hole](), begin is None
        while not ended and len(holes) < _FIELDS:
            part = _PART.match(text, place)
            if part is None:
                return None
            try:
                name = part[1].decode()
            except UnicodeDecodeError:
                return None
            bare, ended = part[2] is None, b"}" in part[4]
            first, last = part.span(3 if bare else 2)
            before += text[place:first]
            if bare:
                # The next quote opens the next name, if there is one.
                gap = 0 if ended else text.find(b'"', last) - last
                holes.append(_Hole(name, True, before, -1 if ended else quotes + 2, len(text) - last if ended else gap))
            else:
                holes.append(_Hole(name, False, before, quotes + 3, 0))
            quotes += 2 if bare else 4
            before, place = text[last : part.end()], part.end()
        names = {hole.name for hole in holes}
        if not holes or not ended or place != len(text) or len(names) < len(holes) or len(text) > LONGEST:
            return None
        return _Shape(tuple(holes), before, quotes)

    def find(self, page: Page, rows: Ints) -> tuple[Ints, list[_Span]]:
        """Those of `rows` that have this shape, and where each value begins and ends in them."""
        rows = rows[page.sound[rows] & (np.diff(page.firsts)[rows] == self.quotes)]
        fits = np.ones(len(rows), bool)
        ends, stops = page.starts[rows], page.stops[rows]
        firsts, spans = page.firsts[rows], []
        for hole in self.holes:
            starts = ends + len(hole.before)
            fits &= page.has(hole.before, starts)
            anchors = stops if hole.close < 0 else page.quotes[firsts + hole.close]
            ends = anchors - hole.back
            fits &= ends >= starts + hole.bare
            spans.append((starts, ends))
        starts = ends + len(self.after)
        fits &= (starts == stops) & page.has(self.after, starts)
        return _chosen(fits, rows, spans)


class Shapes:
    """Reads the values of a source with these fields; what it has learnt of them stays for the next ones."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = {field.name: field for field in fields}
        self._schema = pa.schema([pa.field(f.name, arrow_type(f), f.nullable) for f in fields])
        self._required = {field.name for field in fields if not field.nullable}
        self._known: list[_Shape] = []

    def read(self, values: pa.Array) -> Iterator[tuple[Ints, pa.Table]]:
        """Rows of `values` (binary, without nulls) that could be read together, with the table of their fields."""
        page = Page.of(values)
        left = np.arange(len(values))
        for shape in tuple(self._known):
            rows, table = self._table(shape, page, left)
            if len(rows):
                left = np.setdiff1d(left, rows, assume_unique=True)
                yield rows, table
            if not len(left):
                return
        plain = left[page.sound[left]]
        fresh = _Shape.of(values[int(plain[0])].as_py()) if len(plain) else None
        if fresh is None or fresh in self._known or not self._may_be(fresh):
            return
        rows, table = self._table(fresh, page, left)
        if len(rows) * _WORTH >= len(left):
            self._known = [fresh, *self._known][:_MOST]
            yield rows, table

    def _may_be(self, shape: _Shape) -> bool:
        """Whether objects of this shape may have all fields, and texts where texts are wanted alone."""
        kinds = {name: field.dtype.name for name, field in self._fields.items()}
        texts = [kinds[hole.name] for hole in shape.holes if not hole.bare and hole.name in kinds]
        return self._required <= {hole.name for hole in shape.holes} and {*texts} <= {"string", "timestamp"}

    def _table(self, shape: _Shape, page: Page, left: Ints) -> tuple[Ints, pa.Table]:
        """The rows that have the shape and are sound, and the table of their fields; none if one is to be refused."""
        rows, spans = shape.find(page, left)
        fits = np.ones(len(rows), bool)
        bare = {}
        for hole, span in zip(shape.holes, spans, strict=True):
            if hole.bare:
                bare[hole.name] = _Bare.of(page, span)
                fits &= bare[hole.name].fit(self._fields.get(hole.name))
        rows, spans = _chosen(fits, rows, spans)
        nothing = rows[:0], self._schema.empty_table()
        if not len(rows):
            return nothing
        wanted = [hole.name in self._fields for hole in shape.holes]
        names = [hole.name for hole, is_field in zip(shape.holes, wanted, strict=True) if is_field]
        texts = page.cut([span for span, is_field in zip(spans, wanted, strict=True) if is_field]) if names else []
        cut = dict(zip(names, texts, strict=True))
        columns = []
        for field in self._fields.values():
            own = bare.get(field.name)
            column = _column(field, cut.get(field.name), None if own is None else own.chosen(fits), len(rows))
            if column is None or breaks(field, column):
                return nothing
            columns.append(column)
        return rows, pa.table(columns, schema=self._schema)


@dataclass(frozen=True, slots=True)
class _Bare:
    """Of values that are no texts: which are numbers, and which of them have no point; which are words."""

    number: Bools
    whole: Bools
    true: Bools
    false: Bools
    null: Bools

    @staticmethod
    def of(page: Page, span: _Span) -> _Bare:
        starts, ends = span
        number, whole = is_plain_number(page, starts, ends)
        if number.all():
            none = np.zeros(len(starts), bool)
            return _Bare(number, whole & (ends - starts < _INTEGER), none, none, none)
        text = page.words[starts] & KEEP[np.clip(ends - starts, 0, 8)]
        short = ends - starts < 8
        words = [short & (text == word_of(word)) for word in (b"true", b"false", b"null")]
        return _Bare(number, whole & (ends - starts < _INTEGER), *words)

    def fit(self, field: Field | None) -> Bools:
        """Where this may be the value of `field` (None: of one that is not looked at)."""
        if field is None:
            return self.number | self.true | self.false | self.null
        fits = {
            "int64": self.number & self.whole,
            "float64": self.number,
            "bool": self.true | self.false,
        }.get(field.dtype.name, np.zeros(len(self.null), bool))
        return fits | self.null if field.nullable else fits

    def chosen(self, rows: Bools) -> _Bare:
        if rows.all():
            return self
        return _Bare(self.number[rows], self.whole[rows], self.true[rows], self.false[rows], self.null[rows])


def _chosen(fits: Bools, rows: Ints, spans: list[_Span]) -> tuple[Ints, list[_Span]]:
    if fits.all():
        return rows, spans
    return rows[fits], [(starts[fits], ends[fits]) for starts, ends in spans]


def _column(field: Field, texts: pa.Array | None, bare: _Bare | None, rows: int) -> pa.Array | None:
    """The column of a field; None if an instant in it is to be looked at alone."""
    kind = arrow_type(field)
    if texts is None:
        return pa.nulls(rows, kind)
    if field.dtype.name == "bool" and bare is not None:
        return pa.array(bare.true, mask=bare.null)
    if bare is not None and bare.null.any():
        texts = pc.if_else(pa.array(bare.null), pa.scalar(None, pa.string()), texts)
    if field.dtype.name == "timestamp":
        return parse_instants(texts)
    return texts if field.dtype.name == "string" else texts.cast(kind)


def breaks(field: Field, column: pa.Array) -> bool:
    """Whether a value breaks a constraint of its field."""
    if field.dtype.name == "timestamp":
        spread = pc.min_max(column.cast(pa.int64())).as_py() if field.instants else {}
        ends = [end for end in spread.values() if end is not None]
        return any(broken_bound(name, bound, end) for name, bound in field.instants for end in ends)
    if field.rules:
        try:
            msgspec.convert(column.drop_null().to_pylist(), list[field.annotation])  # type: ignore[name-defined]
        except msgspec.ValidationError:
            return True
    return False
