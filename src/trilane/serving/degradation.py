"""The degradation ladder of an endpoint: the declared order of worse answers when its model cannot answer in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trilane.errors import DefinitionError

__all__ = ["ConstantAnswer", "constant"]


@dataclass(frozen=True, slots=True)
class ConstantAnswer:
    """Answer with a fixed score."""

    score: float

    def spec(self) -> dict[str, object]:
        """The step as plain facts."""
        return {"step": "constant", "score": self.score}


def constant(score: float) -> ConstantAnswer:
    """The last rung: a fixed score, such as the base rate."""
    if not math.isfinite(score):
        raise DefinitionError(f"{score} is no score", remedy="Give a finite number, such as the base rate")
    return ConstantAnswer(float(score))
