"""A circuit breaker: stops asking a dependency that fails or is too slow, and lets probes find out when it is well.

After Nygard, Release It! (2018), ch. 5. Laws: pure logic on the caller's clock; a closed breaker opens by the shares of
failed and of slow calls among the last ones, never by fewer than `least`, but at once by a call that held its caller up
for `hang` and failed; an open one admits nothing before its rest is over; a half-open one admits one call at a time; a
call that began before the state changed counts for nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from trilane.errors import UnavailableError

__all__ = ["CLOSED", "HALF_OPEN", "OPEN", "Breaker", "admitted", "refusal"]

CLOSED, HALF_OPEN, OPEN = "closed", "half-open", "open"
_FAILED, _SLOW = 1, 2


class Breaker:
    """The breaker of one dependency; all times in seconds.

    `window`: how many of the last calls count; `failures`, `slowness`: the shares that open it, of failed calls and of
    those that took `slow` or longer; `rest`: how long it then stays open, doubled by each probe that fails up to
    `longest`; `probes`: how many must go well in a row to close it; `heard` is called with each new state.
    """

    def __init__(
        self,
        *,
        window: int = 50,
        least: int = 10,
        failures: float = 0.5,
        slow: float = math.inf,
        slowness: float = 0.5,
        hang: float = math.inf,
        rest: float = 1.0,
        longest: float = 30.0,
        probes: int = 1,
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self.heard = heard
        self.state = CLOSED
        self.reason = ""  # why it is not closed
        self.opened = 0  # how often it opened
        self._window, self._least, self._failures = window, least, failures
        self._slow, self._slowness, self._hang = slow, slowness, hang
        self._first_rest, self._longest, self._probes = rest, longest, probes
        self._rest, self._until = rest, 0.0
        self._generation = 1
        self._probing = False
        self._passed = 0
        self._forget()

    def _forget(self) -> None:
        self._calls = self._failed = self._slowed = 0
        self._last: deque[int] = deque()  # kept only while one of the last calls was bad

    @property
    def is_closed(self) -> bool:
        """Whether calls are made as ever."""
        return self.state is CLOSED

    def enter(self, now: float) -> int:
        """A ticket for a call, to be given back to `leave`; 0 if it must not be made."""
        if self.state is CLOSED:
            return self._generation
        if self.state is OPEN and now >= self._until:
            self._become(HALF_OPEN)
        if self.state is HALF_OPEN and (not self._probing or now >= self._until):
            # A probe of which nobody tells how it went is given up after another rest.
            self._probing, self._until = True, now + max(self._rest, self._first_rest)
            return self._generation
        return 0

    def would_enter(self, now: float) -> bool:
        """Whether `enter` would give a ticket."""
        return self.state is CLOSED or (now >= self._until if self.state is OPEN or self._probing else True)

    def rests(self, now: float) -> float:
        """Seconds until a call may be made again; 0 if one may be made now."""
        return 0.0 if self.would_enter(now) else max(self._until - now, 0.0)

    def leave(self, ticket: int, now: float, seconds: float, *, failed: bool = False) -> None:
        """The call of `ticket` took `seconds`."""
        if ticket != self._generation:
            return
        slow = seconds >= self._slow
        if self.state is HALF_OPEN:
            self._probed(now, failed=failed, slow=slow)
        elif not failed and not slow and not self._last:
            self._calls = min(self._calls + 1, self._window)
        else:
            self._count(failed * _FAILED | slow * _SLOW)
            if failed and seconds >= self._hang:
                self._open(now, f"a call failed after {seconds:.3g} s")
            elif self._calls >= self._least:
                self._judge(now)

    def _count(self, outcome: int) -> None:
        last = self._last
        if not last:
            last.extend([0] * self._calls)
        if len(last) == self._window:
            gone = last.popleft()
            self._failed -= gone & _FAILED
            self._slowed -= (gone & _SLOW) >> 1
        last.append(outcome)
        self._calls = len(last)
        self._failed += outcome & _FAILED
        self._slowed += (outcome & _SLOW) >> 1
        if not self._failed and not self._slowed:
            last.clear()

    def _judge(self, now: float) -> None:
        if self._failed and self._failed >= self._failures * self._calls:
            self._open(now, f"{self._failed} of the last {self._calls} calls failed")
        elif self._slowed and self._slowed >= self._slowness * self._calls:
            self._open(now, f"{self._slowed} of the last {self._calls} calls took {self._slow:.3g} s or more")

    def _probed(self, now: float, *, failed: bool, slow: bool) -> None:
        self._probing = False
        if failed or slow:
            self._rest = min(2 * self._rest, self._longest)
            self._open(now, self.reason)
            return
        self._passed += 1
        if self._passed >= self._probes:
            self._rest, self.reason = self._first_rest, ""
            self._become(CLOSED)

    def _open(self, now: float, reason: str) -> None:
        self.opened += self.state is CLOSED
        self.reason, self._until = reason, now + self._rest
        self._become(OPEN)

    def _become(self, state: str) -> None:
        self.state = state
        if self.heard is not None:
            self.heard(state)
        self._generation += 1
        self._probing, self._passed = False, 0
        self._forget()


def admitted(breaker: Breaker, now: float, *, where: str) -> int:
    """A ticket for a call. Raises UnavailableError (503) that says when to ask again, if it must not be made."""
    ticket = breaker.enter(now)
    if not ticket:
        raise refusal(breaker, now, where=where)
    return ticket


def refusal(breaker: Breaker, now: float, *, where: str) -> UnavailableError:
    """What is told to whoever would ask what an open breaker guards."""
    wait = max(breaker.rests(now), 0.1)
    return UnavailableError(
        f"its breaker is open: {breaker.reason}",
        where=where,
        remedy=f"Ask again in {wait:.1f} s: one question then finds out whether it is well",
        retry_after_s=round(wait, 4),
    )
