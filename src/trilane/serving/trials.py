"""When to try, seldom, what is expected to take too long: nothing else would tell that it does not any more.

Laws: pure logic on the caller's clock; one trial at a time; after each there is none for 19 times as long as it took,
whatever came of it, so that trials take a twentieth of the time at most (a half, if each takes seconds: nobody shall
wait a minute to hear that a model is well again); nor is there one where something ran within
20 times of what the trial is expected to take, for what runs tells enough, and may be held up by it. What never was as
quick as it would have to be is tried 20 times as seldom, but is tried: every ten seconds at least.
"""

from __future__ import annotations

import math

from trilane.serving.latency import LatencyModel

__all__ = ["TRIAL", "Trials"]

TRIAL = "trial"  # the reason of its batch
_SELDOM = 20.0  # times that one lasts, from its beginning to that of the next
_SHORTEST = 0.01  # seconds until the next, however quick the last one was
_LONGEST = 10.0  # and however slow, unless it lasts for half of that


class Trials:
    """All times in seconds."""

    __slots__ = ("_let_in", "_rested", "_runs", "_since")

    def __init__(self) -> None:
        self._since: float | None = None  # when something began last, or what was expected was asked for first
        self._rested = self._let_in = -math.inf
        self._runs = False

    def due(self, now: float, latency: LatencyModel, rows: int, within: float) -> bool:
        """Whether to try `rows` that seem to take longer than the seconds `within`. What was expected before anything
        ran is believed for a while.
        """
        if self._since is None:
            self._since = now
        pause = _pause(latency, rows, within)
        return within > 0 and not self._runs and now >= max(self._rested, self._since + pause)

    def lets_in(self, now: float, latency: LatencyModel, within: float) -> bool:
        """Whether one row may come to be tried; not the next one too, but after a while, for it may go away."""
        if now < self._let_in or not self.due(now, latency, 1, within):
            return False
        self._let_in = now + _pause(latency, 1, within)
        return True

    def began(self, now: float, *, tried: bool = False) -> None:
        """Something runs; `tried`: as a trial, whose end will be told."""
        self._since = now
        if tried:
            self._rested, self._runs = now, True

    def ended(self, seconds: float) -> None:
        """The trial took so long, whatever came of it."""
        self._runs = False
        self._rested += _rest(_SELDOM * seconds, seconds)


def _pause(latency: LatencyModel, rows: int, within: float) -> float:
    """Seconds without anything that runs, after which it may be tried."""
    expected = latency.expected(rows)
    pause = max(_SELDOM * expected, _SHORTEST)
    return _rest(pause if within >= latency.at_best(rows) else _SELDOM * pause, expected)


def _rest(pause: float, seconds: float) -> float:
    """At most so many seconds from the beginning of a trial of `seconds` to the next."""
    return min(pause, max(_LONGEST, 2 * seconds))
