"""Whose batch runs next, where the batches of many models run on one event loop.

A batch that runs on the loop holds up whatever else happens there. Of several that are due one runs in each turn, so
that its answers are out before the next begins, and what they take is not taken for time of others.

Laws: turns are taken in the order in which they were asked for; who finds nothing to run costs nobody a turn; between
two batches the loop looks at what came meanwhile; a defect of one stops no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """The turns of one loop. `blind`: seconds for which the loop has just seen nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: deque[Callable[[], None]] = deque()
        self._asked = self._held = False
        self.blind = 0.0

    def ask(self, turn: Callable[[], None]) -> None:
        """`turn` is called, once, when it is its turn; it tells by `held` if it ran something."""
        self._due.append(turn)
        if not self._asked:
            self._asked = True
            self._loop.call_soon(self._next)

    def held(self, seconds: float) -> None:
        """The loop was held up for so long by the one whose turn it is."""
        self._held, self.blind = True, seconds

    def _next(self) -> None:
        self._held, self.blind = False, 0.0
        left = len(self._due)  # who asks again meanwhile comes a round later
        try:
            while left and not self._held:
                left -= 1
                self._due.popleft()()
        finally:
            if self._held:
                self._loop.call_soon(self._pause)  # after those who wait for the answers, in the next round
            elif self._due:
                self._loop.call_soon(self._next)
            else:
                self._asked = False

    def _pause(self) -> None:
        self._loop.call_soon(self._next)  # next the loop looks at what came, and a round later it goes on
