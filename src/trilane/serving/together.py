"""Reads that came in one tick of the event loop, done together.

Unlike a batch of decisions nothing here waits for company, has a deadline or learns: a read of more rows costs little
more than one of few. Laws: rows of one request stay together; a full queue refuses at once; every request is answered
or told why not.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

from trilane.serving.share import Share, check_rows, too_many

__all__ = ["Together"]

Row = TypeVar("Row")
Result = TypeVar("Result")
_Parts: TypeAlias = list[tuple[asyncio.Future[Share[Result]], int, int]]


class Together(Generic[Row, Result]):
    """Collects the rows of requests, and reads them by `read`, at most `max_rows` at a time while there are several.

    `read` gives a result, or an awaitable of one; `queue_rows`: how many rows may wait.
    """

    def __init__(
        self,
        read: Callable[[list[Row]], Result | Awaitable[Result]],
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
        parts: _Parts[Result] = []
        while self._waiting and (not parts or len(rows) + len(self._waiting[0][0]) <= self._max_rows):
            own, future = self._waiting.popleft()
            self._queued -= len(own)
            if not future.cancelled():
                parts.append((future, len(rows), len(rows) + len(own)))
                rows += own
        if not parts:
            self._again()
            return
        try:
            result = self._read(rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._again()
            _fail(parts, error)
            return
        if inspect.isawaitable(result):
            awaited = asyncio.ensure_future(result, loop=self._loop)
            awaited.add_done_callback(lambda done: self._ended(parts, done))
            return
        self._again()
        _tell(parts, result)

    def _again(self) -> None:
        """Reads what waits in the next round, so that others are answered in between."""
        self._due = bool(self._waiting)
        if self._due:
            self._loop.call_soon(self._flush)

    def _ended(self, parts: _Parts[Result], done: asyncio.Future[Result]) -> None:
        self._again()
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            _tell(parts, done.result())
        else:
            _fail(parts, error)


def _tell(parts: _Parts[Result], result: Result) -> None:
    for future, start, stop in parts:
        if not future.done():  # else who asked has gone
            future.set_result(Share(result, start, stop))


def _fail(parts: _Parts[Result], error: BaseException) -> None:
    for future, _, _ in parts:
        if not future.done():
            future.set_exception(error)
