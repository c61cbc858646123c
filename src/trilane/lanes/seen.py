"""The ids of the events that a partition has applied lately, so that a repeated one counts once.

An id is known by a print of 128 bits: an integer is its own, a text is hashed. That two of a billion texts share one
has a chance of 2**-69, and who would make two on purpose could as well send one id twice. Laws: an id is remembered
until nothing with its event time can be admitted any more; of equal ids in a batch the first counts.

Prints lie in sorted runs, which are merged as they gather, as in a log-structured merge tree (O'Neil 1996); a table of
flags before them (Bloom 1970) answers for most ids that none of the runs has them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Seen", "fingerprints"]

Prints = npt.NDArray[np.uint64]
_U = np.uint64
_LONG = 64  # longer texts are hashed one by one, so that one of them does not widen the matrix of all
_LANES = ((_U(0x9E3779B97F4A7C15), _U(0x87C37B91114253D5)), (_U(0xC2B2AE3D27D4EB4F), _U(0x4CF5AD432745937F)))
_MIX = (_U(0xFF51AFD7ED558CCD), _U(0xC4CEB9FE1A85EC53))
_TIER = 4  # so many runs of a size become one
_ROOM, _LEAST = 8, 1 << 16  # flags for each id at least, and in all
_STAMP = 8


# -- prints -----------------------------------------------------------------------------------------------------


def fingerprints(ids: pa.Array) -> Prints:
    """The prints [ids, 2] of ids (int64 or string, without nulls); each depends on its id alone."""
    found = np.zeros((len(ids), 2), _U)
    if pa.types.is_integer(ids.type):
        found[:, 1] = ids.to_numpy().view(_U)
        found[:, 0] = _mixed(found[:, 1])
        return found
    if not len(ids):
        return found
    ends = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1]
    lengths = np.diff(ends)
    if lengths.max() <= _LONG:
        return _hashed(ids, ends, lengths)
    short = lengths <= _LONG
    found[short] = fingerprints(ids.filter(pa.array(short)))
    texts = ids.filter(pa.array(~short)).to_pylist()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    found[~short] = np.frombuffer(digests, _U).reshape(-1, 2)
    return found


def _hashed(texts: pa.Array, ends: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]) -> Prints:
    data = texts.buffers()[2]
    every_byte = np.frombuffer(data if data is not None else b"", np.uint8)[ends[0] : ends[-1]]
    longest = int(lengths.max())
    padded = np.zeros((len(lengths), max(-(-longest // 8), 1) * 8), np.uint8)
    uneven = int(lengths.min()) < longest
    if uneven:
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = every_byte
    else:
        padded[:, :longest] = every_byte.reshape(len(lengths), longest)
    words = padded.view("<u8")
    found = np.empty((len(lengths), 2), _U)
    for lane, (seed, factor) in enumerate(_LANES):
        mixed = lengths.astype(_U) + seed
        for place in range(words.shape[1]):
            fresh = (mixed ^ words[:, place]) * factor
            fresh ^= fresh >> _U(32)
            # What pads a text to the longest of its batch must not change its print.
            mixed = np.where(lengths > place * 8, fresh, mixed) if uneven and place else fresh
        found[:, lane] = _mixed(mixed)
    return found


def _mixed(words: Prints) -> Prints:
    words = (words ^ (words >> _U(33))) * _MIX[0]
    words = (words ^ (words >> _U(33))) * _MIX[1]
    return words ^ (words >> _U(33))


# -- what was seen ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """Prints by their first word; `first` and `last`: the least and the largest latest event time of their batches."""

    prints: Prints
    words: Prints
    first: int
    last: int

    @staticmethod
    def of(prints: Prints, first: int, last: int) -> _Run:
        chosen = prints[np.argsort(prints[:, 0])]
        return _Run(chosen, np.ascontiguousarray(chosen[:, 0]), first, last)

    def has(self, prints: Prints) -> npt.NDArray[np.bool_]:
        low = np.searchsorted(self.words, prints[:, 0])
        found = np.zeros(len(prints), bool)
        open_rows = np.arange(len(prints))
        while len(open_rows):  # more than once only where two prints share the first word
            inside = low[open_rows] < len(self.words)
            open_rows = open_rows[inside]
            open_rows = open_rows[self.words[low[open_rows]] == prints[open_rows, 0]]
            same = self.prints[low[open_rows], 1] == prints[open_rows, 1]
            found[open_rows[same]] = True
            open_rows = open_rows[~same]
            low[open_rows] += 1
        return found


class Seen:
    """What one partition has seen, with `disorder` (microseconds) as its source declares it."""

    def __init__(self, disorder: int) -> None:
        self._disorder = disorder
        self._batches: deque[tuple[bytes, int]] = deque()
        self._runs: list[_Run] = []
        self._flags = np.zeros(_LEAST, np.uint8)
        self._flagged = 0

    @staticmethod
    def stored(rows: Iterable[tuple[bytes, bytes]], disorder: int) -> Seen:
        """What an earlier process kept, as `row` wrote it."""
        seen = Seen(disorder)
        for key, row in rows:
            latest = int.from_bytes(row[:_STAMP], "little", signed=True)
            seen.add(key, latest, np.frombuffer(row, _U, offset=_STAMP).reshape(-1, 2))
        return seen

    @staticmethod
    def row(latest: int, prints: Prints) -> bytes:
        """The stored form of a batch of prints whose latest event time is `latest`."""
        return latest.to_bytes(_STAMP, "little", signed=True) + prints.tobytes()

    def repeated(self, prints: Prints, candidates: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which rows were seen, or follow an equal one; rows that are no candidates neither repeat nor are repeated."""
        answer = np.zeros(len(prints), bool)
        rows = np.flatnonzero(candidates)
        chosen = prints if len(rows) == len(prints) else prints[rows]
        doubtful = np.flatnonzero(self._flags[chosen[:, 0] & self._mask] & self._flags[chosen[:, 1] & self._mask])
        for run in self._runs:
            answer[rows[doubtful[run.has(chosen[doubtful])]]] = True
        words = np.sort(chosen[:, 0])
        equal = words[1:] == words[:-1]
        if equal.any():
            before: set[tuple[int, int]] = set()
            for row in rows[np.isin(chosen[:, 0], words[1:][equal])].tolist():
                one = (int(prints[row, 0]), int(prints[row, 1]))
                answer[row] |= one in before
                before.add(one)
        return answer

    def add(self, key: bytes, latest: int, prints: Prints) -> None:
        """Remembers the prints of a batch that is stored under `key`."""
        self._batches.append((key, latest))
        self._runs.append(_Run.of(prints, latest, latest))
        while len(self._runs) >= _TIER and self._may_merge(self._runs[-_TIER:]):
            tier = [self._runs.pop() for _ in range(_TIER)]
            together = np.concatenate([run.prints for run in tier])
            self._runs.append(_Run.of(together, min(run.first for run in tier), max(run.last for run in tier)))
        self._flag(prints)

    def _may_merge(self, runs: list[_Run]) -> bool:
        """Whether runs are of a size, and of a time: else ids would be kept long after their own."""
        alike = len(runs[0].prints) <= 2 * sum(len(run.prints) for run in runs[1:])
        span = max(run.last for run in runs) - min(run.first for run in runs)
        return alike and span <= max(self._disorder // _TIER, 1)

    def expired(self, horizon: int) -> list[bytes]:
        """The keys of batches all of whose events happened before `horizon`, so that nothing can repeat them."""
        return [key for key, latest in self._batches if latest < horizon]

    def forget(self, expired: list[bytes], horizon: int) -> None:
        """Forgets what `expired` named."""
        if expired:
            gone = set(expired)
            self._batches = deque(batch for batch in self._batches if batch[0] not in gone)
            self._runs = [run for run in self._runs if run.last >= horizon]

    @property
    def _mask(self) -> np.uint64:
        return _U(len(self._flags) - 1)

    def _flag(self, prints: Prints) -> None:
        self._flagged += len(prints)
        if self._flagged * _ROOM > len(self._flags):  # ids that are forgotten leave their flags, so begin anew
            self._flagged = sum(len(run.prints) for run in self._runs)
            size = 1 << (2 * _ROOM * self._flagged).bit_length()
            self._flags = np.zeros(max(size, _LEAST), np.uint8)
        else:
            self._flags[(prints & self._mask).reshape(-1)] = 1
            return
        for part in itertools.chain.from_iterable(_slices(run.prints) for run in self._runs):
            self._flags[(part & self._mask).reshape(-1)] = 1


def _slices(prints: Prints) -> Iterable[Prints]:
    return (prints[start : start + _LEAST] for start in range(0, len(prints), _LEAST))
