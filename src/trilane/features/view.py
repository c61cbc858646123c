"""Feature views: features that share an entity, a source and a freshness, as frozen data.

Law: the `version` of a view is the digest of all that determines its values and of nothing else, so equal versions may
share stored tiles, and a change of a comment, a freshness or a fallback rebuilds nothing.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias, TypeVar

from trilane.errors import DefinitionError
from trilane.features.aggregation import Aggregation
from trilane.features.code import code_text
from trilane.features.entity import Entity
from trilane.features.window import Window
from trilane.sources.about import About
from trilane.sources.event import EventSource
from trilane.sources.table import TableSource
from trilane.types import Field

__all__ = [
    "LAYOUT",
    "Constant",
    "Feature",
    "FeatureRef",
    "LastBatch",
    "Prior",
    "Stale",
    "Step",
    "Trait",
    "View",
    "bare",
    "entity_of",
    "stand_ins",
]

_Part = TypeVar("_Part", EventSource | TableSource | None, Entity | None)

# Raised whenever the stored bytes of tiles change, so that no release reads what another wrote as its own.
LAYOUT = 2


@dataclass(frozen=True, slots=True)
class Stale:
    """Serve the lane's own value although it is older than promised, up to `max_age` microseconds."""

    max_age: int

    def spec(self) -> dict[str, object]:
        return {"step": "stale", "max_age": self.max_age}


@dataclass(frozen=True, slots=True)
class LastBatch:
    """Serve the last landed value of a batch view, up to `max_age` microseconds after its boundary (None: any time).

    `status`: "batch", or "prior" if the value is not of the same entity, but of a group that it belongs to.
    """

    view: View
    max_age: int | None
    names: Mapping[str, str] = field(default_factory=dict)
    status: str = "batch"

    def is_within(self, age: int) -> bool:
        """Whether a version of this age may still answer."""
        return self.max_age is None or age <= self.max_age

    def source_of(self, feature: str) -> str:
        """The feature of the batch view that stands in for `feature`."""
        return self.names.get(feature, feature)

    def spec(self) -> dict[str, object]:
        return {"step": self.status, "view": self.view.name, "max_age": self.max_age, "names": dict(self.names)}


@dataclass(frozen=True, slots=True)
class Prior:
    """Serve what is usual: each feature's `statistic` over the rows that the model was trained on."""

    statistic: str

    def spec(self) -> dict[str, object]:
        return {"step": "prior", "statistic": self.statistic}


@dataclass(frozen=True, slots=True)
class Constant:
    """Serve each feature's declared default."""

    def spec(self) -> dict[str, object]:
        return {"step": "default"}


Step: TypeAlias = Stale | LastBatch | Prior | Constant


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

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows that it looks back over; none in a request view."""
        own = self.aggregation
        return () if own is None else tuple(one.window for one in (own.over or (own,)))

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
    reads: tuple[str, ...] = ()
    schedule: int = 0
    landing: int = 0
    tail: int = 0
    inputs: tuple[Field, ...] = ()
    uses: tuple[View, ...] = ()
    about: About = field(default=About())

    def __call__(self, *args: object) -> object:
        return self.function(*args)

    def __getitem__(self, name: str) -> FeatureRef:
        """One feature of this view, for a model that does not want them all."""
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
    def age(self) -> Trait:
        """How old this view's lane is, as a model's input: see `tl.age`."""
        return Trait(self, None, "age_s")

    @functools.cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The features' own names, in order of declaration."""
        return tuple(feature.name for feature in self.features)

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        """The features' names as models, answers and training sets spell them: `view.feature`."""
        return tuple(f"{self.name}.{feature.name}" for feature in self.features)

    @functools.cached_property
    def version(self) -> str:
        """Digest of all that determines the values (64 hex digits)."""
        return hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode()).hexdigest()

    @property
    def has_changes(self) -> bool:
        """Whether rows of its source can be taken back."""
        return isinstance(self.source, EventSource) and self.source.changes is not None

    @property
    def space(self) -> str:
        """Where the online store keeps this version's rows."""
        return f"{self.lane}/{self.name}@{self.version[:16]}"

    @property
    def has_history(self) -> bool:
        """Whether the batch lane answers for a part of a nearline view's long windows."""
        return self.lane == "nearline" and self.schedule > 0

    def is_long(self, window: Window) -> bool:
        """Whether a window of this view is answered with its history."""
        return self.has_history and window.length > self.tail

    @property
    def landed_as(self) -> str:
        """The name of what the batch lane lands for this version: of a batch view, or of a history."""
        return self.space if self.lane == "batch" else f"history/{self.name}@{self.version[:16]}"

    @property
    def is_landed(self) -> bool:
        """Whether the batch lane lands versions for it."""
        return self.schedule > 0

    def boundary(self, instant: int) -> int:
        """Of what is landed: the boundary of the version that answers at `instant`, when loads land as declared."""
        return (instant - self.landing) // self.schedule * self.schedule

    def _identity(self) -> dict[str, object]:
        identity: dict[str, object] = {
            "lane": self.lane,
            "name": self.name,
            "features": [feature.spec() for feature in self.features],
        }
        if self.lane == "request":
            code = code_text(self.function)
            uses = {view.name: view.version for view in self.uses}
            return {**identity, "code": code, "inputs": [f.spec() for f in self.inputs], "uses": uses}
        if self.source is None or self.entity is None:
            raise DefinitionError("a view needs a source and an entity", where=f"view {self.name!r}")
        return {
            **identity,
            "layout": LAYOUT,
            "source": self.source.name,
            "event_time": self.source.event_time,
            # What a value may be, and may be null, says which events are let in, not what is made of them.
            "fields": {f.name: f.dtype.name for f in self.source.fields if f.name in self.reads},
            "rules": [[rule.action, rule.sql] for rule in self.source.rules if rule.action != "warn"],
            "entity": self.entity.spec(),
            "sql": self.sql,
            **({"changes": self.source.spec()["changes"]} if self.has_changes else {}),
            "schedule": self.schedule,
            "landing": self.landing,
            **({"tail": self.tail} if self.tail else {}),
        }

    def spec(self) -> dict[str, object]:
        """The whole view as plain facts, for `trilane plan` and the registry."""
        return {
            "kind": "view",
            **self._identity(),
            "version": self.version,
            "freshness": self.freshness,
            "fallback": [step.spec() for step in self.fallback],
            **self.about.spec(),
        }


@dataclass(frozen=True, slots=True)
class FeatureRef:
    """One feature of a view, chosen by `view["name"]`."""

    view: View
    name: str


@dataclass(frozen=True, slots=True)
class Trait:
    """How old or how good an answer is, as a number that a model can learn from.

    `what`: `age_s` (seconds) or `is_<status>` (1 or 0) of the values of one feature; of the lane if `feature` is None.
    """

    view: View
    feature: str | None
    what: str


def entity_of(view: View) -> Entity:
    """The entity of a view that has one. Raises DefinitionError for a request view."""
    if view.entity is None:
        raise DefinitionError("a request view has no entity", where=f"view {view.name!r}")
    return view.entity


def bare(view: View) -> View:
    """All that computes the values of a view with tiles, but neither the author's code nor the rules of fields: it can
    be sent to a machine that lacks these. Its version is not the view's.
    """
    source, entity = _without_rules(view.source, "fields"), _without_rules(view.entity, "keys")
    return replace(view, function=_elsewhere, fallback=(), uses=(), source=source, entity=entity)


def _without_rules(part: _Part, name: str) -> _Part:
    if part is None:
        return part
    twin = copy.copy(part)
    vars(twin).clear()  # of what was derived from the rules and kept, too
    vars(twin).update({f.name: getattr(part, f.name) for f in fields(part)})
    vars(twin)[name] = tuple(replace(f, annotation=None) for f in getattr(part, name))
    if "rules" in vars(twin):
        vars(twin)["rules"] = ()  # whose conditions are the author's code
    return twin


def _elsewhere(*_: object) -> object:
    raise DefinitionError("the author's function is not here", remedy="Call it where it was defined")


def stand_ins(view: View) -> tuple[View, ...]:
    """The batch views that a view's cascade may read."""
    return tuple(step.view for step in view.fallback if isinstance(step, LastBatch))
