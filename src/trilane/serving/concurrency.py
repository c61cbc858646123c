"""How many requests may be in the server at once, learnt from how much longer they take than they need.

TCP Vegas (Brakmo and Peterson 1995) as Netflix applies it to servers (concurrency-limits, VegasLimit): of a limit L,
L * (1 - unloaded / latency) requests wait rather than are worked on. A few that wait keep the server busy, so the limit
grows while there are fewer than `alpha` and shrinks while there are more than `beta`. TCP takes the shortest latency it
saw for the unloaded one, and drifts upwards with it under lasting load; here what a batch takes is learnt and passed.

Laws: pure logic on the caller's clock; the limit moves once a window, and never while less than half of it is used; it
stays within its bounds; a server that got slower lowers it, and one that got faster raises it again.
"""

from __future__ import annotations

__all__ = ["ConcurrencyLimit"]

_SAMPLES = 8  # answers that a window needs to count
_STEP = 0.1  # how far the limit moves in a window, as a part of it
_LEAP = 1.5  # and while nobody waits, so that it is found soon


class ConcurrencyLimit:
    """`least` and `most`: the bounds of the limit; `window`: seconds of answers that one step is based on."""

    def __init__(self, *, start: int = 64, least: int = 8, most: int = 4_096, window: float = 0.1) -> None:
        self._limit = float(start)
        self._least, self._most, self._window = least, most, window
        self.limit = start
        self._ends = 0.0
        self._answers, self._latency, self._unloaded, self._peak = 0, 0.0, 0.0, 0

    def answered(self, now: float, latency: float, in_flight: int, unloaded: float) -> None:
        """A request was answered after `latency` seconds, while `in_flight` were in the server.

        `unloaded`: what it would have taken without a queue.
        """
        self._answers += 1
        self._latency += latency
        self._unloaded += unloaded
        self._peak = max(self._peak, in_flight)
        if now >= self._ends and self._answers >= _SAMPLES:
            self._step()
            self._ends = now + self._window
            self._answers, self._latency, self._unloaded, self._peak = 0, 0.0, 0.0, 0

    def _step(self) -> None:
        latency, unloaded = self._latency / self._answers, self._unloaded / self._answers
        if self._peak * 2 < self._limit or latency <= 0:
            return
        waiting = self._limit * (1 - unloaded / latency)
        # Netflix's defaults for how many may wait are multiples of log10; a fifth of the limit suits large ones better.
        alpha, beta = max(3.0, 0.1 * self._limit), max(6.0, 0.2 * self._limit)
        if waiting <= 0:
            self._limit *= _LEAP
        elif waiting < alpha:
            self._limit += max(1.0, _STEP * self._limit)
        elif waiting > beta:
            self._limit -= max(1.0, _STEP * self._limit)
        self._limit = min(max(self._limit, self._least), self._most)
        self.limit = int(self._limit)
