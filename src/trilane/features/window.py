"""The window rule: which events a window sees at a query instant.

At instant q a window W covers [floor(q - W, h), q): event time, UTC, left inclusive, right exclusive. The hop h is
the largest of 1 s, 5 s, 15 s, 1 m, 5 m, 1 h, 1 d that is at most W/12, so the overhang is at most 8.3 %; below 12 s it
is 1 s. The rule is Chronon's sawtooth (aggregator/windowing/Resolution.scala) with a finer ladder.

The window "lifetime" covers everything since 1970 in one tile: an online read sees of it what has been applied.
"""

from __future__ import annotations

from dataclasses import dataclass

from trilane.clock import SECOND, duration, format_duration
from trilane.errors import DefinitionError

__all__ = ["LADDER", "LIFETIME", "Window", "default_hop"]

LADDER = tuple(duration(text) for text in ("1d", "1h", "5m", "1m", "15s", "5s", "1s"))
LIFETIME = 1 << 60  # microseconds, 36,000 years: one hop holds every instant


def default_hop(length: int) -> int:
    """The hop of a window of `length` microseconds.

    >>> from trilane.clock import duration, format_duration
    >>> [format_duration(default_hop(duration(w))) for w in ("10s", "30m", "60m", "12h", "28d")]
    ['1s', '1m', '5m', '1h', '1d']
    """
    return next((hop for hop in LADDER if hop * 12 <= length), SECOND)


def _hop_within(length: int, overhang: float) -> int:
    """The coarsest hop that divides a window and overhangs it by no more than this part."""
    if not 0 < overhang < 1:
        raise DefinitionError(f"max_overhang={overhang!r} is no part of a window", remedy="Write max_overhang=0.05")
    most = min(int(overhang * length), default_hop(length))
    found = next((hop for hop in LADDER if hop <= most and length > 0 and length % hop == 0), None)
    if found is None:
        raise DefinitionError(
            f"no hop overhangs a window of {format_duration(length)} by {overhang:.1%} or less",
            remedy="The finest hop is 1s: allow more, or make the window longer and a multiple of a finer hop",
        )
    return found


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window: its length and its hop, in microseconds."""

    length: int
    hop: int

    @staticmethod
    def of(length: str | int | None, *, hop: str | int | None = None, max_overhang: float | None = None) -> Window:
        """Builds a checked window. A user may ask for a finer hop than the default, never a coarser one.

        `max_overhang`: by which part of its length the window may reach back too far, which picks the coarsest hop.
        None and "lifetime" mean all events ever, for which there is no hop to choose.
        """
        if length is None or length == "lifetime":
            if hop is not None or max_overhang is not None:
                raise DefinitionError("a lifetime window has no hop", remedy="Leave out hop= and max_overhang=")
            return Window(LIFETIME, LIFETIME)
        size = duration(length)
        if max_overhang is not None:
            if hop is not None:
                raise DefinitionError("hop= and max_overhang= both choose the hop", remedy="Give one of them")
            return Window(size, _hop_within(size, max_overhang))
        step = default_hop(size) if hop is None else duration(hop)
        if size <= 0 or step <= 0 or size % step:
            raise DefinitionError(
                f"a window of {format_duration(size)} is no multiple of its hop of {format_duration(step)}",
                remedy=f"Make the window a multiple of {format_duration(max(step, 1))}, or give a finer hop=",
            )
        if step > default_hop(size):
            raise DefinitionError(
                f"a hop of {format_duration(step)} overhangs a window of {format_duration(size)} by more than 8.3 %",
                remedy=f"Use a hop of at most {format_duration(default_hop(size))}",
            )
        if step not in LADDER and step % SECOND:
            raise DefinitionError(f"a hop of {format_duration(step)} is finer than 1s", remedy="Use hop='1s' or more")
        return Window(size, step)

    def left(self, instant: int) -> int:
        """The inclusive left end of the window asked at `instant` (the right end, exclusive, is `instant`)."""
        return 0 if self.is_lifetime else (instant - self.length) // self.hop * self.hop

    @property
    def is_lifetime(self) -> bool:
        """Whether the window covers all events ever."""
        return self.length == LIFETIME

    @property
    def overhang(self) -> float:
        """By which part of its length the window may reach back further than it says."""
        return 0.0 if self.is_lifetime else self.hop / self.length

    @property
    def tiles(self) -> int:
        """How many tiles one read merges at most."""
        return 1 if self.is_lifetime else self.length // self.hop + 1

    def __str__(self) -> str:
        return "lifetime" if self.is_lifetime else format_duration(self.length)
