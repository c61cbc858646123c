"""The signals of all workers of one server, told by any of them.

Laws: each worker writes what it counted once a second, and reads what the others wrote when it is asked; one that is
gone or stands still for some seconds counts no more; what cannot be written or read is left out, and stops nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from trilane.plugins import make_folder
from trilane.serving.signals import Signals, Tally, Told, told

__all__ = ["Replicas"]

_EVERY, _STALE = 1.0, 5.0  # seconds


class _Written(msgspec.Struct):
    at: float
    tally: Tally


class Replicas:
    """The signals of this process, `own`, and those of its siblings at `port`; `tell` gets the own ones each second."""

    def __init__(
        self,
        own: Signals,
        *,
        state: Path,
        port: int,
        alone: bool,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[Told], None],
    ) -> None:
        self._own, self._alone, self._loop, self._tell = own, alone, loop, tell
        self._folder = state / "signals" / str(port)
        self._mine = self._folder / f"{os.getpid()}.json"
        if not alone:
            make_folder(self._folder)
        self._timer = loop.call_later(_EVERY, self._tick)

    def told(self) -> Told:
        """What the workers of this server count together."""
        now = time.monotonic()  # one clock for all processes of a machine
        return told([self._own.tally(time.perf_counter()), *([] if self._alone else self._others(now))])

    def close(self) -> None:
        """Tells no more."""
        self._timer.cancel()
        self._mine.unlink(missing_ok=True)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_EVERY, self._tick)
        tally = self._own.tally(time.perf_counter())
        self._tell(told([tally]))
        if not self._alone:
            with contextlib.suppress(OSError):
                draft = self._mine.with_suffix(".draft")
                draft.write_bytes(msgspec.json.encode(_Written(time.monotonic(), tally)))
                draft.replace(self._mine)

    def _others(self, now: float) -> list[Tally]:
        found = []
        for path in self._folder.glob("*.json"):
            if path == self._mine:
                continue
            with contextlib.suppress(OSError, msgspec.DecodeError):
                written = msgspec.json.decode(path.read_bytes(), type=_Written)
                if 0 <= now - written.at <= _STALE:
                    found.append(written.tally)
        return found
