"""How many connections each worker of a server has, in memory that all of them see, so that each takes its part.

Workers that share a socket race for what comes in, and one that is awake wins again and again: of 64 connections it had
up to 63. Laws: who has more than another stands back; what nobody else takes then is taken all the same, and for a
second nobody is waited for; a worker that is gone counts for nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable

__all__ = ["Balance", "Places"]

_NOBODY = -1
_WIDTH = 2  # numbers of a place: the connections that are open, and how many were ever taken
_BYTES = 8 * _WIDTH
_SLACK = 32  # one may have so many hundredths more than another, and one connection, before it stands back
_TRIES = 10  # how often it does for a connection
_ALONE = 1.0  # seconds


class Places:
    """What whoever starts the workers has of it: room for `number` of them at a time."""

    def __init__(self, number: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does
        self._file.truncate(number * _BYTES)
        self.number = number
        self._numbers = _numbers(self._file.fileno(), number)
        self._free = list(range(number))
        for place in self._free:
            self._numbers[place * _WIDTH] = _NOBODY

    def fileno(self) -> int:
        """The descriptor to pass on."""
        return self._file.fileno()

    def close(self) -> None:
        """Gives the memory back, once no worker is there."""
        self._file.close()

    def take(self) -> int:
        """A place for another worker; -1 if there is none, which then goes by itself."""
        return self._free.pop(0) if self._free else _NOBODY

    def free(self, place: int) -> None:
        """The worker of this place is gone."""
        if place != _NOBODY:
            self._numbers[place * _WIDTH] = _NOBODY
            self._free.append(place)


class Balance:
    """What a worker has of it, at its own place. `timer`: seconds, on any clock."""

    def __init__(self, descriptor: int, number: int, place: int, *, timer: Callable[[], float]) -> None:
        self._numbers, self._own, self._timer = _numbers(descriptor, number), place * _WIDTH, timer
        self._seen = self._tries = 0
        self._alone_until = 0.0

    def open(self) -> None:
        """Takes part from now on."""
        self._numbers[self._own], self._numbers[self._own + 1] = 0, 0

    def close(self) -> None:
        """Takes no more connections."""
        self._numbers[self._own] = _NOBODY

    def took(self) -> None:
        """A connection was taken."""
        self._tries = 0
        self._numbers[self._own + 1] += 1

    def has(self, connections: int) -> None:
        """So many are open."""
        if self._numbers[self._own] != _NOBODY:
            self._numbers[self._own] = connections

    def stands_back(self) -> bool:
        """Whether what waits is for another worker."""
        numbers = self._numbers.tolist()
        mine = numbers[self._own]
        least = min((one for one in numbers[::_WIDTH] if one != _NOBODY), default=mine)
        if mine <= least + 1 + least // _SLACK or self._timer() < self._alone_until:
            return False
        taken = sum(numbers[1::_WIDTH])
        self._tries = self._tries + 1 if taken == self._seen else 1
        self._seen = taken
        if self._tries <= _TRIES:
            return True
        self._alone_until = self._timer() + _ALONE
        return False


def _numbers(descriptor: int, number: int) -> memoryview[int]:
    size = os.fstat(descriptor).st_size
    return memoryview(mmap.mmap(descriptor, size)).cast("q")[: number * _WIDTH]
