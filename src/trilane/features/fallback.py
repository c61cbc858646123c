"""Statuses of a feature value, the declared cascade of worse values, and both as inputs of a model.

Law: the cascade is decided at read, per value, by ages alone: the lane's value while it is fresh, then each step in
order; the first that has a value gives it, with its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Unpack, overload

from trilane.clock import duration, format_duration
from trilane.errors import DefinitionError
from trilane.features import aggregation
from trilane.features.aggregation import Aggregation, Scope
from trilane.features.entity import Entity
from trilane.features.view import Constant, FeatureRef, LastBatch, Prior, Stale, Step, Trait, View

__all__ = ["STATUSES", "age", "check_cascade", "constants_of", "default", "last", "prior", "stale", "status"]

# Records keep their positions, so that a new one comes last.
STATUSES = ("fresh", "stale", "batch", "default", "missing", "prior")
FRESH, STALE, BATCH, DEFAULT, MISSING, PRIOR = range(6)

STATISTICS = ("mean", "median")


def stale(*, max_age: str | int) -> Stale:
    """The lane's own value, marked stale, while it is at most `max_age` old."""
    return Stale(duration(max_age))


def default() -> Constant:
    """Each feature's own `default=`; where it has none, the value is missing."""
    return Constant()


@overload
def last(subject: str, *, window: str | int | None, **scope: Unpack[Scope]) -> Aggregation: ...
@overload
def last(subject: View, *, max_age: str | int, features: Mapping[str, str] | None = None) -> LastBatch: ...
def last(
    subject: str | View,
    *,
    window: str | int | None = "",
    max_age: str | int | None = None,
    features: Mapping[str, str] | None = None,
    **scope: Unpack[Scope],
) -> Aggregation | LastBatch:
    """Of a column: its value at the latest event in a window. Of a batch view: a fallback to its last landed values.

    `features` maps a feature's name to the batch feature that stands in for it, where the names differ.
    """
    if isinstance(subject, str):
        if window == "":
            raise DefinitionError("last of a column needs a window", where=subject, remedy='Add window="24h"')
        return aggregation.last(subject, window=window, **scope)
    if max_age is None:
        raise DefinitionError("last of a view needs max_age", where=subject.name, remedy='Add max_age="36h"')
    return LastBatch(subject, duration(max_age), dict(features or {}))


@overload
def prior(usual: str = "mean") -> Prior: ...
@overload
def prior(usual: View, *, max_age: str | int | None = None, features: Mapping[str, str] | None = None) -> LastBatch: ...
def prior(
    usual: str | View = "mean", *, max_age: str | int | None = None, features: Mapping[str, str] | None = None
) -> Prior | LastBatch:
    """What is usual where nothing is known: a statistic of each feature ("mean" or "median") over the rows that the
    model was trained on, part of its artifact; or the last landed values of a batch view of another entity, such as
    the shop's for a card, of any age unless `max_age` says otherwise. `features` maps names as in `tl.last`.
    """
    if isinstance(usual, View):
        oldest = None if max_age is None else duration(max_age)
        return LastBatch(usual, oldest, dict(features or {}), status="prior")
    if usual not in STATISTICS or max_age is not None or features is not None:
        raise DefinitionError(
            f"a prior is no {usual!r} with max_age or features" if usual in STATISTICS else f"{usual!r} is no prior",
            where="tl.prior",
            remedy='Write tl.prior("mean"), tl.prior("median") or tl.prior(batch_view)',
        )
    return Prior(usual)


def age(subject: View | FeatureRef) -> Trait:
    """How old, in seconds, as an input of a model: of a view, its lane or its version, NaN if it has no values; of one
    feature, the value that was answered, also where a batch view stood in, and NaN where none has an age.
    """
    return _trait(subject, "age_s")


def status(subject: FeatureRef, word: str) -> Trait:
    """Whether (1 or 0) a feature's value had this status, as an input of a model."""
    if type(subject) is not FeatureRef or word not in STATUSES:
        raise DefinitionError(
            f"{word!r} is no status of a feature",
            where="tl.status",
            remedy=f'Write tl.status(view["feature"], "stale"); statuses are {", ".join(STATUSES)}',
        )
    return _trait(subject, f"is_{word}")


def _trait(subject: View | FeatureRef, what: str) -> Trait:
    view, feature = (subject.view, subject.name) if isinstance(subject, FeatureRef) else (subject, None)
    if not isinstance(view, View):
        raise DefinitionError(f"{subject!r} is no feature view", where="tl.age", remedy="Name a view, or one feature")
    if view.lane == "request":
        raise DefinitionError(
            "a request view is computed at once, and has neither age nor status of its own",
            where=f"view {view.name!r}",
            remedy="Take the age of a view that it uses",
        )
    return Trait(view, feature, what)


def check_cascade(
    view_name: str, features: tuple[str, ...], freshness: int, steps: tuple[Step, ...], entity: Entity | None = None
) -> None:
    """Refuses a cascade that cannot work: no batch view, unknown stand-ins, a step that can never be reached."""
    where = f"view {view_name!r}"
    for position, step in enumerate(steps):
        if not isinstance(step, Step):
            raise DefinitionError(f"{step!r} is no step", where=where, remedy="Write tl.stale(...), tl.default() ...")
        if isinstance(step, Prior) and not all(isinstance(later, Constant) for later in steps[position + 1 :]):
            raise DefinitionError(
                f"nothing but tl.default() can follow tl.prior({step.statistic!r})",
                where=where,
                remedy="Put what is rarer known before it",
            )
        if isinstance(step, Constant) and position != len(steps) - 1:
            raise DefinitionError("nothing can follow tl.default()", where=where, remedy="Put tl.default() last")
        if isinstance(step, Stale) and (position or step.max_age <= freshness):
            raise DefinitionError(
                f"tl.stale(max_age={format_duration(step.max_age)!r}) must come first and exceed the freshness of "
                f"{format_duration(freshness)}",
                where=where,
                remedy="Move it to the front with a larger max_age",
            )
        if isinstance(step, LastBatch):
            _check_stand_ins(where, features, step, entity)


def constants_of(view: View, step: Prior | Constant, priors: Mapping[str, float]) -> dict[int, float]:
    """The values, by the position of their feature, that a step gives to any row; `priors` by `view.feature`."""
    if isinstance(step, Prior):
        return {place: priors[name] for place, name in enumerate(view.output_names) if name in priors}
    return {place: feature.default for place, feature in enumerate(view.features) if feature.default is not None}


def _check_stand_ins(where: str, features: tuple[str, ...], step: LastBatch, entity: Entity | None) -> None:
    if step.view.lane != "batch":
        raise DefinitionError(
            f"{step.view.name!r} is a {step.view.lane} view", where=where, remedy="Fall back to a batch view"
        )
    other = step.view.entity
    if step.status == "batch" and entity is not None and other is not None and entity.key_names != other.key_names:
        raise DefinitionError(
            f"{step.view.name!r} is of the entity {other.name!r}, not of {entity.name!r}",
            where=where,
            remedy=f"Write tl.prior({step.view.name}), which says that its values are of others",
        )
    known = {feature.name for feature in step.view.features}
    for name, stand_in in step.names.items():
        if name not in features or stand_in not in known:
            raise DefinitionError(
                f"the fallback maps {name!r} to {stand_in!r}, and one of them does not exist",
                where=where,
                remedy=f"Map {', '.join(features)} to {', '.join(sorted(known))}",
            )
    if not any(step.source_of(name) in known for name in features):
        raise DefinitionError(
            f"no feature of {step.view.name!r} stands in for any of {', '.join(features)}",
            where=where,
            remedy='Add features={"name": "name in the batch view"}',
        )
