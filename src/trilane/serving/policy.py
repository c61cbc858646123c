"""What a server owes to whom when it cannot serve all: tiers, floors, callers and their quotas, as declared.

Laws: a policy is frozen facts with a version of their own; a server without a policy limits nobody, and its tiers are
in strict order. Who declares it owns the trade: what one tier is promised, the others pay for.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from trilane.clock import duration
from trilane.errors import DefinitionError

__all__ = ["STANDARD", "TIERS", "Caller", "Limit", "Policy", "Tier", "tier_number"]

TIERS = ("critical", "standard", "sheddable", "batch")
STANDARD = "standard"
Limit: TypeAlias = int | Literal["learned"] | None
_KNOWN = ", ".join(TIERS)


def tier_number(name: str, where: str) -> int:
    """The place of a tier, 0 for the one that goes first. Raises DefinitionError."""
    if name not in TIERS:
        raise DefinitionError(f"{name!r} is no tier", where=where, remedy=f"The tiers are {_KNOWN}")
    return TIERS.index(name)


@dataclass(frozen=True, init=False)
class Tier:
    """What one tier is promised under overload.

    `floor`: the share of the executors' time that it gets whatever the tiers above it ask for; `aging`: how long
    (microseconds) a request of it waits before it may go ahead of its turn, None for never.
    """

    name: str
    floor: float
    aging: int | None

    def __init__(self, name: str, *, floor: float = 0.0, aging: str | int | None = None) -> None:
        where = f"tier {name!r}"
        tier_number(name, where)
        if not 0 <= floor < 1:
            raise DefinitionError(f"{floor} is no share", where=where, remedy="Give a floor of 0 up to 1, such as 0.2")
        wait = None if aging is None else duration(aging)
        if wait is not None and wait <= 0:
            raise DefinitionError("the aging is not positive", where=where, remedy="Write aging='100ms'")
        put = object.__setattr__
        put(self, "name", name)
        put(self, "floor", float(floor))
        put(self, "aging", wait)


@dataclass(frozen=True, init=False)
class Caller:
    """What one caller may ask for.

    `up_to`: the highest tier it gets, whatever it asks for; None: that of the endpoint. `rate`: rows a second of one
    server, `burst`: rows that it may ask for at once after a silence; None: as many as it likes.
    """

    name: str
    up_to: str | None
    rate: float | None
    burst: float | None

    def __init__(
        self, name: str = "", *, up_to: str | None = None, rate: float | None = None, burst: float | None = None
    ) -> None:
        where = f"caller {name!r}"
        if up_to is not None:
            tier_number(up_to, where)
        for word, number in (("rate", rate), ("burst", burst)):
            if number is not None and not (number > 0 and math.isfinite(number)):
                raise DefinitionError(f"the {word} is not positive", where=where, remedy=f"Give a {word} such as 100")
        if rate is None and burst is not None:
            raise DefinitionError("a burst without a rate", where=where, remedy="Give the rate, in rows a second")
        put = object.__setattr__
        put(self, "name", name)
        put(self, "up_to", up_to)
        put(self, "rate", rate)
        put(self, "burst", burst if burst is not None or rate is None else max(rate, 1.0))

    def spec(self) -> dict[str, object]:
        """The caller as plain facts."""
        return {"name": self.name, "up_to": self.up_to, "rate": self.rate, "burst": self.burst}


@dataclass(frozen=True, eq=True, init=False)
class Policy:
    """What one server does with more than it can answer; a project declares at most one.

    `callers`: by the name that requests give; `others`: what each caller that is not among them may ask for, and those
    without a name together; `limit`: how many requests may be in the server: a number, "learned" from latency, or None.
    """

    name = "admission"
    tiers: tuple[Tier, ...]
    callers: tuple[Caller, ...]
    others: Caller
    limit: Limit

    def __init__(
        self,
        *,
        tiers: Sequence[Tier] = (),
        callers: Sequence[Caller] = (),
        others: Caller | None = None,
        limit: Limit = "learned",
    ) -> None:
        put = object.__setattr__
        put(self, "tiers", tuple(sorted(tiers, key=lambda tier: TIERS.index(tier.name))))
        put(self, "callers", tuple(sorted(callers, key=lambda caller: caller.name)))
        put(self, "others", others or Caller())
        put(self, "limit", limit)
        self._check()

    def _check(self) -> None:
        for kind, names in (
            ("tier", [tier.name for tier in self.tiers]),
            ("caller", [caller.name for caller in self.callers]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                what = f"the {kind} {twice!r} is declared twice"
                raise DefinitionError(what, where="policy", remedy="Keep one of them")
        if any(not caller.name for caller in self.callers):
            raise DefinitionError(
                "a caller has no name", where="policy", remedy="Name it, or give it as others=tl.Caller(...)"
            )
        if self.others.name:
            raise DefinitionError(
                f"others={self.others.name!r} names one caller", where="policy", remedy="Put it among the callers"
            )
        if sum(tier.floor for tier in self.tiers) > 1:
            raise DefinitionError("the floors are more than there is", where="policy", remedy="Let them sum up to 1")
        is_number = isinstance(self.limit, int) and not isinstance(self.limit, bool) and self.limit >= 1
        if not (self.limit is None or self.limit == "learned" or is_number):
            raise DefinitionError(
                f"{self.limit!r} is no limit", where="policy", remedy="Give a number of requests, 'learned' or None"
            )

    def floors(self) -> tuple[float, ...]:
        """The floor of every tier, the highest first."""
        declared = {tier.name: tier.floor for tier in self.tiers}
        return tuple(declared.get(name, 0.0) for name in TIERS)

    def agings(self) -> tuple[float, ...]:
        """Seconds after which a request of each tier may go ahead of its turn; infinite for never."""
        declared = {tier.name: tier.aging for tier in self.tiers}
        found = (declared.get(name) for name in TIERS)
        return tuple(math.inf if wait is None else wait / 1e6 for wait in found)

    @functools.cached_property
    def version(self) -> str:
        """SHA-256 of all that is declared, 64 hex digits."""
        return hashlib.sha256(msgspec.json.encode(self.spec(), order="sorted")).hexdigest()

    def spec(self) -> dict[str, object]:
        """The policy as plain facts."""
        return {
            "kind": "policy",
            "name": self.name,
            "tiers": [{"name": tier.name, "floor": tier.floor, "aging": tier.aging} for tier in self.tiers],
            "callers": [caller.spec() for caller in self.callers],
            "others": self.others.spec(),
            "limit": self.limit,
        }
