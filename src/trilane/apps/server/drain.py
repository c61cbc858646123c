"""How a server worker ends: everybody who asked is answered, and whoever asks next finds another worker.

Laws: from the first SIGTERM on, the worker says that it is not ready, and each of its answers asks the client to come
back on another connection; it goes on answering until its successor listens, or, where nobody succeeds it, until load
balancers had `notice` seconds to look elsewhere; then it takes no more connections, answers what is under way, and is
gone. A second SIGTERM cuts the waiting short.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from trilane.apps.rounds import Rounds

__all__ = ["Closing", "Drain"]

_LOOK = 0.02  # seconds between two looks for a successor


class Drain:
    """The end of one worker, of round `own`. `notice`: seconds; `longest`: after which it ends in any case."""

    def __init__(
        self, rounds: Rounds, *, own: int, notice: float, longest: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._rounds, self._own, self._notice, self._longest, self._loop = rounds, own, notice, longest, loop
        self.began = False
        self._since = 0.0
        self._replaced = False
        self._farewell: Callable[[], Awaitable[None]] | None = None
        self._parting: asyncio.Future[None] | None = None

    def before_the_end(self, farewell: Callable[[], Awaitable[None]]) -> None:
        """What else takes requests ends by `farewell`, before the worker does."""
        self._farewell = farewell

    def watch(self) -> None:
        """Takes SIGTERM over, and tells, once the loop runs and so the worker listens, that it does."""
        self._loop.add_signal_handler(signal.SIGTERM, self.begin)
        self._loop.call_soon(self._listens)

    def _listens(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: then a predecessor waits as long as it can
            self._rounds.listen(self._own)

    def begin(self) -> None:
        """The worker is to end; called again, it is to end now."""
        if self.began:
            self._end()
            return
        self.began, self._since = True, self._loop.time()
        self._replaced = self._rounds.has_successor(self._own)
        self._look()

    def _look(self) -> None:
        waited = self._loop.time() - self._since
        done = self._rounds.successor_listens(self._own) if self._replaced else waited >= self._notice
        if done or waited >= self._longest:
            self._end()
        else:
            self._loop.call_later(_LOOK, self._look)

    def _end(self) -> None:
        if self._farewell is not None and self._parting is None:
            self._parting = asyncio.ensure_future(self._farewell())
            self._parting.add_done_callback(lambda _: self._leave())
        else:
            self._leave()

    def _leave(self) -> None:
        # The server's own handler of this signal stops listening, waits for what is under way, and ends the loop.
        os.kill(os.getpid(), signal.SIGINT)


class Closing:
    """The protocol of a request whose answer shall be the last one of its connection."""

    def __init__(self, protocol: Any) -> None:  # noqa: ANN401 - a type of granian's
        self._protocol = protocol

    def __call__(self) -> Any:  # noqa: ANN401
        return self._protocol()

    def __aiter__(self) -> Any:  # noqa: ANN401
        return self._protocol.__aiter__()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._protocol, name)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answers, and closes the connection."""
        self._protocol.response_bytes(status, [*headers, ("connection", "close")], body)
