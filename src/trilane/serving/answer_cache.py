"""Scores that a model gave, kept for a while, to be given again for the same question.

Laws: a score is given again only for an equal key and while it is at most `ttl` old; no more than `size` are kept, the
least recently used go first; each names the decision that it was made for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trilane.features.algebra import Floats
from trilane.features.plan import FeaturePlan
from trilane.serving.degradation import CachedAnswer
from trilane.serving.reading import Rows

__all__ = ["AnswerCache", "Kept"]


class Kept(NamedTuple):
    """A score, when it was made (microseconds), in which block of decisions and which row of it."""

    score: float
    at: int
    block: str
    row: int

    @property
    def decision(self) -> str:
        """The id of the decision that it was made for."""
        return f"{self.block}-{self.row}"


class AnswerCache:
    """The kept scores of one bundle in one process."""

    def __init__(self, rung: CachedAnswer, plan: FeaturePlan) -> None:
        self.rung = rung
        names = [f.name for f in plan.inputs]
        if rung.by == "key":
            names = list(dict.fromkeys(key for entity in plan.entities for key in entity.key_names))
        self._get: Callable[[object], Hashable] = attrgetter(*names) if names else lambda _row: ()
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def by_features(self) -> bool:
        """Whether keys are made of what was read, rather than of what was asked."""
        return self.rung.by == "features"

    def keys_of(self, rows: Rows) -> list[Hashable]:
        """The keys of what was asked."""
        return list(map(self._get, rows))

    @staticmethod
    def keys_in(matrix: npt.NDArray[np.float32]) -> list[Hashable]:
        """The keys of what was read."""
        whole, size = matrix.tobytes(), matrix.shape[1] * matrix.itemsize
        return [whole[start : start + size] for start in range(0, len(whole), size)]

    def find(self, keys: Sequence[Hashable], now: int) -> dict[int, Kept]:
        """What is kept, by the position of its key."""
        found, kept, ttl = {}, self._kept, self.rung.ttl
        for place, key in enumerate(keys):
            one = kept.get(key)
            if one is None:
                continue
            if not 0 <= now - one.at <= ttl:
                del kept[key]
                continue
            kept.move_to_end(key)
            found[place] = one
        return found

    def keep(self, keys: Sequence[Hashable], scores: Floats, places: Iterable[int], now: int, block: str) -> None:
        """Keeps the scores of the rows at `places`."""
        kept = self._kept
        for place in places:
            kept[keys[place]] = Kept(float(scores[place]), now, block, place)
            kept.move_to_end(keys[place])
        while len(kept) > self.rung.size:
            kept.popitem(last=False)
