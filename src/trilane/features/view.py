"""Feature views: features that share an entity, a source and a freshness, declared by a decorated function.

Law: a view is frozen data. Its `version` is the digest of all that determines its values and of nothing else, so equal
versions may share stored tiles, and a change of a comment, a freshness or a fallback rebuilds nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trilane.clock import duration
from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.entity import Entity
from trilane.features.fallback import LastBatch, Step, check_cascade
from trilane.features.transform import compile_transform
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.types import Field, as_field

if TYPE_CHECKING:
    from trilane.features.plan import FeatureRef

__all__ = ["Feature", "View", "batch", "nearline", "request"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One named value of a view. `kind` is the type's name; `aggregation` is None in a request view."""

    name: str
    kind: str
    aggregation: Aggregation | None = None

    @property
    def default(self) -> float | None:
        """The value where there is none, if the author gave one."""
        return self.aggregation.default if self.aggregation else None

    def spec(self) -> dict[str, object]:
        """The feature as plain facts."""
        aggregation = self.aggregation.spec() if self.aggregation else None
        return {"name": self.name, "type": self.kind, "aggregation": aggregation}


@dataclass(frozen=True, eq=False)
class View:
    """A feature view of any lane. Calling it calls the author's function, so that it can be tested alone."""

    name: str
    lane: str
    features: tuple[Feature, ...]
    function: Callable[..., Any]
    place: str
    freshness: int = 0
    fallback: tuple[Step, ...] = ()
    source: EventSource | TableSource | None = None
    entity: Entity | None = None
    sql: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    schedule: int = 0
    landing: int = 0
    inputs: tuple[Field, ...] = ()
    uses: tuple[View, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __getitem__(self, name: str) -> FeatureRef:
        """One feature of this view, for a model that does not want them all."""
        from trilane.features.plan import FeatureRef

        if name not in self.feature_names:
            raise DefinitionError(
                f"there is no feature {name!r}",
                where=f"view {self.name!r}",
                remedy=f"Choose one of {', '.join(self.feature_names)}",
            )
        return FeatureRef(self, name)

    def __repr__(self) -> str:
        return f"<{self.lane} view {self.name}@{self.version[:8]}>"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features' own names, in order of declaration."""
        return tuple(feature.name for feature in self.features)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The features' names as models, answers and training sets spell them: `view.feature`."""
        return tuple(f"{self.name}.{feature.name}" for feature in self.features)

    @functools.cached_property
    def version(self) -> str:
        """Digest of all that determines the values (64 hex digits)."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    @property
    def space(self) -> str:
        """Where the online store keeps this version's rows."""
        return f"{self.lane}/{self.name}@{self.version[:16]}"

    def boundary(self, instant: int) -> int:
        """Of a batch view: the boundary of the version that answers at `instant`, when loads land as declared."""
        return (instant - self.landing) // self.schedule * self.schedule

    def _identity(self) -> dict[str, object]:
        identity: dict[str, object] = {
            "lane": self.lane,
            "name": self.name,
            "features": [feature.spec() for feature in self.features],
        }
        if self.lane == "request":
            code = _code_of(self.function)
            uses = {view.name: view.version for view in self.uses}
            return {**identity, "code": code, "inputs": [f.spec() for f in self.inputs], "uses": uses}
        assert self.source is not None and self.entity is not None
        return {
            **identity,
            "source": self.source.name,
            "event_time": self.source.event_time,
            "fields": [f.spec() for f in self.source.fields],
            "entity": self.entity.spec(),
            "sql": self.sql,
            "schedule": self.schedule,
            "landing": self.landing,
        }

    def spec(self) -> dict[str, object]:
        """The whole view as plain facts, for `trilane plan` and the registry."""
        return {
            "kind": "view",
            **self._identity(),
            "version": self.version,
            "freshness": self.freshness,
            "fallback": [step.spec() for step in self.fallback],
        }


def nearline(
    source: EventSource,
    entity: Entity,
    *,
    freshness: str | int,
    features: Mapping[str, Aggregation],
    fallback: Sequence[Step] = (),
) -> Callable[[Callable[..., Any]], View]:
    """Declares a streaming view: the decorated function maps events to rows that are aggregated as they come.

    `freshness`: the lag of the lane up to which a value counts as fresh; beyond it, `fallback` decides.
    """

    def declare(function: Callable[..., Any]) -> View:
        view = _aggregating("nearline", function, source, entity, features)
        return _finished(view, freshness=duration(freshness), fallback=tuple(fallback))

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
            if feature.aggregation and period % feature.aggregation.window.hop:
                raise DefinitionError(
                    f"the hop of {feature.name!r} does not divide the schedule",
                    where=f"view {view.name!r}",
                    remedy="Choose a window whose hop divides the schedule, or give hop=",
                )
        fresh = 2 * period + lag if freshness is None else duration(freshness)
        return _finished(view, freshness=fresh, fallback=tuple(fallback), schedule=period, landing=lag)

    return declare


def request(
    *,
    inputs: Mapping[str, object],
    features: Mapping[str, object],
    uses: Sequence[View] = (),
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
        return _finished(view)

    return declare


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
        if aggregation.column is not None and aggregation.column not in kinds:
            remedy = f"The transform returns {', '.join(kinds)}"
            raise DefinitionError(
                f"{name!r} aggregates {aggregation.column!r}, which is unknown", where=where, remedy=remedy
            )
        column_type = kinds[aggregation.column] if aggregation.column else None
        declared.append(Feature(name, aggregation.result_type(column_type), aggregation))
    return View(
        name=function.__name__,
        lane=lane,
        features=tuple(declared),
        function=function,
        place=_place(function),
        source=source,
        entity=entity,
        sql=sql,
        columns=columns,
    )


def _finished(view: View, **more: Any) -> View:
    where = f"view {view.name!r}"
    if not view.features:
        raise DefinitionError("a view needs at least one feature", where=where, remedy="Add features={...}")
    for name in (view.name, *view.feature_names):
        if not name.isidentifier():
            raise DefinitionError(f"{name!r} is not a name", where=where, remedy="Use letters, digits and _")
    check_cascade(view.name, view.feature_names, more.get("freshness", 0), more.get("fallback", ()))
    return View(**{**{f: getattr(view, f) for f in View.__dataclass_fields__}, **more})


def stand_ins(view: View) -> tuple[View, ...]:
    """The batch views that a view's cascade may read."""
    return tuple(step.view for step in view.fallback if isinstance(step, LastBatch))


def _place(function: Callable[..., Any]) -> str:
    code = function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _code_of(function: Callable[..., Any]) -> str:
    """The function's syntax tree without comments, layout and docstring, so that only real changes change it."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        code = function.__code__
        return f"{code.co_code.hex()}:{code.co_consts!r}:{code.co_names!r}"
    node = tree.body[0]
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree, include_attributes=False)
