"""What a replica tells those who scale it: how much it is asked, how long that takes, and how busy it is.

Laws: it is about the last minute, whatever came before; quantiles are at most an eighth above what they should be,
and those of several processes are the quantiles of all their requests; observing costs the same however many there
were. Instants and durations are seconds of one steady clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

__all__ = ["Signals", "Tally", "Told", "merged", "told"]

_SLOT, _SLOTS = 5.0, 13  # twelve whole slots make the minute, and one is being filled
_LEAST = -20  # durations below 2 ** _LEAST seconds, a microsecond, are not told apart
_PER_OCTAVE = 8
_BUCKETS = 30 * _PER_OCTAVE  # up to 2 ** 10 seconds


class Tally(msgspec.Struct):
    """What was counted over `seconds`; `latencies` by bucket, and how things stand at the end of them."""

    seconds: float = 0.0
    requests: int = 0
    refused: int = 0
    busy: float = 0.0
    cpu: float = 0.0
    in_flight: int = 0
    queued: int = 0
    latencies: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Told:
    """What an autoscaler goes by. Latencies in seconds; `utilisation` and `cpu` of one process: 1 is all of its time.

    `capacity`: requests a second that this would be at a utilisation of 1, if cost goes with requests; 0 if unknown.
    """

    replicas: int
    seconds: float
    rate: float
    refused: float
    p50: float
    p95: float
    p99: float
    utilisation: float
    cpu: float
    in_flight: int
    queued: int
    capacity: float


class Signals:
    """Counts the requests of one process. `cpu`: the processor seconds it has used; `queued`: the rows that wait."""

    def __init__(self, *, now: float, cpu: Callable[[], float], queued: Callable[[], int]) -> None:
        self._cpu, self._queued = cpu, queued
        self._slots = [Tally() for _ in range(_SLOTS)]
        self._numbers = [-1] * _SLOTS
        self._began = now
        self._marks: list[tuple[float, float]] = [(now, cpu())]
        self.in_flight = 0
        self._from, self._current = math.inf, self._slots[0]  # the slot of the last instant, and where it begins

    def _slot(self, now: float) -> Tally:
        if self._from <= now < self._from + _SLOT:
            return self._current
        number = int(now / _SLOT)
        place = number % _SLOTS
        if self._numbers[place] != number:
            self._numbers[place], self._slots[place] = number, Tally()
            self._marks = [*self._marks[-_SLOTS:], (now, self._cpu())]
        self._from, self._current = number * _SLOT, self._slots[place]
        return self._current

    def answered(self, now: float, seconds: float, *, refused: bool = False) -> None:
        """A request was answered after `seconds`, or `refused` because there are too many."""
        slot = self._current if self._from <= now < self._from + _SLOT else self._slot(now)
        if refused:
            slot.refused += 1
            return
        slot.requests += 1
        bucket = bisect_right(_TOPS, seconds)
        slot.latencies[bucket] = slot.latencies.get(bucket, 0) + 1

    def worked(self, now: float, seconds: float) -> None:
        """A batch that ended now ran for `seconds`."""
        self._slot(now).busy += seconds

    def tally(self, now: float) -> Tally:
        """What was counted in the last minute."""
        self._slot(now)
        newest = int(now / _SLOT)
        recent = [
            slot
            for slot, number in zip(self._slots, self._numbers, strict=True)
            if newest - number < _SLOTS and number >= 0
        ]
        start = max(self._began, (newest - _SLOTS + 1) * _SLOT)
        total = merged(recent)
        total.seconds = max(now - start, 1e-9)
        at, used = next((mark for mark in self._marks if mark[0] >= start), self._marks[-1])
        total.cpu = (self._cpu() - used) * (total.seconds / (now - at)) if now > at else 0.0
        total.in_flight, total.queued = self.in_flight, self._queued()
        return total


def merged(tallies: Iterable[Tally]) -> Tally:
    """What several counted over the same time."""
    total = Tally()
    for one in tallies:
        total.seconds = max(total.seconds, one.seconds)
        total.requests += one.requests
        total.refused += one.refused
        total.busy += one.busy
        total.cpu += one.cpu
        total.in_flight += one.in_flight
        total.queued += one.queued
        for bucket, number in one.latencies.items():
            total.latencies[bucket] = total.latencies.get(bucket, 0) + number
    return total


def told(tallies: list[Tally]) -> Told:
    """The signals of the processes that counted `tallies`."""
    total = merged(tallies)
    seconds, processes = max(total.seconds, 1e-9), max(len(tallies), 1)
    rate, utilisation = total.requests / seconds, total.busy / seconds / processes
    p50, p95, p99 = (_quantile(total.latencies, q) for q in (0.5, 0.95, 0.99))
    return Told(
        replicas=len(tallies),
        seconds=total.seconds,
        rate=rate,
        refused=total.refused / seconds,
        p50=p50,
        p95=p95,
        p99=p99,
        utilisation=utilisation,
        cpu=total.cpu / seconds / processes,
        in_flight=total.in_flight,
        queued=total.queued,
        capacity=rate / utilisation if utilisation > 0 else 0.0,
    )


def _top(bucket: int) -> float:
    octave, part = divmod(bucket, _PER_OCTAVE)
    return math.ldexp(1 + (part + 1) / _PER_OCTAVE, octave + _LEAST)


_TOPS = [_top(bucket) for bucket in range(_BUCKETS - 1)]


def _quantile(latencies: dict[int, int], q: float) -> float:
    left = q * sum(latencies.values())
    for bucket in sorted(latencies):
        left -= latencies[bucket]
        if left <= 0:
            return _top(bucket)
    return 0.0
