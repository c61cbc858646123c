"""A place in each of many values that lie in one buffer, moved over all of them at once.

Laws: nothing outside the buffer is read, whatever the bytes say; a fault is of one value, the first one counts, and the
cursor of a faulty value moves on within its own bytes, so that no other value notices.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.sources.formats.declaration import RELEASED_MARK

__all__ = ["Cursor", "Fault", "Ints", "Texts"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_PAD = 16  # the longest step that is read before its end is compared with that of the value
_LONGEST = 10  # bytes of a varint of 64 bits


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a value is refused: as in a Rejection."""

    code: str
    path: str
    reason: str


@dataclass(slots=True)
class Texts:
    """The bytes of all values with what was added behind them; which value has which fault (-1: none)."""

    raw: npt.NDArray[np.uint8]
    faulty: Ints
    faults: list[Fault] = field(default_factory=list)
    _plain: bytes = b""

    def add(self, more: npt.NDArray[np.uint8]) -> int:
        """Appends bytes that spans may point at; where they begin."""
        start = len(self.raw)
        self.raw = np.concatenate([self.raw, more.reshape(-1), np.zeros(_PAD, np.uint8)])
        return start

    @property
    def plain(self) -> bytes:
        """The bytes for a loop over single ones."""
        if len(self._plain) != len(self.raw):
            self._plain = self.raw.tobytes()
        return self._plain

    def refuse(self, rows: Ints, fault: Fault) -> None:
        """Says of `rows` that they have `fault`, unless they have another."""
        fresh = rows[self.faulty[rows] < 0]
        if len(fresh):
            self.faulty[fresh] = len(self.faults)
            self.faults.append(fault)


@dataclass(slots=True)
class Cursor:
    """`at` and `end`: the place in each value and where it ends; `rows`: the numbers of these values."""

    texts: Texts
    at: Ints
    end: Ints
    rows: Ints
    broken: Fault

    @classmethod
    def over(cls, values: pa.Array, broken: Fault) -> Cursor:
        """At the start of each of `values` (binary, without nulls); `broken` is said of bytes that make no sense."""
        _, offsets, content = values.buffers()
        count = len(values)
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + count + 1].astype(np.int64)
        low, high = (int(ends[0]), int(ends[-1])) if count else (0, 0)
        raw = (
            np.frombuffer(content, np.uint8)[low:high] if content is not None and high > low else np.zeros(0, np.uint8)
        )
        texts = Texts(np.concatenate([raw, np.zeros(_PAD, np.uint8)]), np.full(count, -1, np.int64))
        ends = ends - low
        cursor = cls(texts, ends[:-1].copy(), ends[1:].copy(), np.arange(count), broken)
        cursor._unmark()
        return cursor

    def _unmark(self) -> None:
        """Ends each value before the mark of release that may follow it."""
        width, last = len(RELEASED_MARK), RELEASED_MARK[-1]
        ends = self.end
        for place in np.flatnonzero((ends - self.at >= width) & (self.texts.raw[ends - 1] == last)).tolist():
            if self.texts.raw[ends[place] - width : ends[place]].tobytes() == RELEASED_MARK:
                self.end[place] -= width

    def only(self, places: Ints) -> Cursor:
        """A cursor over some of the values; give it back to `join`."""
        return Cursor(self.texts, self.at[places], self.end[places], self.rows[places], self.broken)

    def join(self, places: Ints, part: Cursor) -> None:
        """Moves on to where `part`, over the values at `places`, came."""
        self.at[places] = part.at

    def refuse(self, bad: Bools, fault: Fault | None = None) -> None:
        """Says of the values where `bad` is true that they have `fault`."""
        if bad.any():
            self.texts.refuse(self.rows[bad], fault or self.broken)

    def _move(self, to: Ints) -> None:
        over = to > self.end
        if over.any():
            self.refuse(over)
            to = np.minimum(to, self.end)
        self.at = to

    def byte(self) -> npt.NDArray[np.uint8]:
        """One byte of each."""
        found = self.texts.raw[self.at]
        self._move(self.at + 1)
        return found

    def varint(self) -> npt.NDArray[np.uint64]:
        """A number of up to 64 bits in groups of seven, the lowest first."""
        data, at = self.texts.raw, self.at
        first = data[at]
        value = (first & 0x7F).astype(np.uint64)
        to = at + 1
        going = np.flatnonzero(first >= 0x80)
        for place in range(1, _LONGEST):
            if not len(going):
                break
            group = data[at[going] + place]
            value[going] |= (group & 0x7F).astype(np.uint64) << np.uint64(7 * place)
            to[going] += 1
            going = going[group >= 0x80]
        if len(going):
            self.texts.refuse(self.rows[going], self.broken)
        self._move(to)
        return value

    def zigzag(self) -> Ints:
        """A signed number of up to 64 bits."""
        value = self.varint()
        return ((value >> np.uint64(1)) ^ (np.uint64(0) - (value & np.uint64(1)))).view(np.int64)

    def words(self, width: int) -> npt.NDArray[np.uint8]:
        """So many bytes of each (at most 16), as rows."""
        found = self.texts.raw[self.at[:, None] + np.arange(width)]
        self._move(self.at + width)
        return np.asarray(found, np.uint8)

    def span(self, lengths: Ints) -> Ints:
        """Where texts of these lengths lie: starts and lengths in two columns. What does not fit is empty."""
        bad = (lengths < 0) | (lengths > self.end - self.at)
        if bad.any():
            self.refuse(bad)
            lengths = np.where(bad, 0, lengths)
        found = np.empty((len(lengths), 2), np.int64)
        found[:, 0], found[:, 1] = self.at, lengths
        self.at = self.at + lengths
        return found

    def skip(self, width: int) -> None:
        """Passes over so many bytes of each."""
        self._move(self.at + width)
