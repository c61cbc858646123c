"""Events from slightly ahead of our clock, kept until their time has come.

Law: no answer sees an event that happens at or after its instant, though its producer's clock runs ahead of ours; such
events are stored with the offsets that passed them, so none is lost or applied twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trilane.lanes.changes import due_times
from trilane.sources.event import EventSource
from trilane.stores.online.protocol import Transaction

__all__ = ["Early"]

_SPACE = "nearline/early"


@dataclass(frozen=True, slots=True)
class Early:
    """The events of one partition that are not due yet (None: there are none)."""

    source: EventSource
    key: bytes
    table: pa.Table | None

    @staticmethod
    def stored(transaction: Transaction, source: EventSource, key: bytes) -> Early:
        """The events that an earlier process kept under the key of its lane."""
        [row] = transaction.get(_SPACE, [key])
        return Early(source, key, pa.ipc.open_stream(row).read_all() if row else None)

    @property
    def first(self) -> int | None:
        """When the first of them counts."""
        return None if self.table is None else int(due_times(self.table, self.source).min())

    def split(self, admitted: pa.Table | None, now: int) -> tuple[pa.Table | None, Early]:
        """What counts as of `now`, of these and of newly admitted events; and what does not yet."""
        tables = [table for table in (self.table, admitted) if table is not None]
        if not tables:
            return None, self
        table = pa.concat_tables(tables) if len(tables) > 1 else tables[0]
        due = due_times(table, self.source) < now
        if due.all():
            return table, Early(self.source, self.key, None)
        rest = table.take(pa.array(np.flatnonzero(~due)))
        return table.take(pa.array(np.flatnonzero(due))), Early(self.source, self.key, rest)

    def store(self, transaction: Transaction, *, before: Early) -> None:
        """Writes these in place of those `before`."""
        if self.table is None:
            if before.table is not None:
                self.forget(transaction)
            return
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        transaction.put(_SPACE, [(self.key, sink.getvalue().to_pybytes())])

    def forget(self, transaction: Transaction) -> None:
        """Removes what is stored."""
        transaction.delete(_SPACE, [self.key])

    def holds_as(self, other: Early) -> bool:
        """Whether the other keeps the same events."""
        mine, theirs = self.table, other.table
        return (mine is None and theirs is None) or (mine is not None and theirs is not None and mine.equals(theirs))
