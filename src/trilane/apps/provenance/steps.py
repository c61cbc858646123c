"""The cascade of a stored value, step by step: which was tried, what it allowed, and why it did or did not answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trilane.apps.project import Project
from trilane.apps.provenance.question import Question
from trilane.apps.provenance.tiles import Held, lanes_of
from trilane.apps.provenance.usual import Usual
from trilane.features.plan import FeaturePlan
from trilane.features.view import LastBatch, Prior, Stale, View
from trilane.lanes.progress import lane_state
from trilane.serving.reading import FeatureReader
from trilane.sources.event import EventSource
from trilane.stores.online import versions
from trilane.training.sight import LaneSight, VersionSight

__all__ = ["age_of", "steps_of"]

_ANSWERS, _NOTHING, _OLD, _SPARED = "answers", "has nothing", "is too old", "not needed"


@dataclass(frozen=True, slots=True)
class _Try:
    name: str
    age: int | None
    allowed: int | None
    outcome: str


def age_of(project: Project, view: View, at: int) -> int | None:
    """How old a stored view was at an instant of the past, as recorded; None if it answered nothing."""
    instants = np.array([at])
    if view.lane == "nearline" and isinstance(view.source, EventSource):
        return int(LaneSight.of(project.warehouse, view.source).ages(instants)[0])
    sight = VersionSight.of(project.warehouse, view)
    landing = sight.landing(instants)
    return None if landing[0] == -1 else at - int(sight.boundaries(instants, landing)[0])


def _live_age(project: Project, view: View, at: int) -> int | None:
    if view.lane == "nearline":
        moment = lane_state(lanes_of(view, project.online), view.space)
        return None if moment is None else max(at - moment, 0)
    version = versions.visible(versions.versions(project.online, view.landed_as), at)
    return None if version is None else at - version.boundary


def steps_of(
    project: Project, question: Question, stored: Held, usual: Usual | None, *, live: bool
) -> list[dict[str, Any]]:
    """The steps of the question's view; `live`: by what the store says now, else by what was recorded."""
    age = _live_age if live else age_of
    own = age(project, question.view, question.at)
    return [
        {
            "step": one.name,
            "age_s": None if one.age is None else one.age / 1e6,
            "allowed_s": None if one.allowed is None else one.allowed / 1e6,
            "outcome": one.outcome,
        }
        for one in _settled(_tries(project, question, stored, usual, own, live=live))
    ]


def _settled(tries: Iterator[_Try]) -> Iterator[_Try]:
    """The first that answers spares the rest."""
    done = False
    for one in tries:
        yield _Try(one.name, one.age, one.allowed, _SPARED) if done else one
        done |= one.outcome == _ANSWERS


def _tries(
    project: Project, question: Question, stored: Held, usual: Usual | None, own: int | None, *, live: bool
) -> Iterator[_Try]:
    view, feature = question.view, question.feature
    lack = stored.lack if any(map(view.is_long, question.windows)) else ""
    yield _Try(f"{view.lane} lane", own, view.freshness, lack or _by_age(own, view.freshness))
    if feature is None:  # the age of a view is that of its lane, whatever else answers
        return
    for step in view.fallback:
        if isinstance(step, Stale):
            yield _Try("stale", own, step.max_age, lack or _by_age(own, step.max_age))
        elif isinstance(step, LastBatch):
            yield _batch(project, question, step, feature.name, live=live)
        elif isinstance(step, Prior):
            yield _prior(step, f"{view.name}.{feature.name}", usual)
        else:
            yield _Try("default", None, None, _NOTHING if feature.default is None else _ANSWERS)


def _prior(step: Prior, name: str, usual: Usual | None) -> _Try:
    if usual is None:  # what is usual is part of a model
        return _Try(f"prior {step.statistic}", None, None, "no endpoint that knows it was deployed")
    outcome = _ANSWERS if name in usual.priors else _NOTHING
    return _Try(f"prior {step.statistic} of {usual.source}", None, None, outcome)


def _batch(project: Project, question: Question, step: LastBatch, feature: str, *, live: bool) -> _Try:
    source, name = step.source_of(feature), f"{step.status} {step.view.name}"
    if source not in step.view.feature_names:
        return _Try(name, None, step.max_age, "has no such feature")
    age = (_live_age if live else age_of)(project, step.view, question.at)
    outcome = _by_age(age, step.max_age)
    if outcome == _ANSWERS:
        plan = FeaturePlan.of([step.view[source]], where=question.name)
        found = FeatureReader(plan, project.online, cache=0).read([question.row], question.at).values[0, 0]
        outcome = "has no value" if np.isnan(found) else _ANSWERS
    return _Try(f"{name}.{source}", age, step.max_age, outcome)


def _by_age(age: int | None, allowed: int | None) -> str:
    return _NOTHING if age is None else _ANSWERS if allowed is None or age <= allowed else _OLD
