"""The logical plan of a set of features: which views, in which order, from which inputs, into which columns.

Law: the columns stand in the order in which the model names its features; a view comes after the views it uses.
Serving and training both run this plan, each over its own stores.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from trilane.errors import DefinitionError
from trilane.features.entity import Entity
from trilane.features.view import FeatureRef, Trait, View, stand_ins
from trilane.types import Field

__all__ = ["Column", "FeaturePlan", "Selection"]


Selection: TypeAlias = View | FeatureRef | Trait


class Column(NamedTuple):
    """A feature by its position in its view, or what (`trait`) is told of it; of the lane if the position is None."""

    view: View
    position: int | None
    trait: str = ""

    @property
    def name(self) -> str:
        """`view.feature`, `view.feature.trait` or `view.trait`."""
        own = self.view.name if self.position is None else self.view.output_names[self.position]
        return f"{own}.{self.trait}" if self.trait else own


@dataclass(frozen=True)
class FeaturePlan:
    """`views` in order of computation, `inputs` a caller must send, `columns` in the model's order.

    Readings and joins work on all features of all views, in that order, and after these the traits.
    """

    views: tuple[View, ...]
    inputs: tuple[Field, ...]
    columns: tuple[Column, ...]

    @staticmethod
    def of(selections: Sequence[Selection], *, where: str) -> FeaturePlan:
        """Resolves `selections`. Raises DefinitionError on a clash of names or types."""
        columns: list[Column] = []
        for selection in selections:
            if isinstance(selection, FeatureRef):
                columns.append(Column(selection.view, selection.view.feature_names.index(selection.name)))
            elif isinstance(selection, View):
                columns.extend(Column(selection, position) for position in range(len(selection.features)))
            elif isinstance(selection, Trait):
                view, feature = selection.view, selection.feature
                position = None if feature is None else view.feature_names.index(feature)
                columns.append(Column(view, position, selection.what))
            else:
                raise DefinitionError(
                    f"{selection!r} is no feature view", where=where, remedy="List views, or view['feature']"
                )
        if not columns:
            raise DefinitionError("there is no feature", where=where, remedy="Add features=[...]")
        if len(set(columns)) != len(columns):
            raise DefinitionError("a feature is listed twice", where=where, remedy="List each feature once")
        views: dict[str, View] = {}
        for view, _, _ in columns:
            _visit(view, views, where)
        names = [column.name for column in columns]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DefinitionError(f"two columns are called {twice!r}", where=where, remedy="Rename the feature")
        return FeaturePlan(tuple(views.values()), _inputs(views.values(), where), tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, `view.feature`."""
        return tuple(column.name for column in self.columns)

    @property
    def traits(self) -> tuple[Column, ...]:
        """The columns that are no features, but tell of their age or status."""
        return tuple(column for column in self.columns if column.trait)

    @property
    def starts(self) -> dict[str, int]:
        """Where each view's features start among those of all views."""
        ends = itertools.accumulate((len(view.features) for view in self.views), initial=0)
        return {view.name: start for view, start in zip(self.views, ends, strict=False)}

    @property
    def width(self) -> int:
        """How many features all views have, and traits there are."""
        return sum(len(view.features) for view in self.views) + len(self.traits)

    @property
    def places(self) -> list[int]:
        """Where each column is found, among the features of all views and then the traits."""
        starts, told = self.starts, itertools.count(self.width - len(self.traits))
        return [next(told) if c.trait or c.position is None else starts[c.view.name] + c.position for c in self.columns]

    @property
    def versions(self) -> dict[str, str]:
        """The version of each view whose values reach the columns."""
        return {view.name: view.version for view in self.views}

    @property
    def stand_ins(self) -> tuple[View, ...]:
        """The batch views that only cascades read."""
        named = {view.name for view in self.views}
        extra = {v.name: v for view in self.views for v in stand_ins(view) if v.name not in named}
        return tuple(extra.values())

    @property
    def entities(self) -> tuple[Entity, ...]:
        """The entities whose keys the inputs hold."""
        return tuple({v.entity.name: v.entity for v in self.views if v.entity is not None}.values())


def _visit(view: View, views: dict[str, View], where: str) -> None:
    if view.name in views:
        if views[view.name] is not view:
            raise DefinitionError(
                f"two views are called {view.name!r}", where=where, remedy=f"Rename the one at {view.place}"
            )
        return
    for used in view.uses:
        _visit(used, views, where)
    views[view.name] = view


def _inputs(views: Iterable[View], where: str) -> tuple[Field, ...]:
    fields: dict[str, Field] = {}
    for view in views:
        keys = [key for v in (view, *stand_ins(view)) if v.entity is not None for key in v.entity.keys]
        for field in (*keys, *view.inputs):
            known = fields.setdefault(field.name, field)
            if known.dtype != field.dtype:
                raise DefinitionError(
                    f"input {field.name!r} is a {known.dtype.name} here and a {field.dtype.name} in {view.name!r}",
                    where=where,
                    remedy="Give the two inputs one type or two names",
                )
            if known.nullable and not field.nullable:
                fields[field.name] = field  # the stricter promise holds
    return tuple(fields.values())
