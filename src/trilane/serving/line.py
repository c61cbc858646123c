"""What admission asks of a queue in which requests wait, and what the queue asks of whoever lets them in."""

from __future__ import annotations

from typing import Protocol

from trilane.errors import UnavailableError
from trilane.serving.lateness import Lateness
from trilane.serving.tiers import Shares

__all__ = ["Keeper", "Line"]


class Line(Protocol):
    """Requests that wait for the same thing, a batcher's say."""

    @property
    def lateness(self) -> Lateness:
        """How much later than predicted its answers come."""
        ...

    def wait(self, tier: int, rows: int, now: float) -> float:
        """Seconds until a request of `rows` that came now would be answered, if all goes as usual."""
        ...

    def unloaded(self, requests: int) -> float:
        """Seconds that an answer takes if `requests` are in and none waits for more than it must."""
        ...

    def waiting(self, tier: int) -> int:
        """How many requests of a tier wait."""
        ...

    def put_out(self, tier: int) -> bool:
        """Refuses the request of a tier whose deadline is the latest; False if none waits."""
        ...

    def may_try(self, deadline: float, now: float) -> bool:
        """Whether one that came now and seems to be too late should be let in, to see whether it still is."""
        ...


class Keeper(Protocol):
    """What a line asks of whoever lets requests into it."""

    @property
    def shares(self) -> Shares:
        """How its executors' time is shared among the tiers."""
        ...

    @property
    def total(self) -> int:
        """How many are let in now."""
        ...

    def put_out(self, tier: int, seconds: float) -> UnavailableError:
        """What one of `tier` hears who was let in and waits no longer."""
        ...

    @property
    def lateness(self) -> Lateness:
        """How much later than predicted the answers come of lines that have none of their own."""
        ...

    def missed(self, line: Line, tier: int, now: float) -> None:
        """One of a tier was let in, waited in `line`, and cannot be in time any more."""
        ...
