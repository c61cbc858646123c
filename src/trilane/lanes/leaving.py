"""Rows of views that a partition keeps no longer, removed bit by bit between its batches.

Laws: what leaves is noted in the write that takes it out of the lane's progress, so a kill at any instruction loses
none, and a view that returns is never believed to be whole; of rows that partitions share none but its own is removed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection

import msgspec

from trilane.lanes import builds
from trilane.lanes import progress as progress_rows
from trilane.lanes import rows as lane_rows
from trilane.lanes.early import Early
from trilane.lanes.progress import LANES, lane_key
from trilane.lanes.visibility import Trail
from trilane.sources.event import EventSource
from trilane.stores.online.protocol import Transaction, Writer

__all__ = ["Leaving"]

_SPACE = "nearline/leaving"
_PORTION = 20_000  # rows that are looked at in one transaction
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(tuple[str, ...]).decode


class Leaving:
    """What leaves one partition; `kept`: the spaces of the views that stay."""

    def __init__(self, source: EventSource, partition: int, writer: Writer, kept: Collection[str]) -> None:
        self._source, self._partition, self._writer = source, partition, writer
        self._key = lane_key(source.name, partition)
        self._first = b""
        with writer.transaction() as transaction:
            self.spaces = self._noted(transaction, kept)

    def _noted(self, transaction: Transaction, kept: Collection[str]) -> tuple[str, ...]:
        progress = progress_rows.decode(transaction.get(LANES, [self._key])[0])
        [noted] = transaction.get(_SPACE, [self._key])
        end = self._key[:-1] + bytes([self._key[-1] + 1])
        found = [key[len(self._key) :] for key, _ in transaction.scan(LANES, self._key, end)]
        groups = [group.decode() for group in found if group.startswith(b"nearline/")]
        old = {*(_decode(noted) if noted else ()), *progress.spaces, *groups}
        spaces = tuple(sorted(old.difference(kept)))
        for group in set(groups).difference(kept):
            self._forget(transaction, group)
        if set(progress.spaces) & set(spaces):
            stay = tuple(space for space in progress.spaces if space not in spaces)
            row = progress_rows.encode(msgspec.structs.replace(progress, spaces=stay))
            transaction.put(LANES, [(self._key, row)])
        if spaces or noted:
            transaction.put(_SPACE, [(self._key, _encode(spaces))])
        return spaces

    def _forget(self, transaction: Transaction, group: str) -> None:
        """Removes what a build notes beside its rows."""
        key = self._key + group.encode()
        transaction.delete(LANES, [key])
        transaction.drop(f"nearline/seen/{self._source.name}/{self._partition}{group}")
        Early(self._source, key, None).forget(transaction)
        Trail.stored(transaction, key).forget(transaction)
        builds.note_fault(transaction, key, "")

    def step(self) -> bool:
        """Removes a portion; whether anything is left."""
        if not self.spaces:
            return False
        space, *others = self.spaces
        with self._writer.transaction() as transaction:
            looked = [key for key, _ in itertools.islice(transaction.scan(space, self._first), _PORTION)]
            partitions = self._source.partitions
            transaction.delete(space, [k for k in looked if lane_rows.is_of(k, self._partition, partitions)])
            whole = len(looked) < _PORTION
            if whole:
                transaction.put(_SPACE, [(self._key, _encode(tuple(others)))])
        self._first = b"" if whole else looked[-1]
        if whole:
            self.spaces = tuple(others)
        return bool(self.spaces)
