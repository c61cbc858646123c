"""How many rows a second each caller may ask for: token buckets that may go into debt.

Laws: pure logic on the caller's clock; over any time t no more than burst + rate * t + one request's rows are let
through; what is refused costs nothing; how long to wait is told exactly. A request is let through before its rows are
counted, because counting means decoding: its rows are then taken, and a bucket in debt refuses until they are refilled.
"""

from __future__ import annotations

from collections import OrderedDict

from trilane.serving.policy import Policy

__all__ = ["Bucket", "Quotas"]

_STRANGERS = 4_096  # callers without a line in the policy that are told apart; those heard of last stay


class Bucket:
    """Tokens that come at `rate` a second up to `burst`; it is full at first."""

    __slots__ = ("_at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.tokens, self._at = rate, max(burst, 1.0), max(burst, 1.0), now

    def take(self, now: float) -> float:
        """Takes one token; or takes none, and tells in how many seconds there will be one."""
        seconds = self.lacks(now)
        if not seconds:
            self.tokens -= 1
        return seconds

    def lacks(self, now: float) -> float:
        """In how many seconds there will be a token; 0 if there is one."""
        if now > self._at:
            self.tokens = min(self.burst, self.tokens + (now - self._at) * self.rate)
            self._at = now
        return 0.0 if self.tokens >= 1 else (1 - self.tokens) / self.rate

    def charge(self, tokens: float) -> None:
        """Takes what was let through already, into debt if need be; less than nothing is given back."""
        self.tokens = min(self.tokens - tokens, self.burst)


class Quotas:
    """The buckets of one process, which is one of `parts` that callers spread over and grants its part of each rate."""

    def __init__(self, policy: Policy, *, parts: int = 1) -> None:
        self._rates = {
            caller.name: (caller.rate / parts, (caller.burst or 1.0) / parts)
            for caller in policy.callers
            if caller.rate is not None
        }
        self._unlimited = {caller.name for caller in policy.callers if caller.rate is None}
        others = policy.others
        self._others = None if others.rate is None else (others.rate / parts, (others.burst or 1.0) / parts)
        self._named: dict[str, Bucket] = {}
        self._strangers: OrderedDict[str, Bucket] = OrderedDict()
        self.limits = bool(self._rates) or self._others is not None

    def of(self, caller: str, now: float) -> Bucket | None:
        """The bucket of a caller; None if it may ask for as much as it likes."""
        found = self._named.get(caller)
        if found is not None:
            return found
        rate = self._rates.get(caller)
        if rate is not None:
            found = self._named[caller] = Bucket(*rate, now)
            return found
        if self._others is None or caller in self._unlimited:
            return None
        found = self._strangers.get(caller)
        if found is None:
            found = self._strangers[caller] = Bucket(*self._others, now)
            if len(self._strangers) > _STRANGERS:
                self._strangers.popitem(last=False)
        else:
            self._strangers.move_to_end(caller)
        return found
