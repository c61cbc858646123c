"""When to try, seldom, what is expected to take too long: nothing else would tell that it does not any more.

Law: pure logic on the caller's clock; what is tried in vain takes a twentieth of the time, and comes once a second at
least, so that no estimate is wrong for long.
"""

from __future__ import annotations

import math

__all__ = ["Trials"]

_SELDOM = 20.0  # times that one lasts, from its beginning to that of the next
_SHORTEST, _LONGEST = 0.01, 1.0  # seconds until the next, whatever the last one took


class Trials:
    """All times in seconds. Whatever runs anyway is a trial as good as any, and makes others needless."""

    __slots__ = ("_began", "_next")

    def __init__(self) -> None:
        self._began = self._next = -math.inf

    def due(self, now: float) -> bool:
        """Whether to try. What was expected before anything ran is believed for a while."""
        if self._next == -math.inf:
            self.began(now, math.inf)
        return now >= self._next

    def began(self, now: float, expected: float) -> None:
        """Something runs, and takes `expected` if it is as before."""
        self._began = now
        self._next = now + _pause(expected)

    def ended(self, seconds: float) -> None:
        """What began last took `seconds`."""
        self._next = self._began + _pause(seconds)


def _pause(seconds: float) -> float:
    return min(max(_SELDOM * seconds, _SHORTEST), _LONGEST)
