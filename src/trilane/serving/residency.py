"""Which models stay in memory: those that were asked for last, as far as there is room, and those that are pinned.

Laws: pure logic; to note a question costs one step in a list; what is pinned never goes, nor what was just loaded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Residency"]

Key = TypeVar("Key", bound=Hashable)


class Residency(Generic[Key]):
    """What is in memory, the longest unasked first. `budget`: bytes for all together."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._taken: OrderedDict[Key, tuple[int, bool]] = OrderedDict()

    @property
    def taken(self) -> int:
        """Bytes of all that is there."""
        return sum(size for size, _ in self._taken.values())

    def asked(self, key: Key) -> None:
        """Somebody asked for it."""
        if key in self._taken:
            self._taken.move_to_end(key)

    def add(self, key: Key, size: int, *, pinned: bool) -> list[Key]:
        """It was loaded; what must go to make room for it, the longest unasked first."""
        self._taken[key] = size, pinned
        self._taken.move_to_end(key)
        over, going = self.taken - self.budget, []
        for other, (taken, stays) in self._taken.items():
            if over <= 0:
                break
            if not stays and other != key:
                going.append(other)
                over -= taken
        for other in going:
            del self._taken[other]
        return going

    def fits(self, size: int) -> bool:
        """Whether there would be room for `size` bytes beside what is pinned."""
        return size + sum(taken for taken, pinned in self._taken.values() if pinned) <= self.budget

    def remove(self, key: Key) -> None:
        """It is gone."""
        self._taken.pop(key, None)
