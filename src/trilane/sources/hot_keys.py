"""Keys with a large share of a source's events, and how these are spread over its partitions.

Of a key that is split, an event's id chooses its partition, and not the key; a read merges a key's rows of all
partitions anyway. Laws: an event that is delivered again takes the way that it took first, so that it counts once;
shares are judged by what the door has lately seen, and a key once split stays so.

That a way never changes follows from what it depends on: the event's key, id and time, and the splits. A split is a
record in the log, and applies to events that happen from an instant on that lies beyond any that a door may have
let in before it knew: later than the clock by what a source allows (`future`) and by `MARGIN`. A door looks for new
splits whenever it has not for `PATIENCE`; so the clocks of doors may differ by the rest of the margin.

Frequent keys are found with the summary of Misra and Gries (1982), halved every so often so that it forgets.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping

import msgspec

from trilane.clock import SECOND
from trilane.sources.event import EventSource
from trilane.sources.log.protocol import EventLog

__all__ = ["HotKeys", "Shares", "partition_of", "splits_of"]

MARGIN, PATIENCE = 10 * SECOND, SECOND
_MOST = 4_096  # splits of a source; beyond them keys stay where they are
_AT_ONCE = 10_000


class _Split(msgspec.Struct, frozen=True):
    """A key whose events are spread from `since` (event time, microseconds) on."""

    key: str
    since: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Split).decode


def partition_of(key: object, partitions: int) -> int:
    """The partition in which the log keeps events of this key."""
    return zlib.crc32(str(key).encode()) % partitions if partitions > 1 else 0


def splits_of(log: EventLog, source: str) -> Mapping[str, int]:
    """The keys of a source that are split, each with the event time from which on."""
    return _read(log, source, 0, {})[1]


def _name(source: str) -> str:
    return f"{source}.splits"  # no source is called so: a dot is in no name


def _read(log: EventLog, source: str, offset: int, known: Mapping[str, int]) -> tuple[int, Mapping[str, int]]:
    found = dict(known)
    end = log.end(_name(source), 0)
    while offset < end:
        batch = log.read(_name(source), 0, offset, _AT_ONCE)
        if not batch.num_rows:
            break
        for value in batch.column("value").to_pylist():
            split = _decode(value)
            found.setdefault(split.key, split.since)  # two doors may decide at once: the first in the log counts
        offset = int(batch.column("offset")[-1].as_py()) + 1
    return offset, found


class Shares:
    """Which keys have more than `share` of what was seen lately. A key that has less is never told."""

    def __init__(self, share: float, *, memory: int = 20_000, evidence: int = 2_000) -> None:
        self._share, self._memory, self._evidence = share, memory, evidence
        self._room = int(4 / share)
        self._counts: dict[str, int] = {}
        self._total = 0

    def add(self, key: str) -> None:
        """Counts one event."""
        self._total += 1
        if key in self._counts:
            self._counts[key] += 1
        elif len(self._counts) < self._room:
            self._counts[key] = 1
        else:
            self._shrink({key: count - 1 for key, count in self._counts.items()})
        if self._total >= self._memory:
            self._total //= 2
            self._shrink({key: count // 2 for key, count in self._counts.items()})

    def _shrink(self, counts: dict[str, int]) -> None:
        self._counts = {key: count for key, count in counts.items() if count}

    def hot(self) -> list[str]:
        """The keys that surely have more than the share, the hottest first; none before there is evidence."""
        least = self._share * self._total
        if self._total < self._evidence:
            return []
        counts = dict(self._counts)  # another thread may be adding
        return sorted((key for key, count in counts.items() if count > least), key=counts.__getitem__, reverse=True)


class HotKeys:
    """What a door knows of one source's splits. Any thread may place, and look."""

    def __init__(self, log: EventLog, source: EventSource) -> None:
        self._log, self.source = log, source
        self._looked, self._has_looked, self._lock = 0, False, threading.Lock()
        self._counting = threading.Lock()  # which nobody holds for long
        self._offset, self.splits = 0, dict[str, int]()
        # A quarter of a fair part: then what is left whole cannot make one partition much larger than others.
        self._shares = Shares(1 / (4 * source.partitions))
        self.is_used = source.partitions > 1 and source.hot_keys is not None and source.partition_by != source.event_id

    def is_due(self, now: int) -> bool:
        """Whether `look` must be called before an event that arrives at `now` is placed."""
        return self.is_used and (not self._has_looked or abs(now - self._looked) >= PATIENCE)

    def look(self, now: int) -> None:
        """Learns what others have split, and splits what is declared or was found hot. Raises the log's error."""
        if not self.is_used:
            return
        with self._lock:
            self._refresh()
            later = now + self.source.future + MARGIN
            # A door looks before it places; so nothing of a source without events can have gone another way.
            declared = later if self._has_looked or self._is_begun() else 0
            wanted = {**dict.fromkeys(self._shares.hot(), later), **dict.fromkeys(self.source.hot_keys or (), declared)}
            fresh = [_encode(_Split(key, since)) for key, since in wanted.items() if key not in self.splits]
            if fresh and len(self.splits) < _MOST:
                self._log.append(_name(self.source.name), 0, fresh, now)
                self._refresh()
            self._looked, self._has_looked = now, True

    def _refresh(self) -> None:
        self._offset, found = _read(self._log, self.source.name, self._offset, self.splits)
        self.splits = dict(found)

    def _is_begun(self) -> bool:
        """Whether the log has an event: before the first, a declared key can be split from the beginning."""
        return any(self._log.end(self.source.name, p) for p in range(self.source.partitions))

    def place(self, key: object, event_id: object, happened: int) -> int:
        """The partition of an event."""
        partitions = self.source.partitions
        if not self.is_used:
            return partition_of(key, partitions)
        text = str(key)
        with self._counting:
            self._shares.add(text)
        since = self.splits.get(text)
        return partition_of(event_id if since is not None and happened >= since else key, partitions)
