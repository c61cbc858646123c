"""Who gets into the server: the policy of tiers, quotas, deadlines and the concurrency limit, asked before any work.

A request is refused at the door, before its body is read, if its caller's quota is used up, if it cannot be answered in
time (what waits before it, what runs, and its own time, at the rate that its tier gets), or if the server is full and
nobody who waits may be put out for it. It is put out itself only while it waits, never once it is worked on.

Laws: pure logic on the caller's clock, so a server and a simulator run the same code; what is let in is let out; a tier
holds its floor of the limit against those above it and gives up the rest to them; a refusal is no fault of the server
(429), and says when to come again. Where nothing is limited, all this is a few comparisons.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from trilane.errors import ContractError, UnavailableError
from trilane.serving.concurrency import ConcurrencyLimit
from trilane.serving.lateness import Lateness
from trilane.serving.line import Line
from trilane.serving.policy import TIERS, Policy
from trilane.serving.quota import Quotas
from trilane.serving.tiers import Shares

__all__ = [
    "CALLER",
    "DEADLINE",
    "FULL",
    "PUT_OUT",
    "QUOTA",
    "TIER",
    "Admission",
    "Entry",
    "Refusal",
    "priority_of",
]

CALLER, TIER = "x-trilane-caller", "x-trilane-tier"  # the headers, and keys of gRPC's metadata
QUOTA, DEADLINE, FULL, PUT_OUT = "quota", "deadline", "full", "put_out"
_WHAT = {
    QUOTA: "the caller asks for more than its quota",
    DEADLINE: "the answer would come too late",
    FULL: "the server has as much work as it can do",
    PUT_OUT: "it made room for a request of a higher tier",
}
_REMEDY = "Try again after the time in Retry-After, or elsewhere"
_BODY = (
    b'{"error":{"code":"unavailable","what":"%b","where":"admission","remedy":"%b",'
    b'"reason":"%b","tier":"%b","retry_after_s":%.4f}}'
)
_LONGEST = 3_600.0  # seconds that anybody is told to wait
_UNLIMITED = 1 << 62
_EVERY = 4  # one of so many answers is learnt from


def priority_of(tier: str) -> int:
    """The number of a tier that a request names, 1 for the highest. Raises ContractError (400)."""
    if tier not in TIERS:
        remedy = f"Send one of {', '.join(TIERS)}"
        raise ContractError(f"{tier!r} is no tier", where=TIER, remedy=remedy, status=400)
    return TIERS.index(tier) + 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not let in, and after how many seconds one like it may be."""

    reason: str
    tier: int
    retry_after: float

    @property
    def seconds(self) -> int:
        """`retry_after` as HTTP tells it: whole seconds, 1 or more."""
        return max(1, math.ceil(min(self.retry_after, _LONGEST)))

    def body(self) -> bytes:
        """The error as JSON, made without the error."""
        return _BODY % (
            _WHAT[self.reason].encode(),
            _REMEDY.encode(),
            self.reason.encode(),
            TIERS[self.tier].encode(),
            min(self.retry_after, _LONGEST),
        )

    def error(self) -> UnavailableError:
        """The refusal as every protocol tells it."""
        return UnavailableError(
            _WHAT[self.reason],
            where="admission",
            remedy=_REMEDY,
            overload=True,
            reason=self.reason,
            tier=TIERS[self.tier],
            retry_after_s=round(min(self.retry_after, _LONGEST), 4),
        )


class Entry(msgspec.Struct, frozen=True):
    """A request that was let in. `deadline`: the instant it has to be answered by; `expected`: seconds it may take,
    0 if it has no deadline.

    `hopeless`: it cannot be in time, and is let in for a worse answer that takes no work.
    """

    line: Line
    tier: int
    began: float
    deadline: float
    expected: float
    hopeless: bool = False

    @property
    def due(self) -> float:
        """The instant by which a queue has to answer it: none that a queue could meet, if it is hopeless."""
        return -math.inf if self.hopeless else self.deadline


class Admission:
    """What lets requests into one process, which is one of `parts` that share the callers' quotas.

    Attributes are for whoever tells them: `in_flight` and `admitted` by tier, `refused` by reason and tier;
    `lateness`: of those whose batches share the event loop; `apart`: of those in flight, the ones whose models work
    apart, as their doors count them.
    """

    def __init__(self, policy: Policy | None = None, *, parts: int = 1, executors: int = 1) -> None:
        self.in_flight = [0] * len(TIERS)
        self.admitted = [0] * len(TIERS)
        self.refused: Counter[tuple[str, int]] = Counter()
        self.total = self.apart = 0
        self.lateness = Lateness()
        self.shares = Shares(executors=executors)
        self._answers = 0
        self._parts = parts
        self._lines: tuple[Line, ...] = ()
        self._watched: dict[str, tuple[Line, ...]] = {}
        self.adopt(policy or Policy(limit=None))

    def adopt(self, policy: Policy) -> None:
        """Goes by another policy from now on; who is in stays in."""
        self.policy = policy
        self.quotas = Quotas(policy, parts=self._parts)
        self.shares.promise(policy.floors(), policy.agings())
        self.learned = ConcurrencyLimit() if policy.limit == "learned" else None
        self._fixed = policy.limit if isinstance(policy.limit, int) else _UNLIMITED
        self._caps = {caller.name: TIERS.index(caller.up_to) for caller in policy.callers if caller.up_to}
        self._known = {caller.name for caller in policy.callers}
        self._cap = TIERS.index(policy.others.up_to) if policy.others.up_to else None
        self.asks_who = self.quotas.limits or bool(self._caps) or self._cap is not None

    @property
    def limit(self) -> int:
        """How many requests may be in at once."""
        return self._fixed if self.learned is None else self.learned.limit

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.limit < _UNLIMITED

    def watch(self, lines: Iterable[Line], *, of: str = "endpoints") -> None:
        """Names the lines in which requests may wait, all of one kind in place of those before."""
        self._watched[of] = tuple(lines)
        self._lines = tuple(line for kind in list(self._watched.values()) for line in kind)

    def waiting(self, tier: int) -> int:
        """How many requests of a tier wait."""
        return sum([line.waiting(tier) for line in self._lines]) if self.in_flight[tier] else 0

    def facts(self, now: float) -> dict[str, object]:
        """What holds `now`, and what was done since the process began, as plain facts."""
        policy, lateness = self.policy, {self.lateness, *(line.lateness for line in self._lines)}
        for one in lateness:
            one.fade(now)
        return {
            "version": policy.version,
            "policy": policy.spec(),
            "processes": self._parts,
            "limit": self.limit if self.is_limited else None,
            "in_flight": self.total,
            "tiers": {
                name: {
                    "floor": self.shares.floor(number),
                    "in_flight": self.in_flight[number],
                    "waiting": self.waiting(number),
                    "admitted": self.admitted[number],
                    "refused": {
                        reason: count for (reason, tier), count in sorted(self.refused.items()) if tier == number
                    },
                    "late_ms": round(max(one.by_tier[number] for one in lateness) * 1e3, 3),
                }
                for number, name in enumerate(TIERS)
            },
        }

    def tier(self, default: int, asked: str | None = None, caller: str = "") -> int:
        """The tier of a request to what is of tier `default`. Raises ContractError for a tier that is none."""
        return self._allowed(default if asked is None else priority_of(asked) - 1, default, caller)

    def prioritised(self, default: int, priority: int, caller: str = "") -> int:
        """The tier of a request by its priority in the Open Inference Protocol: 1 is the highest, 0 the default."""
        if priority <= 0 and not self.asks_who:
            return default
        number = default if priority <= 0 else min(priority, len(TIERS)) - 1
        return self._allowed(number, default, caller)

    def _allowed(self, number: int, default: int, caller: str) -> int:
        cap = self._caps.get(caller)
        if cap is None:
            cap = default if self._cap is None or caller in self._known else self._cap
        return max(number, cap)

    def admit(
        self,
        line: Line,
        tier: int,
        began: float,
        deadline: float,
        *,
        caller: str = "",
        ladder: bool = False,
        paid: bool = False,
    ) -> Entry | Refusal:
        """Lets a request of `line` in, which must be given to `leave` once; or tells why not.

        `began`: now; `deadline`: the instant after which its answer is worthless, infinite for none; `ladder`: whether
        a worse answer without work is declared for what cannot be in time; `paid`: `afford` took its first row.
        """
        bucket = self.quotas.of(caller, began) if self.quotas.limits else None
        if bucket is not None and not paid and (seconds := bucket.take(began)) > 0:
            return self._refuse(QUOTA, tier, seconds)
        # What has no deadline cannot be late.
        wait = line.wait(tier, 1, began) if deadline < math.inf else 0.0
        hopeless = began + wait + line.lateness.by_tier[tier] > deadline
        limit = self._fixed if self.learned is None else self.learned.limit
        if hopeless:
            line.lateness.fade(began)
            # Not at the cost of others; and where the line is not what is slow, it is forgotten.
            slow = self.total < limit and began + wait > deadline
            hopeless = not (slow and line.may_try(deadline, began))
        if hopeless and not ladder:
            reason = DEADLINE
        elif self.total >= limit and (hopeless or not (self.make_room(tier) or self._has_room(tier))):
            reason = FULL
        else:
            self.total += 1
            self.in_flight[tier] += 1
            self.admitted[tier] += 1
            return Entry(line, tier, began, deadline, wait, hopeless)
        if bucket is not None:
            bucket.charge(-1)
        return self._refuse(reason, tier, wait or line.wait(tier, 1, began))

    def foresee(
        self,
        line: Line,
        tier: int,
        now: float,
        deadline: float,
        *,
        caller: str = "",
        ladder: bool = False,
        told: int | None = None,
    ) -> Refusal | None:
        """Why a request will not be let in, where that is certain before its body is read; None where it is not.

        `tier` is the highest that it may turn out to have, and `deadline` the latest; `told`: the tier to tell it as.
        Nobody is put out for it, nothing is taken of a quota, and no trial is made: that is left to `admit`.
        """
        shown = tier if told is None else told
        bucket = self.quotas.of(caller, now) if self.quotas.limits else None
        if bucket is not None and (seconds := bucket.lacks(now)) > 0:
            return self._refuse(QUOTA, shown, seconds)
        wait, full = line.wait(tier, 1, now), self.total >= self.limit
        hopeless = now + wait + line.lateness.by_tier[tier] > deadline
        if hopeless:
            line.lateness.fade(now)
            tried = not full and now + wait > deadline and not any(map(line.waiting, range(len(TIERS))))
            hopeless = not tried
        if hopeless and not ladder:
            return self._refuse(DEADLINE, shown, wait)
        if full and (hopeless or not (self.can_make_room(tier) or self._has_room(tier))):
            return self._refuse(FULL, shown, wait)
        return None

    def afford(self, caller: str, tier: int, now: float) -> Refusal | None:
        """Takes one row of the caller's quota; or tells that it is used up."""
        bucket = self.quotas.of(caller, now) if self.quotas.limits else None
        if bucket is not None and (seconds := bucket.take(now)) > 0:
            return self._refuse(QUOTA, tier, seconds)
        return None

    def refuse_full(self, seconds: float, tier: int, now: float, *, caller: str = "", paid: bool = False) -> Refusal:
        """Refuses one for which its own line has no room, until after `seconds`; what it `paid` is given back."""
        if paid and self.quotas.limits and (bucket := self.quotas.of(caller, now)) is not None:
            bucket.charge(-1)
        return self._refuse(FULL, tier, seconds)

    def charge(self, caller: str, rows: int, now: float) -> None:
        """Counts the rows of a request that was let in, once they are known."""
        if rows > 1 and self.quotas.limits and (bucket := self.quotas.of(caller, now)) is not None:
            bucket.charge(rows - 1)

    def leave(self, entry: Entry, answered: float | None = None, *, alone: bool = False) -> None:
        """Lets a request out, `answered` at this instant, or not at all; `alone`: how late that was tells nothing of
        requests in other lines.
        """
        self.total -= 1
        self.in_flight[entry.tier] -= 1
        if answered is None or entry.hopeless:
            return
        self._answers += 1
        if self._answers % _EVERY:
            return
        alone = alone or entry.deadline == math.inf  # what has no deadline cannot be late
        if alone and self.learned is None:
            return
        latency, unloaded = answered - entry.began, entry.line.unloaded(self.total + 1)
        if self.learned is not None:
            # A queue that leaves everybody half of the time is none too many: it is what batches are made of.
            spare = (entry.deadline - entry.began) / 2 if entry.deadline < math.inf else 0.0
            self.learned.answered(answered, latency, self.total + 1, max(unloaded, spare))
        if alone:
            return
        entry.line.lateness.answered(entry.tier, latency - entry.expected, answered, unloaded)

    def missed(self, line: Line, tier: int, now: float) -> None:
        """One of a tier was let in, waited in `line`, and cannot be in time any more, now."""
        line.lateness.missed(tier, now, line.unloaded(self.total))

    def _refuse(self, reason: str, tier: int, seconds: float) -> Refusal:
        self.refused[reason, tier] += 1
        return Refusal(reason, tier, seconds)

    def put_out(self, tier: int, seconds: float) -> UnavailableError:
        """What one of `tier` hears who was let in and waits no longer."""
        return self._refuse(PUT_OUT, tier, seconds).error()

    def make_room(self, tier: int, lines: Iterable[Line] | None = None) -> bool:
        """Puts out one who waits, of the lowest tier that may be, for a request of `tier`; False if there is none.

        `lines`: where it may wait, None for all that are watched.
        """
        return any(line.put_out(other) for line, other in self._behind(tier, lines))

    def can_make_room(self, tier: int, lines: Iterable[Line] | None = None) -> bool:
        """Whether there is one whom `make_room` might put out."""
        return any(True for _ in self._behind(tier, lines))

    def _behind(self, tier: int, lines: Iterable[Line] | None) -> Iterator[tuple[Line, int]]:
        """The lines in which those wait who may be put out for a request of `tier`, with theirs, the lowest first."""
        among = self._lines if lines is None else tuple(lines)
        for other in range(len(TIERS) - 1, tier, -1):
            if self._gives_way(other):
                yield from ((line, other) for line in among if line.waiting(other))

    def _has_room(self, tier: int) -> bool:
        """Whether a tier has less than its part of the limit: then those who have too much are soon out."""
        limit, floors = self.limit, self.shares.floors
        if self.in_flight[tier] < self.shares.floor(tier) * limit:
            return True
        promised = sum(floors[tier + 1 :])
        return sum(self.in_flight[: tier + 1]) < (1 - promised) * limit

    def _gives_way(self, other: int) -> bool:
        """Whether a tier has more than its floor, so that one of it may be put out for a higher."""
        return self.in_flight[other] > self.shares.floor(other) * min(self.limit, self.total)
