"""When to look again at what is applied and deployed.

Law: what was applied or deployed is seen at the next look; in between nothing is read but two numbers, since a server
that reads all it serves twice a second takes that time from its answers.
"""

from __future__ import annotations

from trilane.clock import SECOND
from trilane.lifecycle.metadata.protocol import MetadataStore

__all__ = ["Watch"]

_PATIENCE = 5 * SECOND  # what is kept for a while only, and files that were lost, show in no number


class Watch:
    """Looks at the histories of one metadata store."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata
        self._marks: tuple[int, ...] | None = None
        self._looked = 0

    def moved(self, now: int) -> bool:
        """Whether there may be news at `now` (microseconds of a clock that is not set back); if so, they are known."""
        marks = self._metadata.marks()
        if marks == self._marks and now - self._looked < _PATIENCE:
            return False
        self._marks, self._looked = marks, now
        return True

    def forget(self) -> None:
        """The news were not taken: the next look tells them again."""
        self._marks = None
