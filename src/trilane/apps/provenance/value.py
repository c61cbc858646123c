"""A feature value explained: what was served, what it was made of, and the same from the events by the training path.

Laws: a value asked for now is what the store serves; one of the past is what recorded visibility says was served then,
with what the store still holds beside it; `identical` compares bits, of a trait with those of the record of the lanes.
What is usual is as one endpoint knows it. The archive is brought up to date before, which changes no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trilane.apps.batch_job import archive_sources
from trilane.apps.project import Project
from trilane.apps.provenance.events import Seen, letters_of, seen_events
from trilane.apps.provenance.question import AT, Question
from trilane.apps.provenance.steps import age_of, steps_of
from trilane.apps.provenance.tiles import Held, held, instant_text
from trilane.apps.provenance.usual import Usual, usual_of
from trilane.clock import format_duration, format_instant
from trilane.errors import ContractError
from trilane.features.fallback import FRESH, MISSING, STALE, STATUSES
from trilane.features.plan import FeaturePlan
from trilane.serving.reading import FeatureReader, Reading
from trilane.sources.event import EventSource
from trilane.training.build import replayed_at
from trilane.training.point_in_time import Joined

__all__ = ["explain_value"]


@dataclass(frozen=True, slots=True)
class _Served:
    value: float
    status: int
    age: int | None
    why: tuple[str, ...]

    @property
    def quality(self) -> dict[str, Any]:
        return {"status": STATUSES[self.status], "age_s": None if self.age is None else self.age / 1e6}


def explain_value(
    project: Project,
    name: str,
    keys: Sequence[str],
    inputs: Mapping[str, str],
    *,
    at: int | None = None,
    endpoint: str | None = None,
) -> dict[str, Any]:
    """All that is known of the value of `view.feature`, or of a trait, for these keys and inputs, at instant `at`
    (default: now). `endpoint`: by whose model to tell what is usual; default: the first by name that knows.

    Raises DefinitionError for a feature, input or endpoint that there is not, ContractError for values that do not fit.
    """
    now = project.clock.now()
    if at is not None and at > now:
        remedy = f"Ask for an instant up to now, {format_instant(now)}"
        raise ContractError("nothing is known of the future", where="--at", remedy=remedy)
    question = Question.of(project.definitions, name, keys, inputs, at=now if at is None else at)
    plan, view = question.plan, question.view
    usual = usual_of(project, plan, at=question.at, endpoint=endpoint)
    priors = usual.priors if usual else {}
    reading = FeatureReader(plan, project.online, cache=0, priors=priors).read([question.row], question.at)
    stored = None if view.lane == "request" else held(question, project.online)
    archive_sources(project, [*plan.views, *plan.stand_ins])
    replayed = replayed_at(
        plan, question.asks(), event_time=AT, warehouse=project.warehouse, root=project.config.root, priors=priors
    )
    store_value = float(reading.values[0, 0])
    answers = [
        _told(reading, column) if at is None else _replayed(project, question, replayed, column)
        for column in range(len(plan.columns))
    ]
    served = answers[0]
    by = ("the store", True) if at is None else ("a replay of what was recorded", _is_recorded(question, replayed))
    facts = _facts(question, answers, usual, *by)
    seen = None
    if stored is not None:
        seen, more = _behind(project, question, stored)
        facts |= {"store": {"value": _plain(store_value) if stored.whole else None, "whole": stored.whole}, **more}
        facts["steps"] = steps_of(project, question, stored, usual, live=at is None)
    else:
        facts["uses"] = _uses(project, question, usual)
    facts["recomputed"] = _compared(question, served, replayed, stored, seen)
    return facts


def _facts(
    question: Question, answers: Sequence[_Served], usual: Usual | None, by: str, recorded: bool
) -> dict[str, Any]:
    """The question, its answer, and who gave it."""
    view, plan, served = question.view, question.plan, answers[0]
    facts: dict[str, Any] = {
        "feature": question.name,
        "lane": view.lane,
        "version": view.version[:16],
        "inputs": question.inputs,
        "at": format_instant(question.at),
        "served": {
            "value": _plain(served.value),
            **served.quality,
            "why": list(served.why),
            "by": by,
            "recorded": recorded,
        },
    }
    if usual is not None:
        facts["usual"] = usual.facts(tuple(name for view in plan.views for name in view.output_names))
    if len(answers) > 1:
        facts["of"] = {"feature": plan.names[1], "value": _plain(answers[1].value), **answers[1].quality}
    return facts


def _told(reading: Reading, column: int) -> _Served:
    why = tuple(fault.reason for fault in reading.faults)
    return _Served(
        float(reading.values[0, column]), int(reading.statuses[0, column]), int(reading.ages[0, column]), why
    )


def _replayed(project: Project, question: Question, replayed: Joined, column: int) -> _Served:
    place = question.plan.places[column]
    status = MISSING if replayed.statuses is None else int(replayed.statuses[0, place])
    own = question.view.lane != "request" and status in (FRESH, STALE)
    return _Served(
        float(replayed.values[0, place]), status, age_of(project, question.view, question.at) if own else None, ()
    )


def _is_recorded(question: Question, replayed: Joined) -> bool:
    views = [view for view in question.plan.views if view.lane != "request"]
    return all(replayed.recorded.get(view.name, 0) for view in views)


def _behind(project: Project, question: Question, stored: Held) -> tuple[Seen, dict[str, Any]]:
    """What a stored value is made of."""
    view, instant = question.view, question.at
    if view.lane == "batch":
        instant = view.boundary(instant) if stored.version is None else stored.version.boundary
    windows = question.windows
    since = min((window.left(instant) for window in windows), default=instant)
    ends = stored.version.ends if view.lane == "batch" and stored.version else None
    seen = seen_events(project, question, since=since, until=instant, ends=ends)
    version = stored.version
    return seen, {
        "windows": [
            {
                "length": str(window),
                "hop": "lifetime" if window.is_lifetime else format_duration(window.hop),
                "from": instant_text(window.left(instant)),
                "to": format_instant(instant),
            }
            for window in windows
        ],
        "landed": None
        if version is None
        else {
            "boundary": format_instant(version.boundary),
            "declared": format_instant(view.boundary(question.at)),
            "visible_from": instant_text(version.visible_from),
            "landed_at": instant_text(version.landed_at or None),
            "rows": version.rows,
            "final": version.final,
        },
        "lack": stored.lack,
        "tiles": [tile.facts() for tile in stored.tiles],
        "lanes": _lane_facts(project, question, stored),
        "events": {"total": seen.total, "late": seen.late, "unread": seen.unread, "listed": seen.listed},
        "letters": letters_of(project, question, since=since, until=instant),
    }


def _lane_facts(project: Project, question: Question, stored: Held) -> list[dict[str, Any]]:
    source = question.view.source
    if not isinstance(source, EventSource):
        return []
    return [
        {
            "partition": number,
            "applied": lane.offset,
            "end": project.log.end(source.name, number),
            "caught_up_at": instant_text(lane.caught_up_at or None),
            "watermark": None if lane.newest is None else instant_text(lane.newest - source.disorder),
            "events": lane.applied,
            "duplicates": lane.duplicates,
            "rejected": lane.rejected,
        }
        for number, lane in enumerate(stored.lanes)
    ]


def _uses(project: Project, question: Question, usual: Usual | None) -> list[dict[str, Any]]:
    """The features that a request view reads, as the store has them at the instant."""
    if not question.view.uses:
        return []
    plan = FeaturePlan.of([*question.view.uses], where=question.name)
    priors = usual.priors if usual else {}
    found = FeatureReader(plan, project.online, cache=0, priors=priors).read([question.row], question.at)
    return [
        {"feature": name, "value": _plain(float(value)), "status": STATUSES[status], "age_s": age / 1e6}
        for name, value, status, age in zip(
            plan.names, found.values[0], found.statuses[0].tolist(), found.ages[0].tolist(), strict=True
        )
    ]


def _compared(
    question: Question, served: _Served, replayed: Joined, stored: Held | None, seen: Seen | None
) -> dict[str, Any]:
    place = question.plan.places[0]
    as_served = float(replayed.values[0, place])
    ideal = as_served if replayed.ideal is None or question.is_trait else float(replayed.ideal[0, place])
    identical = _same(served.value, ideal)
    facts: dict[str, Any] = {"value": _plain(ideal), "as_served": _plain(as_served), "identical": identical}
    if identical:
        return {**facts, "difference": 0.0, "causes": []}
    both = not (np.isnan(served.value) or np.isnan(ideal))
    causes = [] if question.is_trait else _causes(question, served, stored, seen)
    if question.is_trait:
        recorded = "has more by now" if _is_recorded(question, replayed) else "has nothing of that instant"
        causes.append(f"visibility: the record of how far the lane had come {recorded}")
    if not causes and _same(served.value, as_served):
        causes.append("a replay of what was recorded gives the served value: something it is made of came late")
    if not causes:
        causes.append("none is known: the tiles and the events do not agree")
    return {**facts, "difference": served.value - ideal if both else None, "causes": causes}


def _causes(question: Question, served: _Served, stored: Held | None, seen: Seen | None) -> list[str]:
    """What is likely to make a served value another than the events give."""
    causes = []
    if served.status not in (FRESH, MISSING):
        causes.append(f"fallback: the value is {STATUSES[served.status]}, as `steps` show")
    if stored is None or seen is None:
        return (
            [*causes, "a view that it uses was served worse than promised: explain those"] if served.status else causes
        )
    view = question.view
    if stored.age is None:
        causes.append("not yet there: the lane has not answered for this view yet")
    if stored.lack:
        causes.append(f"history: {stored.lack}")
    if seen.unread and view.lane == "batch":
        causes.append(f"not yet archived: {seen.unread} events that count were not seen when the version was computed")
    elif seen.unread:
        causes.append(f"visibility: {seen.unread} events that count could not be read yet")
    if view.lane == "batch" and stored.version and stored.version.boundary != view.boundary(question.at):
        declared = format_instant(view.boundary(question.at))
        causes.append(f"landing: the version of {format_instant(stored.version.boundary)} answered, not of {declared}")
    return causes


def _same(one: float, other: float) -> bool:
    """Whether two values have the same bits; one pattern of bits for all NaN."""
    return bool(np.isnan(one) and np.isnan(other)) or np.float64(one).tobytes() == np.float64(other).tobytes()


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
