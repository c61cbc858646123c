"""The parts of a scoring job that wait for a worker, and which of them each shall have next.

Law: of a row group that is several parts whoever is at it gets the next one, for that begins where it stands; a second
worker joins it only when no other group is left, as both then have to read over what is not their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from trilane.apps.scoring.job import Part

__all__ = ["Waiting"]

_Place = tuple[int, int]


class Waiting:
    """`parts`, in order."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._left: dict[_Place, deque[Part]] = {}
        for part in parts:
            self._left.setdefault(_place(part), deque()).append(part)
        self._fresh = deque(self._left)

    def next(self, last: Part | None = None) -> Part | None:
        """The part for a worker whose last one was `last`; None if there are no more."""
        if not self._left:
            return None
        place = _place(last) if last is not None else None
        if place is None or place not in self._left:
            place = self._fresh.popleft() if self._fresh else max(self._left, key=lambda one: len(self._left[one]))
        parts = self._left[place]
        part = parts.popleft()
        if not parts:
            del self._left[place]
        return part


def _place(part: Part) -> _Place:
    return part.file, part.first
