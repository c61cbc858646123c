"""The stories of requests: of those that took long into the log, of a share into traces.

Laws: a request that nobody wants to hear of costs a comparison; a storm of slow requests writes a bounded number of
lines, and the next line says how many it stands for.
"""

from __future__ import annotations

import logging
from typing import Protocol

from trilane.serving.story import Fact, Story

__all__ = ["PARENT", "Stories", "Teller"]

PARENT = "traceparent"  # https://www.w3.org/TR/trace-context/

_log = logging.getLogger("trilane.slow")
_MOST = 10  # lines a second


class Teller(Protocol):
    """What takes stories: `Traces`, where they are wanted."""

    def wanted(self, parent: str | None) -> bool:
        """Whether the request of a caller with this `traceparent` is to be told."""
        ...

    def tell(self, story: Story) -> str:
        """Takes a story, and gives the id of its trace."""
        ...

    def close(self) -> None:
        """Takes no more, and loses none that it took."""
        ...


class Stories:
    """Tells stories. `slow`: seconds from which a request is logged, none if 0."""

    def __init__(self, *, slow: float, traces: Teller | None = None) -> None:
        self._slow = slow or float("inf")
        self._traces = traces
        self._second, self._told, self._silent = 0, 0, 0

    def traces(self, parent: str | None) -> bool:
        """Whether a request with this `traceparent` is to be traced."""
        return self._traces is not None and self._traces.wanted(parent)

    def may_want(self, seconds: float) -> bool:
        """Whether a request that took so long may have to be told."""
        return self._traces is not None or seconds >= self._slow

    def is_slow(self, seconds: float) -> bool:
        """Whether a request that took so long is to be logged."""
        return seconds >= self._slow

    def tell(self, story: Story, *, traced: bool) -> str:
        """Tells a story: the id of its trace, empty if it has none."""
        if self.is_slow(story.end - story.start):
            self._tell_slow(story)
        return self._traces.tell(story) if traced and self._traces is not None else ""

    def _tell_slow(self, story: Story) -> None:
        second = int(story.end)
        if second != self._second:
            self._second, self._told = second, 0
        if self._told >= _MOST:
            self._silent += 1
            return
        self._told += 1
        facts: dict[str, Fact | object] = story.plain()
        if self._silent:
            facts["not_told"], self._silent = self._silent, 0
        _log.warning("slow request %s %s", story.route, story.name, extra={"facts": facts})

    def close(self) -> None:
        """Sends what is left to send."""
        if self._traces is not None:
            self._traces.close()
