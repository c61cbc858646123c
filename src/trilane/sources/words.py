"""Many texts in one buffer, looked at eight bytes at a time.

Law: nothing outside the buffer is read, wherever a place may lie: places are compared with the ends of their texts by
who asks, and the buffer is longer than any step from within a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["KEEP", "LONGEST", "Page", "is_plain_number", "is_spelled", "word_of"]

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

LONGEST = 4_096  # bytes from a place within a text to one that is looked at
_DIGITS = 24  # of a number that is plain, with its point
_U = np.uint64
_EACH = 0x0101010101010101
_HIGH, _LOW = _U(0x80 * _EACH), _U(0x7F * _EACH)
_ZEROS, _POINTS, _BEYOND = _U(0x30 * _EACH), _U(0x2E * _EACH), _U(0x76 * _EACH)
# The bytes of a word that belong to a text of which so many bytes are left.
KEEP = np.array([(1 << 8 * count) - 1 for count in range(9)], _U)


def word_of(text: bytes) -> np.uint64:
    """Up to eight bytes as a word, the others 0."""
    return _U(int.from_bytes(text, "little"))


@dataclass(frozen=True, slots=True)
class Page:
    """Texts one after another in `raw`, from `starts` to before `stops`; `words`: the eight bytes from each place on.

    `quotes`: where the quotes stand, those of a text from the number `firsts` on; `sound`: which texts are UTF-8 and
    have neither a backslash nor a control character.
    """

    raw: npt.NDArray[np.uint8]
    words: Words
    starts: Ints
    stops: Ints
    quotes: Ints
    firsts: Ints
    sound: Bools

    @staticmethod
    def of(values: pa.Array) -> Page:
        """The texts of a binary array without nulls."""
        ends = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
        bounds = ends.astype(np.int64) - ends[0]
        size, data = int(bounds[-1]), values.buffers()[2]
        raw = np.empty(size + LONGEST + 2 * _DIGITS, np.uint8)
        raw[size:] = 0
        if size:
            raw[:size] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
        quotes = np.flatnonzero(raw[:size] == ord('"'))
        words = np.ndarray((len(raw) - 7,), "<u8", raw, strides=(1,))
        sound = _sound(raw[:size], values, bounds)
        return Page(raw, words, bounds[:-1], bounds[1:], quotes, _firsts(quotes, bounds), sound)

    def has(self, text: bytes, ends: Ints) -> Bools:
        """Where `text` stands before these places."""
        starts, size = ends - len(text), len(text)
        found = np.ones(len(ends), bool)
        for place in range(0, size - 7, 8):
            found &= self.words[starts + place] == word_of(text[place : place + 8])
        if size % 8 and size > 8:
            found &= self.words[ends - 8] == word_of(text[-8:])
        elif size % 8:
            found &= (self.words[starts] & KEEP[size]) == word_of(text)
        return found

    def cut(self, spans: Sequence[tuple[Ints, Ints]]) -> list[pa.Array]:
        """The texts at spans that follow one another, in rows that do so too: a column for each span."""
        rows, columns = len(spans[0][0]), len(spans)
        places = np.empty((rows, 2 * columns), np.int32)
        for column, (starts, ends) in enumerate(spans):
            places[:, 2 * column], places[:, 2 * column + 1] = starts, ends
        # Every second text of this array is a span, and the others are what lies between them.
        count = max(2 * rows * columns - 1, 0)
        whole = pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(places), pa.py_buffer(self.raw)])
        firsts = np.arange(rows, dtype=np.int32) * (2 * columns)
        return [whole.take(pa.array(firsts + 2 * column)) for column in range(columns)]


def _firsts(quotes: Ints, bounds: Ints) -> Ints:
    """The number of the first quote of each text, and of all quotes."""
    texts = len(bounds) - 1
    if len(quotes) and len(quotes) % texts == 0:  # as many in each, it seems
        square = quotes.reshape(texts, -1)
        if (square[:, 0] >= bounds[:-1]).all() and (square[:, -1] < bounds[1:]).all():
            return np.arange(texts + 1) * square.shape[1]
    return np.searchsorted(quotes, bounds)


def _sound(text: npt.NDArray[np.uint8], values: pa.Array, bounds: Ints) -> Bools:
    sound = np.ones(len(values), bool)
    if not len(text):
        return sound
    odd = None
    if text.min() < ord(" ") or b"\\" in text.tobytes():
        odd = (text < ord(" ")) | (text == ord("\\"))
    if text.max() > 127:
        try:
            values.cast(pa.string())
        except pa.ArrowInvalid:  # some are no UTF-8: of them and of those like them, each is asked alone
            odd = text > 127 if odd is None else odd | (text > 127)
    if odd is not None:
        sound[np.searchsorted(bounds, np.flatnonzero(odd), side="right") - 1] = False
    return sound


def is_plain_number(page: Page, starts: Ints, ends: Ints) -> tuple[Bools, Bools]:
    """Which spans are numbers of JSON without an exponent and not too long, and which of these have no point."""
    negative = page.raw[starts] == ord("-")
    starts = starts + negative
    lengths = ends - starts
    points = np.zeros(len(starts), np.uint8)
    others = np.zeros(len(starts), np.uint8)
    for place in range(0, min(int(lengths.max(initial=0)), _DIGITS), 8):
        keep = KEEP[np.clip(lengths - place, 0, 8)]
        text = (page.words[starts + place] & keep) | (_ZEROS & ~keep)
        off = text ^ _ZEROS  # a digit becomes 0 to 9, and no other byte does
        others += np.bitwise_count((((off & _LOW) + _BEYOND) | off) & _HIGH)
        off = text ^ _POINTS
        points += np.bitwise_count(~(((off & _LOW) + _LOW) | off) & _HIGH)
    first, last = page.raw[starts], page.raw[ends - 1]
    good = (lengths >= 1) & (lengths <= _DIGITS) & (others == points) & (points <= 1)
    good &= (first != ord(".")) & (last != ord("."))
    # No digit follows a zero that is the first; and -0 is an integer, which has no sign.
    good &= (first != ord("0")) | (page.raw[starts + 1] == ord(".")) | ((lengths == 1) & ~negative)
    return good, points == 0


def is_spelled(rows: npt.NDArray[np.uint8], pattern: bytes) -> bool:
    """Whether all rows [rows, bytes] are spelled as `pattern` of 8 bytes or more, in which 0 stands for any digit."""
    size = len(pattern)
    for place in dict.fromkeys([*range(0, size - 7, 8), size - 8]):
        part = pattern[place : place + 8]
        digits = word_of(bytes(1 if byte == ord("0") else 0 for byte in part))
        fixed = word_of(bytes(0 if byte == ord("0") else 0xFF for byte in part))
        text = rows[:, place : place + 8].view("<u8")[:, 0]
        wanted = word_of(part)
        same = (text & (fixed | digits * _U(0xF0))) == wanted
        # From 0x3A on a byte carries into its upper half.
        if not (same & (((text + digits * _U(6)) & (digits * _U(0xF0))) == digits * _U(0x30))).all():
            return False
    return True
