"""Greedy late binding: what came in one tick of the event loop is answered together, as late as possible.

Laws: a request waits for the executor, never for company; a batch grows until the instant it starts. Rows of one
request stay together. A full queue refuses at once, so that waiting requests keep their deadlines. Every request is
answered or told why not, and never because of its company.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from trilane.errors import UnavailableError

__all__ = ["Batcher", "Share"]

Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Share(Generic[Result]):
    """One request's part, rows `start` up to `stop`, of what was answered together."""

    result: Result
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Row, Result]):
    rows: list[Row]
    deadline: float
    future: asyncio.Future[Share[Result]]


class Batcher(Generic[Row, Result]):
    """Collects requests and answers them by `run`; those past their deadline by `expire`, with no work done.

    `max_rows`: the largest batch; `queue_rows`: how many rows may wait; deadlines are instants of `time.perf_counter`.
    """

    def __init__(
        self,
        run: Callable[[list[Row]], Result],
        expire: Callable[[list[Row]], Result],
        *,
        loop: asyncio.AbstractEventLoop,
        max_rows: int = 1_024,
        queue_rows: int = 16_384,
    ) -> None:
        self._run, self._expire, self._loop = run, expire, loop
        self._max_rows, self._queue_rows = max_rows, queue_rows
        self._waiting: deque[_Waiting[Row, Result]] = deque()
        self._queued = 0
        self._due = False

    @property
    def queued(self) -> int:
        """Rows that wait."""
        return self._queued

    def submit(self, rows: list[Row], *, deadline: float) -> asyncio.Future[Share[Result]]:
        """Queues the rows of one request. Raises UnavailableError (429) when too many wait."""
        if self._queued + len(rows) > self._queue_rows:
            raise UnavailableError(
                f"{self._queued} rows are waiting",
                where="queue",
                remedy="Try again after the time in Retry-After, or add workers",
                overload=True,
            )
        future: asyncio.Future[Share[Result]] = self._loop.create_future()
        self._waiting.append(_Waiting(rows, deadline, future))
        self._queued += len(rows)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        batch: list[_Waiting[Row, Result]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].rows) <= self._max_rows):
            request = self._waiting.popleft()
            self._queued -= len(request.rows)
            if request.future.cancelled():
                continue
            batch.append(request)
            size += len(request.rows)
        self._due = bool(self._waiting)
        if self._due:
            self._loop.call_soon(self._flush)
        now = time.perf_counter()
        self._settle([r for r in batch if r.deadline >= now], self._run)
        self._settle([r for r in batch if r.deadline < now], self._expire)

    def _settle(self, batch: list[_Waiting[Row, Result]], answer: Callable[[list[Row]], Result]) -> None:
        if not batch:
            return
        try:
            result = answer([row for request in batch for row in request.rows])
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._fail(batch, answer, error)
            return
        start = 0
        for request in batch:
            stop = start + len(request.rows)
            if not request.future.done():
                request.future.set_result(Share(result, start, stop))
            start = stop

    def _fail(
        self, batch: list[_Waiting[Row, Result]], answer: Callable[[list[Row]], Result], error: Exception
    ) -> None:
        """Tells a lone request of the error; asks for each of many alone, so that one cannot spoil the others."""
        if len(batch) > 1:
            for request in batch:
                self._settle([request], answer)
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)
