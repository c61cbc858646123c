"""How long reads of a store take, as far as that decides where they are made: on the event loop, or beside it.

Laws: pure logic on the caller's times; what a read takes because it is large says nothing of the store; reads are long
once their recent mean is, or one was given up because it held up the loop; and quick again once many in a row were.
"""

from __future__ import annotations

__all__ = ["LONG", "Pace"]

LONG = 2e-3  # seconds that a read may hold up the loop; handing it to a thread costs a twentieth of that
_A_KEY = 3e-6  # seconds that a key may take, here and in the store
_MOST = 0.05  # seconds; a read that hung counts as no more, however long it was given
_WEIGHT = 0.25  # of the last read in the mean: three of 4 ms, or one of 8 ms, make reads long
_STREAK, _LONGEST = 32, 512  # quick reads in a row, after which they are taken for quick again: at first, and at most


class Pace:
    """What was learnt of the reads of one store. `is_long`: whether the next one had better not be waited for on the
    loop; `calm`: whether nothing is known but quick ones, so that one more need not be noted.
    """

    def __init__(self) -> None:
        self.is_long, self.calm = False, True
        self._mean, self._streak, self._needed, self._next = 0.0, 0, _STREAK, _STREAK

    def note(self, seconds: float, keys: int) -> None:
        """A read of so many keys took `seconds`, or failed after them."""
        own = min(max(seconds - _A_KEY * keys, 0.0), _MOST)
        if self.is_long:
            self._streak = self._streak + 1 if own < LONG else 0
            if self._streak >= self._needed:
                self.is_long, self.calm, self._mean = False, True, 0.0
            return
        self._mean += _WEIGHT * (own - self._mean)
        self.is_long, self._streak = self._mean >= LONG, 0
        self.calm = not self.is_long and self._mean < 0.01 * LONG

    def held_up(self) -> None:
        """A read was given up, to be made again where it holds up nobody. The next time it takes longer until reads are
        taken for quick: one who holds up may be slow for its reader alone, which must connect anew far away.
        """
        self.is_long, self.calm, self._streak = True, False, 0
        self._needed, self._next = self._next, min(2 * self._next, _LONGEST)
