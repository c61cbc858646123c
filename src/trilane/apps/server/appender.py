"""Appends of many requests as one: a thread that writes to the log whatever has gathered while it wrote.

Law: a request is told of its events only when they are durable, or that they are not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass

from trilane.clock import Clock
from trilane.errors import UnavailableError
from trilane.sources.log.protocol import EventLog

__all__ = ["Appender"]


@dataclass(frozen=True, slots=True)
class _Waiting:
    source: str
    partition: int
    values: list[bytes]
    future: asyncio.Future[int]


class Appender:
    """Group commit over an event log. `capacity`: bytes that may wait before callers are told to come later."""

    def __init__(
        self, log: EventLog, clock: Clock, loop: asyncio.AbstractEventLoop, *, capacity: int = 64 << 20
    ) -> None:
        self._log, self._clock, self._loop, self.capacity = log, clock, loop, capacity
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._began = 0.0  # when the append that is under way did; 0 if none is
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="event-appender", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Bytes that wait."""
        return self._bytes

    @property
    def lasts(self) -> float:
        """Seconds for which the append that is under way has lasted by now."""
        began = self._began
        return time.perf_counter() - began if began else 0.0

    def append(self, source: str, partition: int, values: list[bytes]) -> asyncio.Future[int]:
        """The log's next offset after these events, once they are durable. Raises UnavailableError when full."""
        size = sum(map(len, values))
        with self._wake:
            if self._bytes + size > self.capacity:
                raise UnavailableError(
                    "too many events are waiting for the log",
                    where=f"source {source!r}",
                    remedy="Send again after the time in Retry-After",
                    overload=True,
                    retry_after_s=max(self.lasts, 1.0),
                )
            future: asyncio.Future[int] = self._loop.create_future()
            self._waiting.append(_Waiting(source, partition, values, future))
            self._bytes += size
            self._wake.notify()
        return future

    def close(self) -> None:
        """Writes what waits, and stops."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                batch = list(self._waiting)
                self._waiting.clear()
                self._bytes = 0
            if not batch:
                return
            groups: dict[tuple[str, int], list[_Waiting]] = {}
            for request in batch:
                groups.setdefault((request.source, request.partition), []).append(request)
            for (source, partition), requests in groups.items():
                self._write(source, partition, requests)

    def _write(self, source: str, partition: int, requests: list[_Waiting]) -> None:
        values = [value for request in requests for value in request.values]
        self._began = time.perf_counter()
        try:
            end = self._log.append(source, partition, values, self._clock.now()) + len(values)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            self._loop.call_soon_threadsafe(_fail, requests, error)
        else:
            self._loop.call_soon_threadsafe(_tell, requests, end)
        finally:
            self._began = 0.0


def _tell(requests: list[_Waiting], end: int) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_result(end)


def _fail(requests: list[_Waiting], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
