"""How a server worker ends: everybody who asked is answered, and whoever asks next finds another worker.

Laws: from the first SIGTERM on, the worker is `parting`: each of its answers asks the client to come back on another
connection; it goes on answering until its successor listens, or, where nobody succeeds it, until load balancers, which
it tells that it is not ready, had `notice` seconds to look elsewhere; then its end has come: it takes no more
connections, answers what is under way, and is gone. A second SIGTERM cuts the waiting short.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from trilane.apps.rounds import Rounds

__all__ = ["Drain"]

_LOOK = 0.02  # seconds between two looks for a successor


class Drain:
    """The end of one worker, of round `own`. `notice`: seconds; `longest`: after which it ends in any case.

    `part` is called as it begins.
    """

    def __init__(
        self,
        rounds: Rounds,
        *,
        own: int,
        notice: float,
        longest: float,
        loop: asyncio.AbstractEventLoop,
        part: Callable[[], None],
    ) -> None:
        self._rounds, self._own, self._notice, self._longest, self._loop = rounds, own, notice, longest, loop
        self._part = part
        self._began, self._since = False, 0.0
        self.replaced = False  # whether others go on in its place
        self._end: asyncio.Future[None] = loop.create_future()

    async def wait(self) -> None:
        """Takes SIGTERM over, tells that the worker listens, and waits until its end has come."""
        self._loop.add_signal_handler(signal.SIGTERM, self.begin)
        with contextlib.suppress(OSError):  # a full disk: then a predecessor waits as long as it can
            self._rounds.listen(self._own)
        await self._end

    def begin(self) -> None:
        """The worker is to end; called again, it is to end now."""
        if self._began:
            self._leave()
            return
        self._began, self._since = True, self._loop.time()
        self.replaced = self._rounds.has_successor(self._own)
        self._part()
        self._look()

    def _look(self) -> None:
        waited = self._loop.time() - self._since
        done = self._rounds.successor_listens(self._own) if self.replaced else waited >= self._notice
        if done or waited >= self._longest:
            self._leave()
        else:
            self._loop.call_later(_LOOK, self._look)

    def _leave(self) -> None:
        if not self._end.done():
            self._end.set_result(None)
