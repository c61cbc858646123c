"""When a read that takes long is asked a second time elsewhere.

After Dean and Barroso, The Tail at Scale (2013). Laws: pure logic on the caller's times; a second question is asked
only of a read that has taken longer than most others, and never of more than the declared share of reads.
"""

from __future__ import annotations

__all__ = ["Hedging"]

_LEARNT = 50  # reads before which nothing is known of how long they take
_SAVED = 10.0  # second questions that may be saved up for a bad moment


class Hedging:
    """What is known of reads in seconds; `share`: how many of them may be asked twice; `quantile`: of which times.

    `asked`: how many second questions there were; `decided`, `won`: of how many it is known which question was answered
    first, and of how many the second.
    """

    def __init__(self, share: float, *, quantile: float = 0.95) -> None:
        self._share, self._quantile = share, quantile
        self._delay = 0.0
        self._seen = 0
        self._saved = 0.0
        self.asked = self.decided = self.won = 0

    @property
    def delay(self) -> float | None:
        """After how many seconds to ask a second time; None if that is not known, or no more may be asked."""
        return self._delay if self._seen >= _LEARNT and self._saved >= 1.0 else None

    def note(self, seconds: float) -> None:
        """A read took `seconds`, by whichever answer came first."""
        self._seen += 1
        self._saved = min(self._saved + self._share, _SAVED)
        # Robbins and Monro (1951): up by q, down by 1 - q, settles at the quantile; in parts of it, so at any scale.
        if self._seen == 1:
            self._delay = seconds
        step = max(1.0 / self._seen, 0.02) * max(self._delay, 1e-6)
        self._delay += step * (self._quantile if seconds > self._delay else self._quantile - 1.0)

    def ask(self) -> None:
        """A second question is asked."""
        self._saved -= 1.0
        self.asked += 1

    def decide(self, *, second: bool) -> None:
        """Of two questions one is answered: the `second`, or the first."""
        self.won += second  # first, for whoever counts along sees either or both
        self.decided += 1
