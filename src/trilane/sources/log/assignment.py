"""The promise of an assignment: which partitions a worker should have, as one of several.

Who should have a partition is settled here; who may write its rows is settled by the lease of its writer in the online
store. So a mistake of the first, or a worker that is told too late, can slow a partition down but never spoil it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

__all__ = ["Assignment", "Place"]

Place = tuple[str, int]  # a source and one of its partitions


class Assignment(Protocol):
    """What one member of a group of workers should do, used by one thread."""

    @property
    def member(self) -> str:
        """The name of this worker, which no other of the group has."""
        ...

    def turn(self, places: Collection[Place], release: Callable[[Place], None]) -> frozenset[Place]:
        """Those of `places` that this worker should have now; to be called often, between two micro-batches.

        When all of the group have called it a few times, each of `places` is one worker's. For each that this worker
        had and no longer should have, `release` is called before it can be another's. Raises ConflictError if the name
        of this worker was taken by another, after which it must end; UnavailableError if nothing is known now.
        """
        ...

    def note(self, offsets: Mapping[Place, int]) -> None:
        """Tells, for the tools of the log, what comes next in some partitions; all before it is applied and stored."""
        ...

    def close(self) -> None:
        """Leaves the group; to be called when all was given back."""
        ...
