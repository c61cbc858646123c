"""Which events come too late, which come from the future, and up to when a source is believed complete.

An event is late if an earlier one of its partition is more than `disorder` ahead of it, or if it claims to lie before
1970. It is from the future if its event time is more than `future` past its arrival. Neither moves the watermark, so
that one bad clock cannot make all others late. Verdicts depend on the order of the log alone: cut into batches
anywhere, they are the same.

After "The Dataflow Model" (Akidau et al., VLDB 2015), with the bound on disorder that Flink uses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Verdicts", "Watermark"]

# Earlier than any event, and far enough from the end of int64 that a duration can be taken away.
_NEVER = -(2**62)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """What is wrong with each row of a batch, and the watermark after it; no row is wrong in both ways."""

    late: npt.NDArray[np.bool_]
    from_future: npt.NDArray[np.bool_]
    after: Watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """The state of one partition: the latest event time so far. All times are in microseconds."""

    disorder: int
    future: int
    latest: int = _NEVER

    @property
    def complete_until(self) -> int | None:
        """The event time up to which nothing more is accepted; None before the first event."""
        return None if self.latest == _NEVER else self.latest - self.disorder

    def judge(self, event_times: npt.NDArray[np.int64], arrived_at: npt.NDArray[np.int64] | int) -> Verdicts:
        """Judges rows that follow, in the order of the log."""
        from_future = event_times > np.asarray(arrived_at, dtype=np.int64) + self.future
        moving = np.where(from_future | (event_times < 0), _NEVER, event_times)
        latest = np.maximum.accumulate(np.concatenate([[self.latest], moving]))
        # Tiles are numbered from 1970; before it nobody measures anything, but some clocks start there.
        late = ~from_future & ((event_times < latest[:-1] - self.disorder) | (event_times < 0))
        return Verdicts(late=late, from_future=from_future, after=replace(self, latest=int(latest[-1])))
