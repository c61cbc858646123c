"""What the lanes ask of rows that may be changes: from when each counts, what identifies it, and its sign.

Laws: of a source without changes these are the event time, the event's id, and none. A row of a change is identified by
its instant, its sign and all that it says, so that a change that is delivered again counts once, and two changes of one
row never count as one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trilane.features.algebra import Ints
from trilane.features.columns import event_times
from trilane.lanes.seen import Prints, fingerprints
from trilane.sources.change import CHANGE_ID, CHANGED_AT, SIGN
from trilane.sources.event import EventSource

__all__ = ["due_times", "prints_of", "with_ids"]

_BETWEEN, _NULL = "\x1f", "\x00"


def due_times(table: pa.Table, source: EventSource) -> Ints:
    """From after which instant each row counts."""
    if source.changes is None:
        return event_times(table, source.event_time)
    return np.asarray(table.column(CHANGED_AT).to_numpy(), np.int64)


def prints_of(table: pa.Table, source: EventSource) -> Prints:
    """What tells a row from all others but its own repetition."""
    if source.changes is None:
        return fingerprints(table.column(source.event_id).combine_chunks())
    names = (*(field.name for field in source.fields), CHANGED_AT, SIGN)
    texts = [_text(table.column(name)) for name in names]
    joined = pc.binary_join_element_wise(*texts, _BETWEEN, null_handling="replace", null_replacement=_NULL)
    return fingerprints(joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined)


def with_ids(table: pa.Table, source: EventSource) -> pa.Table:
    """With what identifies a change in the archive."""
    if source.changes is None:
        return table
    words = prints_of(table, source).astype(">u8").tobytes()
    ids = [words[at : at + 16].hex() for at in range(0, len(words), 16)]
    return table.append_column(CHANGE_ID, pa.array(ids, pa.string()))


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_string(column.type):
        # Without this, a separator inside a text could make two rows one.
        return pc.replace_substring(pc.replace_substring(column, "\x1e", "\x1e0"), _BETWEEN, "\x1e1")
    return column.cast(pa.string())
