"""What a server counted in plain numbers is told to its metrics: a few times a second, and before each scrape.

Law: of hundreds of models some are told of at a time, so that nobody who asks waits for more than these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from trilane.serving.admission import Admission
from trilane.serving.entries import Slot
from trilane.serving.metrics import Metrics

__all__ = ["Telling"]

_EVERY = 0.25  # seconds from the end of a round to the next
_SELDOM = 4  # rounds, of which one looks at all lines
_PAUSE = 0.002  # seconds between two pieces of a round


class Telling:
    """Tells `metrics` who was let in, what was asked and what the models of `slots` did, until `close`."""

    def __init__(
        self,
        metrics: Metrics,
        admission: Admission,
        slots: Callable[[], Iterable[Slot]],
        *,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._metrics, self._admission, self._slots, self._loop = metrics, admission, slots, loop
        self._rounds = 0
        self._round()

    def now(self) -> None:
        """Tells everything at once."""
        self._tell_requests()
        self._metrics.tell_waiting(self._admission)
        self._metrics.models.tell(self._slots())

    def close(self) -> None:
        """Tells of the requests so far, and then no more."""
        self._timer.cancel()
        self._metrics.tell_requests()

    def _tell_requests(self) -> None:
        self._metrics.tell_admission(self._admission)
        self._metrics.tell_requests()

    def _round(self) -> None:
        self._tell_requests()
        if not self._rounds % _SELDOM:
            self._metrics.tell_waiting(self._admission)
        self._rounds += 1
        self._piece(self._metrics.models.telling(self._slots()))

    def _piece(self, pieces: Iterator[None]) -> None:
        for _ in pieces:
            self._timer = self._loop.call_later(_PAUSE, self._piece, pieces)
            return
        self._timer = self._loop.call_later(_EVERY, self._round)
