"""Endpoints: named contracts that answer, as the author declares them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trilane.clock import duration
from trilane.contract import Contract
from trilane.errors import DefinitionError
from trilane.models.model import Model
from trilane.serving.degradation import CACHED, RUNGS, Rung, SmallerModel, check_ladder
from trilane.serving.objective import Objective
from trilane.serving.policy import STANDARD, tier_number

__all__ = ["Endpoint"]


@dataclass(frozen=True, eq=False, init=False)
class Endpoint:
    """A named contract that answers decisions.

    `deadline`: the time, from the arrival of a request, after which its answer is worthless;
    `fallback`: worse answers, in order, for when the model cannot answer: the degradation ladder;
    `threshold`: the score from which the answer is positive; without it only the score is told;
    `tier`: how critical its requests are, unless they say otherwise;
    `objectives`: what is promised of the answers over a time, with error budgets.
    """

    name: str
    model: Model
    deadline: int
    fallback: tuple[Rung, ...]
    threshold: float | None
    tier: str
    objectives: tuple[Objective, ...]

    def __init__(
        self,
        name: str,
        *,
        model: Model,
        deadline: str | int,
        fallback: Sequence[Rung] = (),
        threshold: float | None = None,
        tier: str = STANDARD,
        objectives: Sequence[Objective] = (),
    ) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "model", model)
        put(self, "deadline", duration(deadline))
        put(self, "fallback", tuple(fallback))
        put(self, "threshold", threshold)
        put(self, "tier", tier)
        put(self, "objectives", tuple(objectives))
        if not name.isidentifier():
            raise DefinitionError(
                f"{name!r} is not a name", where=f"endpoint {name!r}", remedy="Use letters, digits and _"
            )
        check_ladder(f"endpoint {name!r}", model, self.fallback)
        self._check_objectives()
        tier_number(tier, f"endpoint {name!r}")
        if threshold is not None and not math.isfinite(threshold):
            raise DefinitionError(
                f"{threshold} is no threshold", where=f"endpoint {name!r}", remedy="Give a finite score, such as 0.5"
            )
        taken = [field.name for field in model.plan.inputs if field.name in ("rows", "columns")]
        if taken:
            raise DefinitionError(
                f"an input is called {taken[0]!r}, the word by which a request holds many rows",
                where=f"endpoint {name!r}",
                remedy="Rename the input",
            )
        if self.deadline <= 0:
            raise DefinitionError(
                "the deadline is not positive", where=f"endpoint {name!r}", remedy="Write deadline='50ms'"
            )

    def _check_objectives(self) -> None:
        names = [one.key for one in self.objectives]
        if len(set(names)) < len(names):
            raise DefinitionError(
                "two objectives are of the same",
                where=f"endpoint {self.name!r}",
                remedy='List each once: objectives=[tl.objective("in_time", at_least=0.999)]',
            )
        rungs = {str(rung.spec()["step"]) for rung in self.fallback}
        for one in self.objectives:
            if one.what in RUNGS[CACHED:] and one.what not in rungs:
                raise DefinitionError(
                    f"the objective {one.text!r} is of a rung that the ladder lacks",
                    where=f"endpoint {self.name!r}",
                    remedy=f"Add tl.{one.what}(...) to fallback=, or take the objective out",
                )

    @property
    def models(self) -> tuple[Model, ...]:
        """All models that may answer: the first one, and the smaller one of the ladder."""
        return (self.model, *(rung.model for rung in self.fallback if isinstance(rung, SmallerModel)))

    @functools.cached_property
    def contract(self) -> Contract:
        """What a row of a request must hold."""
        return Contract(self.name, self.model.plan.inputs)

    def spec(self) -> dict[str, object]:
        """The endpoint as plain facts."""
        promised = {"objectives": [one.spec() for one in self.objectives]} if self.objectives else {}
        return {
            **promised,
            "kind": "endpoint",
            "name": self.name,
            "model": self.model.name,
            "deadline": self.deadline,
            "fallback": [step.spec() for step in self.fallback],
            "threshold": self.threshold,
            # Left out where it is as ever, so that what was frozen before there were tiers reads the same.
            **({"tier": self.tier} if self.tier != STANDARD else {}),
        }
