"""Objectives: what an endpoint promises of its answers over a time, as the author declares it.

Law: an objective is a share of good answers; what is left of all is its error budget.
"""

from __future__ import annotations

from dataclasses import dataclass

from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError
from trilane.serving.degradation import RUNGS

__all__ = ["Objective", "objective"]

_AT_LEAST = ("answered", "in_time", "fresh")


@dataclass(frozen=True, slots=True)
class Objective:
    """At most the share `budget` of answers may be bad over `over` microseconds.

    `what`: "answered", "in_time" or "fresh", of which the others are bad; or another rung, of which each is bad.
    `within`: microseconds for "in_time"; None: the endpoint's deadline.
    """

    what: str
    budget: float
    over: int
    within: int | None = None

    @property
    def key(self) -> str:
        """Under which it is counted, whatever its target."""
        return self.what if self.within is None else f"{self.what}:{format_duration(self.within)}"

    @property
    def text(self) -> str:
        """The objective as people say it."""
        within = "" if self.within is None else f" ({format_duration(self.within)})"
        if self.what in _AT_LEAST:
            return f"{self.what}{within} >= {100 * (1 - self.budget):.6g} %"
        return f"{self.what} <= {100 * self.budget:.6g} %"

    def spec(self) -> dict[str, object]:
        """The objective as plain facts."""
        return {"what": self.what, "budget": self.budget, "over": self.over, "within": self.within}


def objective(
    what: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    over: str | int = "30d",
    within: str | int | None = None,
) -> Objective:
    """Of the answers over `over`: `at_least` a share "answered" at all, "in_time" (by the deadline, or `within`) or
    "fresh"; or `at_most` a share from another rung of the ladder.
    """
    where = f"tl.objective({what!r})"
    if what not in (*_AT_LEAST, *RUNGS):
        words = ", ".join((*_AT_LEAST, *RUNGS[1:]))
        raise DefinitionError(f"nothing is counted as {what!r}", where=where, remedy=f"Write one of {words}")
    share, other = (at_least, at_most) if what in _AT_LEAST else (at_most, at_least)
    if share is None or other is not None:
        right = "at_least=0.999" if what in _AT_LEAST else "at_most=0.01"
        raise DefinitionError("the share is of the other kind", where=where, remedy=f"Write {right}")
    budget = round(1 - share, 12) if what in _AT_LEAST else share
    if not 0 < budget < 1:
        remedy = "Allow some: no system is perfect, and a budget of none is burnt by the first"
        if 1 < share < 100:
            remedy = f"{share} % is {share / 100:.9g}"
        raise DefinitionError(f"{share} is no share between 0 and 1", where=where, remedy=remedy)
    if within is not None and what != "in_time":
        raise DefinitionError("only in_time has a time", where=where, remedy="Leave out within=")
    span, limit = duration(over), None if within is None else duration(within)
    if span < 3_600_000_000 or (limit is not None and limit <= 0):
        raise DefinitionError("the time is too short", where=where, remedy='Write over="30d", within="20ms"')
    return Objective(what, budget, span, limit)
