"""When the next request will come, judged by the gaps between the last ones.

Law: for traffic without memory (Poisson) the answer is the mean gap, however long nothing came; for bursts it grows
with the silence, since a long gap so far tells of a long one. Gaps are counted in classes that grow by a quarter, and
old ones fade.
"""

from __future__ import annotations

import math
from bisect import bisect_right

__all__ = ["Arrivals"]

_SMALLEST = 1e-6
_GROWTH = math.log(1.25)
_CLASSES = 96  # up to 2,000 s
_STARTS = [_SMALLEST * math.exp(_GROWTH * place) for place in range(1, _CLASSES)]  # of all classes but the first


class Arrivals:
    """Learns the gaps between requests and their mean number of rows; times are in seconds on the caller's clock."""

    def __init__(self, *, memory: float = 256.0) -> None:
        self._memory, self._grow = memory, 1 + 1 / memory
        self._counts = [0.0] * _CLASSES
        self._sums = [0.0] * _CLASSES
        self._unit = 1.0  # what one arrival counts; it grows instead of all counts fading
        self._last: float | None = None
        self.gap = math.inf
        self.rows = 1.0

    def seen(self, now: float, rows: int = 1) -> None:
        """A request of `rows` came at `now`."""
        self.rows += (rows - self.rows) / self._memory
        last, self._last = self._last, now
        if last is None:
            return
        gap = now - last if now > last else 0.0
        self.gap = gap if self.gap == math.inf else self.gap + (gap - self.gap) / self._memory
        place = bisect_right(_STARTS, gap)
        unit = self._unit
        self._counts[place] += unit
        self._sums[place] += unit * gap
        self._unit = unit * self._grow
        if self._unit > 1e100:
            self._counts = [count / self._unit for count in self._counts]
            self._sums = [total / self._unit for total in self._sums]
            self._unit = 1.0

    def residual(self, now: float) -> float:
        """The mean time from `now` to the next request, as none came since the last; inf if nothing is known."""
        if self._last is None or self.gap == math.inf:
            return math.inf
        silence = max(now - self._last, 0.0)
        first = bisect_right(_STARTS, silence) + 1 if silence > 0 else 0
        count, total = sum(self._counts[first:]), sum(self._sums[first:])
        if count <= 0:
            return max(silence, self.gap)  # longer than any gap that is remembered: as long again
        return max(total / count - silence, 0.0)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return 0.0 if self.gap == math.inf else 1 / max(self.gap, 1e-9)
