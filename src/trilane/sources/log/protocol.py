"""The promise of an event log: append, and read by partition and offset.

Offsets of a partition start at 0 and have no gaps. What was appended is never changed, and is durable when
`append` returns. Many processes append and read at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from trilane.sources.log.assignment import Assignment

__all__ = ["EventLog"]


class EventLog(Protocol):
    """Values in order, per source and partition."""

    def append(self, source: str, partition: int, values: Sequence[bytes], arrived_at: int | Sequence[int]) -> int:
        """Appends `values` as one atomic chunk, and returns the offset of the first (of none: the end).

        `arrived_at`: microseconds since 1970 UTC, one for all values or one for each. Durable when it
        returns; all of it or nothing is in the log whatever happens. Raises SetupError or UnavailableError.
        """
        ...

    def read(self, source: str, partition: int, offset: int, limit: int) -> pa.RecordBatch:
        """Rows in order from `offset` on: offset int64, arrived_at int64 (microseconds), value binary.

        At most `limit` rows, possibly fewer though more follow (huge values), none only at the end.
        """
        ...

    def end(self, source: str, partition: int) -> int:
        """The offset that the next value will get; 0 for a source never written. Cheap enough to poll."""
        ...

    def sources(self) -> tuple[str, ...]:
        """The names of the sources ever written, sorted."""
        ...

    def assignment(self, member: str, *, static: bool) -> Assignment | None:
        """Joins the log's own group of workers as `member`; None for a log that has no groups.

        A `static` name outlives the process: one that comes back under it soon finds its partitions waiting.
        """
        ...

    def close(self) -> None:
        """Gives back files and connections; the log must not be used afterwards."""
        ...
