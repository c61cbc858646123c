"""Reads that came in one tick of the event loop, done together.

Unlike a batch of decisions nothing here waits for company, has a deadline or learns: a read of more rows costs little
more than one of few. Laws: rows of one request stay together; a full queue refuses at once; every request is answered
or told why not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from trilane.serving.share import Share, check_rows, too_many

__all__ = ["Together"]

Row = TypeVar("Row")
Result = TypeVar("Result")


class Together(Generic[Row, Result]):
    """Collects the rows of requests, and reads them by `read`, at most `max_rows` at a time while there are several.

    `queue_rows`: how many rows may wait.
    """

    def __init__(
        self,
        read: Callable[[list[Row]], Result],
        *,
        loop: asyncio.AbstractEventLoop,
        max_rows: int = 1_024,
        queue_rows: int = 16_384,
    ) -> None:
        self._read, self._loop, self._max_rows, self._queue_rows = read, loop, max_rows, queue_rows
        self._waiting: deque[tuple[list[Row], asyncio.Future[Share[Result]]]] = deque()
        self._queued = 0
        self._due = False

    def submit(self, rows: list[Row]) -> asyncio.Future[Share[Result]]:
        """Queues the rows of one request. Raises UnavailableError (429) when too many wait, ContractError (413) for
        a request that no queue could take.
        """
        if self._queued + len(rows) > self._queue_rows:
            check_rows(len(rows), queue=self._queue_rows)
            raise too_many(self._queued)
        future: asyncio.Future[Share[Result]] = self._loop.create_future()
        self._waiting.append((rows, future))
        self._queued += len(rows)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        rows: list[Row] = []
        parts: list[tuple[asyncio.Future[Share[Result]], int, int]] = []
        while self._waiting and (not parts or len(rows) + len(self._waiting[0][0]) <= self._max_rows):
            own, future = self._waiting.popleft()
            self._queued -= len(own)
            if not future.cancelled():
                parts.append((future, len(rows), len(rows) + len(own)))
                rows += own
        self._due = bool(self._waiting)
        if self._due:
            self._loop.call_soon(self._flush)  # in the next round, so that others are answered in between
        if not parts:
            return
        try:
            result = self._read(rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for future, _, _ in parts:
                future.set_exception(error)
            return
        for future, start, stop in parts:
            future.set_result(Share(result, start, stop))
