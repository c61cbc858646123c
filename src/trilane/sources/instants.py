"""Instants written as RFC 3339 text, many at a time.

Law: what is parsed here is what msgspec makes of the same text; a column with a spelling that is not the usual one is
not parsed at all (None), and whoever asked reads it value by value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.sources.words import is_spelled

__all__ = ["parse_instants"]

_SECONDS, _UTC = "0000-00-00T00:00:00", "+00:00"
_YEAR_ONE = -62_135_596_800_000_000  # Arrow takes years before it, Python has none


def parse_instants(texts: pa.Array) -> pa.Array | None:
    """Instants written as `2026-03-02T00:00:00.123456Z`, or with +00:00, with up to six digits or none; nulls stay."""
    present = texts.drop_null() if texts.null_count else texts
    if not len(present):
        return texts.cast(pa.timestamp("us", "UTC"))
    ends = np.frombuffer(present.buffers()[1], np.int32)[present.offset : present.offset + len(present) + 1]
    lengths = np.diff(ends)
    every_byte = np.frombuffer(present.buffers()[2], np.uint8)
    low, high = int(lengths.min()), int(lengths.max())
    if low < len(_SECONDS) + 1 or high > len(_SECONDS) + 7 + len(_UTC):
        return None
    for length in range(low, high + 1):
        if low == high:
            rows = every_byte[ends[0] : ends[-1]].reshape(-1, length)
        else:
            rows = every_byte[ends[:-1][lengths == length][:, None] + np.arange(length)]
        if len(rows) and not _is_usual(rows, length):
            return None
    try:
        instants = texts.cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid:
        return None  # the thirtieth of February
    return instants if int(instants.drop_null().cast(pa.int64()).to_numpy().min()) >= _YEAR_ONE else None


def _is_usual(rows: npt.NDArray[np.uint8], length: int) -> bool:
    zone = "Z" if rows[0, -1] == ord("Z") else _UTC
    digits = length - len(_SECONDS) - len(zone)
    if not (digits == 0 or 2 <= digits <= 7):
        return False
    return is_spelled(rows, (_SECONDS + "." * (digits > 0) + "0" * (digits - 1) + zone).encode())
