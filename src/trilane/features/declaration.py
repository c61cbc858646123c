"""The three decorators by which an author declares feature views, one for each lane.

Law: what is wrong with a declaration is said when it is made, with the author's line, the object and the remedy.

Each takes `owner=`, `tags=` and `description=` (by default the first paragraph of the docstring) for those who look for
features; they change no version.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trilane.clock import SECOND, duration, format_duration
from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.changes import check_changes
from trilane.features.entity import Entity
from trilane.features.fallback import check_cascade
from trilane.features.transform import compile_transform, pruned
from trilane.features.view import Feature, Step, View
from trilane.sources.about import About
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.types import as_field

__all__ = ["batch", "nearline", "request"]


def nearline(
    source: EventSource,
    entity: Entity,
    *,
    freshness: str | int,
    features: Mapping[str, Aggregation],
    schedule: str | int | None = None,
    landing: str | int = "2h",
    tail: str | int | None = None,
    fallback: Sequence[Step] = (),
    owner: str = "",
    tags: Sequence[str] = (),
    description: str = "",
) -> Callable[[Callable[..., Any]], View]:
    """Declares a streaming view: the decorated function maps events to rows that are aggregated as they come.

    `freshness`: the lag of the lane up to which a value counts as fresh; beyond it, `fallback` decides.

    With `schedule` the batch lane lands a history at each of its boundaries, visible `landing` later, and windows
    longer than `tail` are put together from it and the tiles since: the same values, from few tiles. They are answered
    up to `tail` after the boundary, which is how late a landing may be; by default two schedules and the landing time,
    in whole schedules.
    """

    def declare(function: Callable[..., Any]) -> View:
        view = _aggregating("nearline", function, source, entity, features)
        about = _about(function, owner, tags, description)
        finished = _finished(view, about, freshness=duration(freshness), fallback=tuple(fallback))
        return _with_history(finished, schedule, landing, tail)

    return declare


def batch(
    source: EventSource | TableSource,
    entity: Entity,
    *,
    features: Mapping[str, Aggregation],
    schedule: str | int = "1d",
    landing: str | int = "2h",
    freshness: str | int | None = None,
    fallback: Sequence[Step] = (),
    owner: str = "",
    tags: Sequence[str] = (),
    description: str = "",
) -> Callable[[Callable[..., Any]], View]:
    """Declares a view that is computed at each boundary of `schedule`, over the windows that end there.

    `landing`: how long after its boundary a version becomes visible, so that a load has time to finish and training can
    know when it did; `freshness`: age of the version (from its boundary) up to which it counts as fresh; by default
    twice the schedule plus the landing time.
    """

    def declare(function: Callable[..., Any]) -> View:
        view = _aggregating("batch", function, source, entity, features)
        period, lag = duration(schedule), duration(landing)
        for feature in view.features:
            window = feature.aggregation.window if feature.aggregation else None
            if window is not None and period % (SECOND if window.is_lifetime else window.hop):
                raise DefinitionError(
                    f"the hop of {feature.name!r} does not divide the schedule",
                    where=f"view {view.name!r}",
                    remedy="Choose a window whose hop divides the schedule, or give hop=",
                )
        fresh = 2 * period + lag if freshness is None else duration(freshness)
        about = _about(function, owner, tags, description)
        return _finished(view, about, freshness=fresh, fallback=tuple(fallback), schedule=period, landing=lag)

    return declare


def request(
    *,
    inputs: Mapping[str, object],
    features: Mapping[str, object],
    uses: Sequence[View] = (),
    owner: str = "",
    tags: Sequence[str] = (),
    description: str = "",
) -> Callable[[Callable[..., Any]], View]:
    """Declares a view that is computed from the request: NumPy columns in, a mapping of NumPy columns out.

    `inputs`: what the caller sends (timestamps come as int64 microseconds UTC); `uses`: views whose features the
    function also gets, as float64 columns named `view.feature`, NaN where missing.
    """

    def declare(function: Callable[..., Any]) -> View:
        outputs = [as_field(name, annotation) for name, annotation in features.items()]
        for output in outputs:
            if output.dtype.name == "string":
                raise DefinitionError(
                    f"feature {output.name!r} is a string, which no model input can be",
                    where=f"view {function.__name__!r}",
                    remedy="Encode it as a number",
                )
        view = View(
            name=function.__name__,
            lane="request",
            features=tuple(Feature(output.name, output.dtype.name) for output in outputs),
            function=function,
            place=_place(function),
            inputs=tuple(as_field(name, annotation) for name, annotation in inputs.items()),
            uses=tuple(uses),
        )
        return _finished(view, _about(function, owner, tags, description))

    return declare


def _with_history(view: View, schedule: str | int | None, landing: str | int, tail: str | int | None) -> View:
    where = f"view {view.name!r}"
    if schedule is None:
        if tail is not None:
            raise DefinitionError("tail= needs a schedule", where=where, remedy='Add schedule="1d", or leave tail= out')
        return view
    if isinstance(view.source, EventSource) and view.source.changes is not None:
        raise DefinitionError(
            f"a history would not see what is taken back after it landed, and {view.source.name!r} has changes",
            where=where,
            remedy="Leave schedule= out, so that tiles hold the whole window, or declare a batch view",
        )
    period, lag = duration(schedule), duration(landing)
    if period <= 0 or lag < 0:
        raise DefinitionError("a history needs a schedule above 0", where=where, remedy='Write schedule="1d"')
    span = period * (2 - -lag // period) if tail is None else duration(tail)
    if span < period + lag:
        raise DefinitionError(
            f"a tail of {format_duration(span)} is shorter than the schedule and the landing time together",
            where=where,
            remedy=f"Use a tail of at least {format_duration(period + lag)}, so that a landing on time is soon enough",
        )
    known = dataclasses.replace(view, schedule=period, landing=lag, tail=span)
    windows = [(feature.name, window) for feature in view.features for window in feature.windows]
    long = [(name, window) for name, window in windows if known.is_long(window)]
    if not long:
        raise DefinitionError(
            f"no window is longer than the tail of {format_duration(span)}",
            where=where,
            remedy="Give a shorter tail=, or leave schedule= out",
        )
    for name, window in long:
        if not window.is_lifetime and (period % window.hop or span % window.hop):
            longer = "schedule" if period % window.hop else "tail"
            raise DefinitionError(
                f"the hop of {name!r}, {format_duration(window.hop)}, does not divide the {longer}",
                where=where,
                remedy=f"Make the {longer} a multiple of it, or give the window a finer hop=",
            )
    return known


def _aggregating(
    lane: str,
    function: Callable[..., Any],
    source: EventSource | TableSource,
    entity: Entity,
    features: Mapping[str, Aggregation],
) -> View:
    where = f"view {function.__name__!r}"
    sql, columns = compile_transform(function, source, entity, where=where)
    kinds = dict(columns)
    declared = []
    for name, aggregation in features.items():
        if not isinstance(aggregation, Aggregation):
            raise DefinitionError(f"{name!r} is no aggregation", where=where, remedy='Write tl.count(window="60m")')
        for member_name, member in aggregation.members(name):
            _check_columns(member_name, member, kinds, where)
            column_type = kinds[member.column] if member.column else None
            declared.append(Feature(member_name, member.result_type(column_type), member))
    aggregated = (column for feature in declared if feature.aggregation for column in feature.aggregation.columns)
    wanted = tuple(dict.fromkeys((*entity.key_names, source.event_time, *aggregated)))
    sql, reads = pruned(sql, source, wanted, where=where)
    view = View(
        name=function.__name__,
        lane=lane,
        features=tuple(declared),
        function=function,
        place=_place(function),
        source=source,
        entity=entity,
        sql=sql,
        columns=columns,
        reads=reads,
    )
    check_changes(view)
    return view


def _check_columns(name: str, aggregation: Aggregation, kinds: Mapping[str, str], where: str) -> None:
    for inner in aggregation.over:
        _check_columns(name, inner, kinds, where)
        inner.result_type(kinds[inner.column] if inner.column else None)
    for column in aggregation.columns:
        if column not in kinds:
            remedy = f"The transform returns {', '.join(kinds)}"
            raise DefinitionError(f"{name!r} aggregates {column!r}, which is unknown", where=where, remedy=remedy)
    for condition in aggregation.where:
        condition.check(kinds)


def _about(function: Callable[..., Any], owner: str, tags: Sequence[str], description: str) -> About:
    where = f"view {function.__name__!r}"
    return About.of(owner, tags, description, where=where, document=function.__doc__)


def _finished(
    view: View,
    about: About,
    *,
    freshness: int = 0,
    fallback: tuple[Step, ...] = (),
    schedule: int = 0,
    landing: int = 0,
) -> View:
    where = f"view {view.name!r}"
    if not view.features:
        raise DefinitionError("a view needs at least one feature", where=where, remedy="Add features={...}")
    for name in (view.name, *view.feature_names):
        if not name.isidentifier():
            raise DefinitionError(f"{name!r} is not a name", where=where, remedy="Use letters, digits and _")
    if len(set(view.feature_names)) < len(view.feature_names):
        repeated = next(n for n in view.feature_names if view.feature_names.count(n) > 1)
        raise DefinitionError(
            f"two features are called {repeated!r}", where=where, remedy="Rename one, or the family it comes from"
        )
    check_cascade(view.name, view.feature_names, freshness, fallback, view.entity)
    return dataclasses.replace(
        view, about=about, freshness=freshness, fallback=fallback, schedule=schedule, landing=landing
    )


def _place(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"
