"""What a server has loaded is taken out of the rounds of Python's collector of circles.

Law: no round goes through all that is loaded while anybody is answered, for it would hold up answers by 0.1 s.
"""

from __future__ import annotations

import asyncio
import gc

__all__ = ["Settling", "settle"]

_ROUND = 20_000  # objects that may come to be, beyond those that go, until the collector looks for circles among them
_AFTER = 0.5  # seconds: what is loaded in a row settles together


def settle(*, first: bool) -> None:
    """Takes all that is loaded by now out of the collector's rounds; only for the `first`, when nobody is answered yet,
    there is a round before it.

    After it rounds are rare: what a request makes is freed with its last reference, and a round for every 700 objects
    costs a tenth of an answer.
    """
    if first:
        gc.collect()
    gc.set_threshold(_ROUND)
    gc.freeze()


class Settling:
    """Has what is loaded meanwhile settle, soon after."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Something was loaded that may stay."""
        if self._timer is None:
            self._timer = self._loop.call_later(_AFTER, self._settle)

    def close(self) -> None:
        """Nothing settles any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _settle(self) -> None:
        self._timer = None
        settle(first=False)
