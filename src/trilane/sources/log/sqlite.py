"""An event log in a folder: one SQLite file per source, one row per chunk.

A chunk is stored as its values end to end and their lengths, so that reading is slicing, whatever bytes they
hold. A checksum follows the lengths: SQLite has none of its pages, and a page that a disk lost would be read as events.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trilane.errors import DefinitionError, SetupError
from trilane.plugins import local_path, make_folder, options
from trilane.sources.sqlite import SqliteFile

__all__ = ["SqliteLog", "open_log"]

# The key is partition and first offset in one integer: SQLite then finds a chunk without a second index.
_SCHEMA = """
CREATE TABLE chunk (
    key INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    arrived_at INTEGER NOT NULL,
    arrivals BLOB,
    lengths BLOB NOT NULL,
    payload BLOB NOT NULL
);
"""
_PARTITION_BITS = 48
_PARTITIONS = 1 << 14

# A long append is cut into rows of this size at most, in one transaction, so that short reads do not load
# much more than they return, and no row comes near SQLite's limit of 1e9 bytes.
_ROWS = 8_192
_BYTES = 16 << 20
# One read returns about this much at most: memory stays bounded, and Arrow's 32-bit offsets suffice.
_READ_BYTES = 256 << 20

_COLUMNS = pa.schema([("offset", pa.int64()), ("arrived_at", pa.int64()), ("value", pa.binary())])

_LAST = "SELECT key, count FROM chunk WHERE key >= ? AND key < ? ORDER BY key DESC LIMIT 1"
# The last condition skips a chunk that ends before the offset: polling at the end must not load its payload.
_FROM = """
SELECT key, count, arrived_at, arrivals, lengths, payload FROM chunk
WHERE key >= coalesce((SELECT max(key) FROM chunk WHERE key >= ? AND key <= ?), ?) AND key < ?
AND key + count > ? ORDER BY key
"""

_Int64s = npt.NDArray[np.int64]
_Chunk = tuple[int, int, bytes | None, bytes, bytes]  # count, arrived_at, arrivals, lengths, payload


def open_log(url: str) -> SqliteLog:
    """The log in the folder of `url`; `?sync=normal` gives up that an append survives a power cut."""
    sync = options(url, known=("sync",)).get("sync", "full")
    if sync not in ("full", "normal"):
        raise SetupError(f"unknown sync {sync!r}", where=url, remedy="Use `sync=full` or `sync=normal`")
    return SqliteLog(local_path(url), full_sync=sync == "full")


class SqliteLog:
    """Keeps the promise of EventLog in `folder`."""

    def __init__(self, folder: Path, *, full_sync: bool = True) -> None:
        self._folder = make_folder(folder)
        self._full_sync = full_sync
        self._files: dict[str, SqliteFile] = {}
        self._opening = threading.Lock()

    def append(self, source: str, partition: int, values: Sequence[bytes], arrived_at: int | Sequence[int]) -> int:
        low, high = _keys(partition)
        if not values:
            return self.end(source, partition)
        rows = list(_rows(values, arrived_at))
        with self._file(source).transaction() as connection:
            last = connection.execute(_LAST, (low, high)).fetchone()
            first = last[0] + last[1] if last else low
            connection.executemany(
                "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?)", [(first + start, *row) for start, *row in rows]
            )
        return int(first - low)

    def read(self, source: str, partition: int, offset: int, limit: int) -> pa.RecordBatch:
        low, high = _keys(partition)
        offset = min(max(offset, 0), high - low)
        parts: list[_Part] = []
        rows = size = 0
        for key, *chunk in self._file(source).rows(_FROM, (low, low + offset, low, high, low + offset)):
            if rows >= limit or size >= _READ_BYTES:
                break
            base = cast(int, key) - low
            try:
                parts.append(_part(base, cast(_Chunk, chunk), offset, limit - rows))
            except ValueError as error:
                remedy = "Restore the file from a backup; what was applied and archived of it is unharmed"
                what = f"the events from offset {base} on are damaged: {error}"
                raise SetupError(what, where=str(self._file(source).path), remedy=remedy) from None
            rows += len(parts[-1].lengths)
            size += len(parts[-1].payload)
        return _batch(parts)

    def end(self, source: str, partition: int) -> int:
        low, high = _keys(partition)
        last = self._file(source).row(_LAST, (low, high))
        return cast(int, last[0]) + cast(int, last[1]) - low if last else 0

    def sources(self) -> tuple[str, ...]:
        return tuple(sorted(unquote(path.stem) for path in self._folder.glob("*.sqlite")))

    def assignment(self, member: str, *, static: bool) -> None:
        """None: who shares the partitions of a file is settled by leases in the online store."""

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, source: str) -> SqliteFile:
        file = self._files.get(source)
        if file is None:
            with self._opening:
                path = self._folder / f"{quote(source, safe='')}.sqlite"
                file = self._files.setdefault(source, SqliteFile(path, schema=_SCHEMA, full_sync=self._full_sync))
        return file


def _keys(partition: int) -> tuple[int, int]:
    """The first key of `partition`, and the first beyond it."""
    if not 0 <= partition < _PARTITIONS:
        remedy = f"Use 0 to {_PARTITIONS - 1}"
        raise DefinitionError(f"there is no partition {partition}", where="event log", remedy=remedy)
    return partition << _PARTITION_BITS, (partition + 1) << _PARTITION_BITS


def _rows(
    values: Sequence[bytes], arrived_at: int | Sequence[int]
) -> Iterator[tuple[int, int, int, bytes | None, bytes, bytes]]:
    """Cuts an append into rows: first index, count, arrived_at, arrivals, lengths, payload."""
    arrivals = None if isinstance(arrived_at, int) else np.asarray(arrived_at, dtype=np.int64)
    if arrivals is not None and len(arrivals) != len(values):
        what = f"{len(values)} values came with {len(arrivals)} arrivals"
        raise DefinitionError(what, where="event log", remedy="Give one arrival, or one for each value")
    lengths = np.fromiter(map(len, values), dtype=np.int32, count=len(values))
    for start, stop in _cuts(lengths):
        own = None if arrivals is None else arrivals[start:stop].tobytes()
        at = arrived_at if isinstance(arrived_at, int) else int(arrived_at[start])
        payload, sizes = b"".join(values[start:stop]), lengths[start:stop].tobytes()
        yield start, stop - start, at, own, sizes + _checksum(sizes, payload), payload


def _checksum(sizes: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(sizes)).to_bytes(4, "little")


def _cuts(lengths: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    ends = np.cumsum(lengths, dtype=np.int64)
    start = 0
    while start < len(lengths):
        used = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, used + _BYTES, side="right"))
        stop = min(max(fitting, start + 1), start + _ROWS)
        yield start, stop
        start = stop


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one chunk that a read asked for."""

    first: int
    arrivals: _Int64s
    lengths: npt.NDArray[np.int32]
    payload: memoryview


def _part(base: int, chunk: _Chunk, offset: int, limit: int) -> _Part:
    count, arrived_at, own, lengths_bytes, payload = chunk
    sizes, checksum = lengths_bytes[: 4 * count], lengths_bytes[4 * count :]
    if checksum and checksum != _checksum(sizes, payload):  # an older release wrote none
        raise ValueError("their checksum is another")
    start = max(offset - base, 0)
    stop = min(count, start + limit)
    lengths = np.frombuffer(sizes, dtype=np.int32)
    begin = int(lengths[:start].sum(dtype=np.int64))
    end = begin + int(lengths[start:stop].sum(dtype=np.int64))
    arrivals = np.full(stop - start, arrived_at) if own is None else np.frombuffer(own, dtype=np.int64)[start:stop]
    return _Part(base + start, arrivals, lengths[start:stop], memoryview(payload)[begin:end])


def _batch(parts: list[_Part]) -> pa.RecordBatch:
    if not parts:
        return pa.RecordBatch.from_pylist([], schema=_COLUMNS)
    lengths = np.concatenate([part.lengths for part in parts])
    rows = len(lengths)
    ends = np.zeros(rows + 1, dtype=np.int32)
    np.cumsum(lengths, out=ends[1:])
    payload = parts[0].payload if len(parts) == 1 else b"".join(part.payload for part in parts)
    values = pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(ends), pa.py_buffer(payload)])
    offsets = pa.array(np.arange(parts[0].first, parts[0].first + rows, dtype=np.int64))
    arrivals = pa.array(np.concatenate([part.arrivals for part in parts]))
    return pa.record_batch([offsets, arrivals, values], schema=_COLUMNS)
