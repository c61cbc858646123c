"""The degradation ladder of an endpoint: the declared order of worse answers when its model cannot answer in time.

Laws: a ladder goes from better to worse, each kind of rung once; it is part of the bundle, as it decides answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError
from trilane.features.view import Stale
from trilane.models.model import Model
from trilane.models.own_process import PYTHON

__all__ = [
    "RUNGS",
    "CachedAnswer",
    "ConstantAnswer",
    "Rung",
    "SmallerModel",
    "cached",
    "check_ladder",
    "constant",
    "smaller",
]

# Records keep their positions, so that a new one comes last.
RUNGS = ("fresh", "stale", "cached", "smaller", "constant")
FRESH, STALE, CACHED, SMALLER, CONSTANT = range(5)

_KEYS = ("features", "inputs", "key")


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """Answer with an earlier score of the same bundle, at most `ttl` microseconds old, for the same `by`."""

    ttl: int
    by: str
    serve: str
    size: int

    def spec(self) -> dict[str, object]:
        """The step as plain facts."""
        return {"step": "cached", "ttl": self.ttl, "by": self.by, "serve": self.serve, "size": self.size}


@dataclass(frozen=True, slots=True)
class SmallerModel:
    """Answer with another model, of some of the same features."""

    model: Model

    def spec(self) -> dict[str, object]:
        """The step as plain facts; a bundle adds the digest of the artifact."""
        return {"step": "smaller", "model": self.model.name}


@dataclass(frozen=True, slots=True)
class ConstantAnswer:
    """Answer with a fixed score."""

    score: float

    def spec(self) -> dict[str, object]:
        """The step as plain facts."""
        return {"step": "constant", "score": self.score}


Rung: TypeAlias = Stale | CachedAnswer | SmallerModel | ConstantAnswer


def cached(*, ttl: str | int, by: str = "features", serve: str = "fallback", size: int = 10_000) -> CachedAnswer:
    """An earlier score for the same `by`: "features" (all values that the model sees), "inputs" (all that the caller
    sent) or "key" (the entity keys alone), at most `ttl` old.

    `serve`: "fallback", or "always" to answer so before the model is asked; `size`: how many scores a process keeps.
    """
    if by not in _KEYS or serve not in ("fallback", "always"):
        wrong, right = (by, _KEYS) if by not in _KEYS else (serve, ("fallback", "always"))
        raise DefinitionError(f"tl.cached knows no {wrong!r}", where="tl.cached", remedy=f"Write {' or '.join(right)}")
    if (age := duration(ttl)) <= 0 or size < 1:
        raise DefinitionError(
            f"tl.cached(ttl={format_duration(age)!r}, size={size}) keeps nothing",
            where="tl.cached",
            remedy='Write tl.cached(ttl="5m")',
        )
    return CachedAnswer(age, by, serve, size)


def smaller(model: Model) -> SmallerModel:
    """Another trained model, of some of the same features, for when the first has failed or the time is short."""
    if not isinstance(model, Model):
        raise DefinitionError(f"{model!r} is no model", where="tl.smaller", remedy="Write tl.smaller(model)")
    return SmallerModel(model)


def constant(score: float) -> ConstantAnswer:
    """The last rung: a fixed score, such as the base rate."""
    if not math.isfinite(score):
        raise DefinitionError(f"{score} is no score", remedy="Give a finite number, such as the base rate")
    return ConstantAnswer(float(score))


def check_ladder(where: str, model: Model, ladder: Sequence[object]) -> None:
    """Refuses a ladder that cannot work: what is no rung, one twice, one that is never reached, foreign features."""
    kinds = [type(rung) for rung in ladder]
    for position, rung in enumerate(ladder):
        if not isinstance(rung, Rung):
            remedy = "Write tl.stale(...), tl.cached(...), tl.smaller(model) or tl.constant(...)"
            raise DefinitionError(f"{rung!r} is no rung of a ladder", where=where, remedy=remedy)
        name = str(rung.spec()["step"])
        if kinds.count(type(rung)) > 1:
            raise DefinitionError(f"the ladder has tl.{name} twice", where=where, remedy="Keep the better one")
        if isinstance(rung, Stale) and position:
            what = "tl.stale says when the model's own answer is none; nothing can come before it"
            raise DefinitionError(what, where=where, remedy="Put tl.stale first")
        if isinstance(rung, ConstantAnswer) and position != len(ladder) - 1:
            raise DefinitionError("nothing can follow tl.constant", where=where, remedy="Put tl.constant last")
        if isinstance(rung, SmallerModel):
            _check_smaller(where, model, rung.model)


def _check_smaller(where: str, model: Model, other: Model) -> None:
    if other is model or other.name == model.name:
        raise DefinitionError(f"{other.name!r} is no smaller than itself", where=where, remedy="Name another model")
    if other.runtime == PYTHON:
        what = f"the model {other.name!r} runs in a process of its own, which fails in ways of its own"
        remedy = "Fall back on a model that is kept as 'onnx', 'lightgbm' or 'xgboost'"
        raise DefinitionError(what, where=where, remedy=remedy)
    extra = [name for name in other.feature_names if name not in model.feature_names]
    if extra or other.plan.versions.items() - model.plan.versions.items():
        what = f"the model {other.name!r} needs {', '.join(extra) or 'other views'}, which {model.name!r} does not read"
        raise DefinitionError(what, where=where, remedy=f"Choose among {', '.join(model.feature_names)}")
