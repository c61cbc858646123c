"""Time as a value that is passed in: instants, durations, and the clocks that tell them.

An instant is an integer: microseconds since 1970-01-01 UTC. A duration is an integer of microseconds.
Production runs on the wall clock; replays, tests and the demo run on a clock that somebody moves.
"""

from __future__ import annotations

import datetime as dt
import mmap
import os
import re
import struct
import time
from pathlib import Path
from typing import Protocol

from trilane.errors import DefinitionError, SetupError

__all__ = [
    "Clock",
    "SECOND",
    "SharedClock",
    "SimulatedClock",
    "SteadyClock",
    "WallClock",
    "duration",
    "format_duration",
    "format_instant",
    "instant",
]

SECOND = 1_000_000
_UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND, "d": 86_400 * SECOND}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Clock(Protocol):
    """Tells the present instant."""

    def now(self) -> int:
        """The present instant, in microseconds since 1970 UTC."""
        ...


class WallClock:
    """The machine's own clock."""

    def now(self) -> int:
        return time.time_ns() // 1_000


class SteadyClock:
    """The machine's own clock as of now, and from then on what passes, whatever that clock is set to.

    For pauses and leases: a wall clock that is set back by an hour would have them wait for an hour.
    """

    def __init__(self, wall: Clock | None = None) -> None:
        self._offset = (wall or WallClock()).now() - time.monotonic_ns() // 1_000

    def now(self) -> int:
        return time.monotonic_ns() // 1_000 + self._offset


class SimulatedClock:
    """A clock within one process that stands still until it is moved.

    >>> clock = SimulatedClock(instant("2013-10-01T00:00:00Z"))
    >>> clock.move_to(instant("2013-10-01T00:30:00Z"))
    >>> format_instant(clock.now())
    '2013-10-01T00:30:00Z'
    """

    def __init__(self, start: int = 0) -> None:
        self._now = start

    def now(self) -> int:
        return self._now

    def move_to(self, now: int) -> None:
        """Moves the clock to instant `now`; time never goes back."""
        if now < self._now:
            raise DefinitionError(
                f"a clock at {format_instant(self._now)} cannot go back to {format_instant(now)}",
                remedy="Replay events in order, or start with a fresh state",
            )
        self._now = now


class SharedClock:
    """A simulated clock that all processes of one machine share, through eight mapped bytes of a file.

    Law: a reader sees an instant that was set, never half of one: the bytes are one aligned machine word.
    """

    def __init__(self, path: Path, *, start: int | None = None) -> None:
        try:
            if not path.exists():
                _create(path, start or 0)
            with path.open("r+b") as file:
                # The map keeps a descriptor of its own. `struct` would move the bytes one by one.
                self._word = memoryview(mmap.mmap(file.fileno(), 8)).cast("q")
        except (OSError, ValueError) as error:
            raise SetupError(f"the clock file cannot be opened: {error}", where=str(path)) from error

    def now(self) -> int:
        return self._word[0]

    def move_to(self, now: int) -> None:
        """Moves the clock of every process to instant `now`; time never goes back."""
        if now < self.now():
            raise DefinitionError(
                f"a clock at {format_instant(self.now())} cannot go back to {format_instant(now)}",
                remedy="Replay events in order, or start with a fresh state",
            )
        self._word[0] = now


def _create(path: Path, start: int) -> None:
    """Makes the file whole or not at all; of two processes that make it at once, the first decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_bytes(struct.pack("=q", start))
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def duration(text: str | int) -> int:
    """Microseconds of a duration such as '50ms', '60s', '15m', '36h', '28d'.

    >>> duration("15m")
    900000000
    """
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*(\d+)\s*(us|ms|s|m|h|d)\s*", str(text))
    if not found:
        raise DefinitionError(f"{text!r} is not a duration", remedy="Write it as '50ms', '60s', '15m', '36h' or '28d'")
    return int(found[1]) * _UNITS[found[2]]


def format_duration(microseconds: int) -> str:
    """The shortest exact text of a duration.

    >>> format_duration(900_000_000)
    '15m'
    """
    for unit in ("d", "h", "m", "s", "ms"):
        if microseconds and microseconds % _UNITS[unit] == 0:
            return f"{microseconds // _UNITS[unit]}{unit}"
    return f"{microseconds}us"


def instant(value: str | dt.datetime | int) -> int:
    """The instant of an RFC 3339 text with an offset, or of an aware datetime.

    >>> instant("1970-01-01T00:00:01Z")
    1000000
    """
    if isinstance(value, int):
        return value
    when = value
    if isinstance(when, str):
        try:
            when = dt.datetime.fromisoformat(when)
        except ValueError:
            raise DefinitionError(f"{value!r} is not an instant", remedy="Write '2013-10-01T00:00:00Z'") from None
    if when.tzinfo is None:
        raise DefinitionError(f"{value!s} has no time zone", remedy="Write '2013-10-01T00:00:00Z'")
    return (when - _EPOCH) // dt.timedelta(microseconds=1)


def format_instant(microseconds: int) -> str:
    """The RFC 3339 text, in UTC, of an instant."""
    return (_EPOCH + dt.timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")
