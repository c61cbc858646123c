"""What the door must know of an event before the log takes it: where it belongs, and from when it counts.

Law: of a change of a row, both are of the row as it then is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from trilane.contract import Rejection
from trilane.sources.change import CHANGED_AT
from trilane.sources.event import EventSource
from trilane.sources.formats.protocol import Decoder

__all__ = ["Arrival", "arrivals"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that keeps its contract: its place among those given, what partitions it, its id, and its moment: when
    it happened, or its change was made (microseconds).
    """

    index: int
    key: object
    event_id: object
    moment: int


def arrivals(
    source: EventSource, decoder: Decoder, values: Sequence[bytes]
) -> tuple[list[Arrival], list[Rejection], pa.Table]:
    """Checks values: those that pass, in order, what is wrong with the others, and the rows of those that pass."""
    decoded = decoder.decode(pa.array(values, pa.binary()))
    table = decoded.table
    moments = table.column(source.event_time if source.changes is None else CHANGED_AT).cast(pa.int64()).to_pylist()
    keys, ids = (table.column(name).to_pylist() for name in (source.partition_by, source.event_id))
    last = {
        index: Arrival(index, key, event_id, moment)  # of two rows the second: what the row has become
        for index, key, event_id, moment in zip(decoded.indexes.tolist(), keys, ids, moments, strict=True)
    }
    return list(last.values()), list(decoded.rejections), table
