"""Requests of one endpoint on the event loop, answered together as its dispatcher decides.

Laws: a batch is formed at the instant it starts. Rows of one request stay together. A full queue refuses at once, so
that waiting requests keep their deadlines. Every request is answered or told why not, and never because of its company.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from trilane.errors import UnavailableError
from trilane.serving.dispatch import Batch, Dispatcher, Job, Late, Wait
from trilane.serving.latency import LatencyModel

__all__ = ["Batcher", "Share"]

Row = TypeVar("Row")
Result = TypeVar("Result")

# The loop's timers are no finer (selectors round up to it); a shorter wait looks again after each round of the loop.
_TICK = 1e-3


@dataclass(frozen=True, slots=True)
class Share(Generic[Result]):
    """One request's part, rows `start` up to `stop`, of what was answered together."""

    result: Result
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Row, Result]):
    rows: list[Row]
    future: asyncio.Future[Share[Result]]


_Jobs: TypeAlias = Sequence[Job[_Waiting[Row, Result]]]


class Batcher(Generic[Row, Result]):
    """Collects requests and answers them by `run`; those that cannot be in time by `expire`, with no work done.

    `latency`: what is known of the time that `run` takes, in seconds; `max_rows`: the largest batch; `queue_rows`: how
    many rows may wait; deadlines are instants of `time.perf_counter`.
    """

    def __init__(
        self,
        run: Callable[[list[Row]], Result],
        expire: Callable[[list[Row]], Result],
        *,
        loop: asyncio.AbstractEventLoop,
        latency: LatencyModel | None = None,
        max_rows: int = 1_024,
        queue_rows: int = 16_384,
    ) -> None:
        self._run, self._expire, self._loop = run, expire, loop
        self._queue_rows = queue_rows
        self._dispatcher = Dispatcher[_Waiting[Row, Result]](latency or LatencyModel(), max_rows=max_rows)
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._dispatcher.rows

    @property
    def latency(self) -> LatencyModel:
        """What was learnt of the time that batches take."""
        return self._dispatcher.latency

    def submit(self, rows: list[Row], *, deadline: float) -> asyncio.Future[Share[Result]]:
        """Queues the rows of one request. Raises UnavailableError (429) when too many wait."""
        if self.queued + len(rows) > self._queue_rows:
            raise UnavailableError(
                f"{self.queued} rows are waiting",
                where="queue",
                remedy="Try again after the time in Retry-After, or add workers",
                overload=True,
            )
        future: asyncio.Future[Share[Result]] = self._loop.create_future()
        now = time.perf_counter()
        self._dispatcher.add(Job(len(rows), now, deadline, _Waiting(rows, future)), now)
        self._soon()
        return future

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.perf_counter()
        while isinstance(decision := self._dispatcher.next(now), Late):
            self._settle(decision.jobs, self._expire)
        if isinstance(decision, Batch):
            jobs = [job for job in decision.jobs if not job.payload.future.cancelled()]
            if jobs:
                self._settle(jobs, self._run)
                self._dispatcher.done(sum(job.rows for job in jobs), time.perf_counter() - now)
            if self._dispatcher.requests:
                self._soon()  # in the next round of the loop, so that what came meanwhile goes along
        elif isinstance(decision, Wait):
            if decision.until - now < _TICK:
                self._soon()
            else:
                self._timer = self._loop.call_later(decision.until - now, self._pump)

    def _settle(self, jobs: _Jobs[Row, Result], answer: Callable[[list[Row]], Result]) -> None:
        try:
            result = answer([row for job in jobs for row in job.payload.rows])
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._fail(jobs, answer, error)
            return
        start = 0
        for job in jobs:
            stop = start + job.rows
            if not job.payload.future.done():
                job.payload.future.set_result(Share(result, start, stop))
            start = stop

    def _fail(self, jobs: _Jobs[Row, Result], answer: Callable[[list[Row]], Result], error: Exception) -> None:
        """Tells a lone request of the error; asks for each of many alone, so that one cannot spoil the others."""
        if len(jobs) > 1:
            for job in jobs:
                self._settle([job], answer)
        elif not jobs[0].payload.future.done():
            jobs[0].payload.future.set_exception(error)
