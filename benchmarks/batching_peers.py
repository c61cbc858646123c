"""The rules of batching that Trilane's is compared with, as policies that a simulator and a server can run.

Each is given more than its original has: what has passed its deadline is dropped at dispatch, at no cost.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from trilane.serving.dispatch import Batch, Job, Late, Wait

__all__ = ["Cork", "Greedy", "Window"]

Told: TypeAlias = Batch[Any] | Late[Any] | Wait | None


def _batch(jobs: Sequence[Job[Any]], reason: str) -> Batch[Any]:
    return Batch(tuple(jobs), sum(job.rows for job in jobs), 0.0, reason)


class Greedy:
    """Late binding and nothing else: what waits goes as soon as an executor is free, in order of arrival.

    With `max_rows` of 1 there is no batching; Triton's default is this rule with a batch size.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._jobs: deque[Job[Any]] = deque()

    def add(self, job: Job[Any], now: float) -> None:
        self._jobs.append(job)

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        """Learns nothing."""

    def next(self, now: float, *, others_busy: bool = True) -> Told:
        late = _expired(self._jobs, now)
        if late:
            return late
        if not self._jobs:
            return None
        return _batch([self._jobs.popleft() for _ in range(min(len(self._jobs), self._max_rows))], "greedy")


def _expired(jobs: deque[Job[Any]], now: float) -> Late[Any] | None:
    """Those at the head whose deadline has passed."""
    late = []
    while jobs and jobs[0].deadline < now:
        late.append(jobs.popleft())
    return Late(tuple(late)) if late else None


class Window:
    """A fixed window, as Ray Serve and MLServer have it: the first request opens a batch, which is sealed when it is
    full or the window has passed, whether or not an executor is free.
    """

    def __init__(self, window: float, max_rows: int) -> None:
        self._window, self._max_rows = window, max_rows
        self._open: list[Job[Any]] = []
        self._seals = math.inf
        self._sealed: deque[list[Job[Any]]] = deque()

    def add(self, job: Job[Any], now: float) -> None:
        self._seal(now)
        if not self._open:
            self._seals = now + self._window
        self._open.append(job)
        if len(self._open) >= self._max_rows:
            self._seal(math.inf)

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        """Learns nothing."""

    def _seal(self, now: float) -> None:
        if self._open and now >= self._seals:
            self._sealed.append(self._open)
            self._open, self._seals = [], math.inf

    def next(self, now: float, *, others_busy: bool = True) -> Told:
        self._seal(now)
        if not self._sealed:
            return Wait(self._seals) if self._open else None
        jobs = self._sealed[0]
        late = tuple(job for job in jobs if job.deadline < now)
        if late:
            self._sealed[0] = [job for job in jobs if job.deadline >= now]
            if not self._sealed[0]:
                self._sealed.popleft()
            return Late(late)
        return _batch(self._sealed.popleft(), "sealed")


class Cork:
    """BentoML's rule (`_internal/marshal/dispatcher.py`): a controller that looks once a millisecond, a line through
    the last 50 calls by number of requests, and waiting while `n (wn + dt + a) <= 0.95 wait`, where `wait` is the mean
    wait of the batches before. What waits is taken from the newest end, and one less than the largest batch, as there.
    """

    _TICK, _KEPT, _SKIPPED, _REFRESH = 1e-3, 50, 2, 5.0

    def __init__(self, max_rows: int, max_latency: float) -> None:
        self._max_rows, self._max_latency = max_rows, max_latency
        self._a, self._b, self._wait = min(2.0, max_latency * 2 / 30), min(1.0, max_latency / 30), 0.01
        self._calls: deque[tuple[int, float, float]] = deque(maxlen=self._KEPT)
        self._counter = 0
        self._refreshed = -math.inf
        self._jobs: deque[Job[Any]] = deque()
        self._looks = 0.0  # when the controller looks next
        self._running: deque[tuple[int, float, float]] = deque()  # requests, wait, and start of what runs

    def add(self, job: Job[Any], now: float) -> None:
        if not self._jobs:
            self._looks = max(self._looks, now)  # the controller slept until there was something
        self._jobs.append(job)

    def done(self, rows: int, seconds: float, *, tried: bool = False) -> None:
        number, wait, start = self._running.popleft()
        if self._jobs:  # while the executor was busy it went on looking, once a tick
            self._looks += max(math.ceil((start + seconds - self._looks) / self._TICK), 0) * self._TICK
        self._counter = min(self._counter + 1, self._SKIPPED + 5)
        if self._counter <= self._SKIPPED:
            return
        self._calls.append((number, seconds, wait))
        now = start + seconds
        if self._counter <= self._SKIPPED + 4 or now - self._refreshed >= self._REFRESH:
            self._refreshed = now
            self._refresh()

    def _refresh(self) -> None:
        sizes = np.array([(number, 1) for number, _, _ in self._calls], float)
        a, b = np.linalg.lstsq(sizes, np.array([seconds for _, seconds, _ in self._calls]), rcond=None)[0]
        self._a, self._b = max(1e-6, float(a)), max(0.0, float(b))
        self._wait = max(0.0, sum(wait for _, _, wait in self._calls) / len(self._calls))

    def next(self, now: float, *, others_busy: bool = True) -> Told:
        if not self._jobs:
            return None
        if now < self._looks:
            return Wait(self._looks)
        late = _expired(self._jobs, now) or self._cancelled(now)
        if late:
            return late
        number, first = len(self._jobs), now - self._jobs[0].arrived
        if self._counter <= self._SKIPPED + 1:
            return self._call(1, now)
        trained = self._counter - self._SKIPPED  # 2 and 3: it tries batches of so many
        if trained <= 3 and self._max_rows >= trained:
            until = min(self._max_latency * 0.95, (2 * trained + 1) * (self._a + self._b))
            if number < trained and trained * self._a + self._b + first <= until:
                return self._later(now)
            return self._call(min(number, trained), now)
        last = now - self._jobs[-1].arrived
        if number < self._max_rows and number * (last + self._TICK + self._a) <= 0.95 * self._wait:
            return self._later(now)
        return self._call(min(number, max(self._max_rows - 1, 1)), now)

    def _cancelled(self, now: float) -> Late[Any] | None:
        """Those that would be late if all that waits ran as one batch, however large."""
        late: list[Job[Any]] = []
        while len(self._jobs) > 1 and self._counter > self._SKIPPED + 3:
            if now - self._jobs[0].arrived + self._a * len(self._jobs) + self._b < self._max_latency:
                break
            late.append(self._jobs.popleft())
        return Late(tuple(late)) if late else None

    def _later(self, now: float) -> Wait:
        self._looks = now + self._TICK
        return Wait(self._looks)

    def _call(self, number: int, now: float) -> Batch[Any]:
        jobs = [self._jobs.pop() for _ in range(number)]
        self._running.append((number, now - jobs[-1].arrived, now))
        self._looks = now
        return _batch(jobs, "cork")
