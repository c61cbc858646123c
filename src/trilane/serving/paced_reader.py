"""Where the reads of one reader are made: on the event loop while they are quick, beside it while they take long.

Laws: where a read is made is decided on the loop alone: there only while none of this reader is under way or waits
beside it, and beside it one after another, in the order in which they were asked for; so no two threads are ever in one
reader. Only the store is asked and decoded beside; the rest, with whatever code of an author, stays on the loop. A read
on the loop that finds the store slow is given up soon, and made beside. Whoever goes away leaves a read that has begun
to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from trilane.serving.guard import HeldUp
from trilane.serving.reading import LEAST, Asked, FeatureReader, Reading, Rows, Stored

__all__ = ["PacedReader"]

_PATIENCE = 5e-3  # seconds that a read may hold up the loop before it is made beside it
_A_ROW = 2e-5  # and for each row that it asks for


class PacedReader:
    """Reads for callers on `loop`; what takes long in `threads`, which it may share with other readers.

    `timer`: seconds, by which instants are told.
    """

    def __init__(
        self,
        reader: FeatureReader,
        *,
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.reader = reader
        self._guard, self._loop, self._threads, self._timer = reader.guard, loop, threads, timer
        self._waiting: deque[tuple[Callable[[], Stored], asyncio.Future[Stored]]] = deque()
        self._busy = False

    def patience(self, rows: int) -> float:
        """The seconds that a read of so many rows may take on the loop now, before it raises HeldUp; 0: none may be
        made there.
        """
        if self._guard is None:
            return math.inf
        return 0.0 if self._busy or self._guard.is_long else _PATIENCE + _A_ROW * rows

    async def later(self, rows: Rows | Asked, now: int, until: float = math.inf) -> Reading:
        """A read for a caller that can wait, wherever it is to be made; the store has until the instant `until`."""
        patience = self.patience(len(rows))
        if patience:
            with contextlib.suppress(HeldUp):
                return self.reader.read(rows, now, within=self._within(until), patience=patience)
        return self.reader.completed(rows, await self._beside(functools.partial(self._stored, rows, now, until)))

    def _within(self, until: float) -> float:
        return max(until - self._timer(), LEAST)

    def _stored(self, rows: Rows | Asked, now: int, until: float) -> Stored:
        return self.reader.stored(rows, now, within=self._within(until))

    def _beside(self, read: Callable[[], Stored]) -> asyncio.Future[Stored]:
        future: asyncio.Future[Stored] = self._loop.create_future()
        self._waiting.append((read, future))
        if not self._busy:
            self._next()
        return future

    def _next(self) -> None:
        self._busy = False
        while self._waiting and not self._busy:
            read, future = self._waiting.popleft()
            if not future.done():  # else who asked for it has gone
                self._busy = True
                self._threads.submit(read).add_done_callback(functools.partial(self._made, future))

    def _made(self, future: asyncio.Future[Stored], made: Future[Stored]) -> None:
        """In the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._ended, future, made)

    def _ended(self, future: asyncio.Future[Stored], made: Future[Stored]) -> None:
        if made.cancelled():
            future.cancel()
        elif not future.done():
            error = made.exception()
            if error is None:
                future.set_result(made.result())
            else:
                future.set_exception(error)
        self._next()
