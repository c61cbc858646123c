"""When each micro-batch became readable: what a training set needs to replay how far a lane lagged.

A record says that from instant `at` on, events before offset `end` that happened before `moment` could be read, and
that at instant `last` all that had arrived by `caught_up` was among them. An idle lane that says again and again that
it has caught up lengthens its last record, while no pause between is longer than its patience; so there is at most one
record for each batch and each idle stretch. The records of a partition lie in a tail, which is written with the
progress, and in full chunks; the archive takes them from there, and the oldest chunks go.

Laws: a record is committed with the offset it speaks of, under the same key; a chunk is whole before the tail is cut,
so a kill at any instruction loses none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.lanes.progress import lane_key
from trilane.sources.event import EventSource
from trilane.stores.offline.protocol import Warehouse
from trilane.stores.online.protocol import OnlineStore, Transaction

__all__ = ["RECORD", "Trail", "keep_visibility", "kept_visibility", "pace"]

RECORD = np.dtype([(name, "<i8") for name in ("at", "end", "moment", "caught_up", "last")])
_SPACE, _CHUNKS = "nearline/visibility", "nearline/visibility_chunks"
_HEAD, _ROW = struct.Struct("<qq"), struct.Struct("<5q")
_FULL = 64  # records in the tail, which every commit writes anew: 2.5 kB
_ONLINE = 16_384  # full chunks that wait for the archive at most: a million records, 42 MB
_FACTS = ("born", "number", *(RECORD.names or ()))


@dataclass(frozen=True, slots=True)
class Trail:
    """The records of one partition: the tail, the number of the chunk that it will be, and when the trail began."""

    key: bytes
    born: int = 0
    chunk: int = 0
    tail: bytes = b""

    @staticmethod
    def stored(transaction: Transaction, key: bytes) -> Trail:
        """The trail that an earlier process wrote under the key of its lane."""
        [row] = transaction.get(_SPACE, [key])
        if row is None:
            return Trail(key)
        born, chunk = _HEAD.unpack_from(row)
        return Trail(key, born, chunk, row[_HEAD.size :])

    def batch(self, *, at: int, end: int, moment: int, caught_up: int) -> Trail:
        """With one more record: of a batch that is committed at instant `at`."""
        row = _ROW.pack(at, end, moment, caught_up, at)
        if not self.tail:
            return replace(self, born=at, tail=row)
        if len(self.tail) == _FULL * _ROW.size:
            return replace(self, chunk=self.chunk + 1, tail=row)
        return replace(self, tail=self.tail + row)

    def beat(self, now: int, *, end: int, patience: int) -> Trail:
        """After the idle lane has said, at instant `now`, that it has caught up."""
        if self.tail:
            at, same_end, moment, caught_up, _ = _ROW.unpack_from(self.tail, len(self.tail) - _ROW.size)
            if same_end == end and 0 <= now - caught_up <= patience:
                return replace(self, tail=self.tail[: -_ROW.size] + _ROW.pack(at, end, moment, now, now))
        return self.batch(at=now, end=end, moment=now, caught_up=now)

    def store(self, transaction: Transaction) -> None:
        """Writes what changed with the last record."""
        if len(self.tail) == _FULL * _ROW.size:
            transaction.put(_CHUNKS, [(_chunk_key(self.key, self.born, self.chunk), self.tail)])
            if self.chunk >= _ONLINE:
                transaction.delete(_CHUNKS, [_chunk_key(self.key, self.born, self.chunk - _ONLINE)])
        transaction.put(_SPACE, [(self.key, _HEAD.pack(self.born, self.chunk) + self.tail)])

    def forget(self, transaction: Transaction) -> None:
        """Removes what is stored: of a lane that was only to catch up."""
        transaction.delete(_SPACE, [self.key])
        numbers = range(max(self.chunk - _ONLINE, 0), self.chunk + 1)
        transaction.delete(_CHUNKS, [_chunk_key(self.key, self.born, number) for number in numbers])


def pace(store: OnlineStore, key: bytes) -> tuple[int, int] | None:
    """Events applied by the last batches under the key of a lane, and the microseconds in which; None if unknown."""
    [[row]] = store.read([(_SPACE, [key])])
    records = np.frombuffer(row[_HEAD.size :] if row else b"", RECORD)
    if len(records) < 2 or records["at"][-1] <= records["at"][0]:
        return None
    return int(records["end"][-1] - records["end"][0]), int(records["at"][-1] - records["at"][0])


def keep_visibility(store: OnlineStore, warehouse: Warehouse, source: EventSource) -> int:
    """Copies the records that the warehouse lacks; how many. Doing it again, or at once elsewhere, changes nothing."""
    return sum(_keep(store, warehouse, source, partition) for partition in range(source.partitions))


def kept_visibility(warehouse: Warehouse, source: EventSource, partition: int) -> list[npt.NDArray[np.void]]:
    """The records of one partition in the warehouse, in order; cut where records between are missing."""
    table = warehouse.kept(_name(source, partition))
    if table is None or not table.num_rows:
        return []
    rows = np.zeros(table.num_rows, [(name, "<i8") for name in _FACTS])
    for name in _FACTS:
        rows[name] = table.column(name).to_numpy()
    rows = rows[np.lexsort((rows["last"], rows["number"], rows["born"]))]
    follows = (rows["born"][1:] == rows["born"][:-1]) & (rows["number"][1:] == rows["number"][:-1])
    rows = rows[~np.append(follows, False)]  # of a record that was lengthened the longest
    gaps = (rows["born"][1:] == rows["born"][:-1]) & (rows["number"][1:] > rows["number"][:-1] + 1)
    return [part[list(RECORD.names or ())].astype(RECORD) for part in np.split(rows, np.flatnonzero(gaps) + 1)]


def _keep(store: OnlineStore, warehouse: Warehouse, source: EventSource, partition: int) -> int:
    key, name = lane_key(source.name, partition), _name(source, partition)
    [[row]] = store.read([(_SPACE, [key])])
    if row is None:
        return 0
    born, chunk = _HEAD.unpack_from(row)
    before = warehouse.kept(name, latest=True)
    known = before is not None and before.num_rows and before.column("born")[-1].as_py() == born
    # The last one that is known may have been lengthened since.
    first = int(before.column("number")[-1].as_py()) if before is not None and known else 0
    numbers = range(max(first // _FULL, chunk - _ONLINE + 1), chunk)
    [chunks] = store.read([(_CHUNKS, [_chunk_key(key, born, number) for number in numbers])])
    parts = [*zip(numbers, chunks, strict=True), (chunk, row[_HEAD.size :])]
    found = [_facts(born, number, raw, first) for number, raw in parts if raw]
    table = pa.concat_tables(found)
    if before is not None and known and table.slice(0, 1).equals(before.slice(before.num_rows - 1, 1)):
        table = table.slice(1)
    if table.num_rows:
        warehouse.keep(name, table)
    return int(table.num_rows)


def _facts(born: int, chunk: int, raw: bytes, first: int) -> pa.Table:
    records = np.frombuffer(raw, RECORD)
    numbers = chunk * _FULL + np.arange(len(records))
    columns = [np.full(len(records), born), numbers, *(records[name] for name in RECORD.names or ())]
    return pa.table([np.ascontiguousarray(c[numbers >= first]) for c in columns], names=list(_FACTS))


def _name(source: EventSource, partition: int) -> str:
    return f"visibility/{source.name}/{partition}"


def _chunk_key(key: bytes, born: int, chunk: int) -> bytes:
    return key + b"/" + born.to_bytes(8, "big") + chunk.to_bytes(8, "big")
