"""The logical plan of a set of features: which views, in which order, from which inputs, into which columns.

Law: the columns stand in the order in which the model names its features; a view comes after the views it uses.
Serving and training both run this plan, each over its own stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trilane.errors import DefinitionError
from trilane.features.entity import Entity
from trilane.features.view import FeatureRef, View, stand_ins
from trilane.types import Field

__all__ = ["FeaturePlan", "Selection"]


Selection: TypeAlias = View | FeatureRef


@dataclass(frozen=True)
class FeaturePlan:
    """`views` in order of computation, `inputs` a caller must send, `columns` as (view, position in the view)."""

    views: tuple[View, ...]
    inputs: tuple[Field, ...]
    columns: tuple[tuple[View, int], ...]

    @staticmethod
    def of(selections: Sequence[Selection], *, where: str) -> FeaturePlan:
        """Resolves `selections`. Raises DefinitionError on a clash of names or types."""
        columns: list[tuple[View, int]] = []
        for selection in selections:
            if isinstance(selection, FeatureRef):
                columns.append((selection.view, selection.view.feature_names.index(selection.name)))
            elif isinstance(selection, View):
                columns.extend((selection, position) for position in range(len(selection.features)))
            else:
                raise DefinitionError(
                    f"{selection!r} is no feature view", where=where, remedy="List views, or view['feature']"
                )
        if not columns:
            raise DefinitionError("there is no feature", where=where, remedy="Add features=[...]")
        if len(set(columns)) != len(columns):
            raise DefinitionError("a feature is listed twice", where=where, remedy="List each feature once")
        views: dict[str, View] = {}
        for view, _ in columns:
            _visit(view, views, where)
        return FeaturePlan(tuple(views.values()), _inputs(views.values(), where), tuple(columns))

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, `view.feature`."""
        return tuple(view.output_names[position] for view, position in self.columns)

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
