"""How much later than predicted answers come of late, tier by tier, for those whose batches an executor shares.

Laws: learnt from answers alone, on the caller's clock; one batch counts once, however many were in it; what was learnt
is forgotten by and by. What runs apart, in a process of its own, has a lateness of its own, telling nothing of others.
"""

from __future__ import annotations

import math

from trilane.serving.policy import TIERS

__all__ = ["Lateness"]

_LATEST = 0.95  # the part of answers that shall come when they were predicted, or earlier
_STEP = 0.07  # how far an answer moves what is learnt, as a part of the time that it stands for
_MISSED, _MOST = 0.5, 0.2  # and one that is let in and not answered; the second as a part of an answer's time
_LATE = 1.0  # seconds, the most that is learnt
_FADE = 2.0  # seconds in which it is forgotten


class Lateness:
    """`by_tier`: the seconds by which the answers of a tier come later than predicted, all but few of them."""

    __slots__ = ("_faded", "_learnt", "by_tier")

    def __init__(self) -> None:
        self.by_tier = [0.0] * len(TIERS)
        self._learnt = [-math.inf] * len(TIERS)  # the instants of the answers that were learnt from last
        self._faded = 0.0

    def answered(self, tier: int, over: float, now: float, unloaded: float) -> None:
        """One of a tier was answered `over` seconds later than predicted; `unloaded`: what an answer takes at least."""
        # Robbins and Monro (1951): settles where a part `_LATEST` of the answers is in time.
        self.fade(now)
        late = self.by_tier[tier]
        step = _STEP * self._stands_for(tier, now, unloaded)
        step *= _LATEST if over > late else _LATEST - 1
        self.by_tier[tier] = min(max(late + step, 0.0), _LATE)

    def missed(self, tier: int, now: float, unloaded: float) -> None:
        """One of a tier was let in, waited, and cannot be in time any more, now: it was predicted too early."""
        step = min(_MISSED * self._stands_for(tier, now, unloaded), _MOST * unloaded)
        self.by_tier[tier] = min(self.by_tier[tier] + step, _LATE)

    def _stands_for(self, tier: int, now: float, unloaded: float) -> float:
        """The seconds since what was learnt of a tier before, `unloaded` at most.

        Those of one batch are as late as each other: if each of a hundred had its say, one batch that takes long would
        make everybody after it look late.
        """
        before = self._learnt[tier]
        self._learnt[tier] = max(now, before)
        return min(max(now - before, 0.0), unloaded)

    def fade(self, now: float) -> None:
        """Forgets by and by how late answers were: a tier of which nobody is let in has nothing else to learn from."""
        if now - self._faded > _FADE / 100:
            keep = math.exp(min(self._faded - now, 0.0) / _FADE)
            self.by_tier = [late * keep for late in self.by_tier]
            self._faded = now
