"""A question after one value, a feature or what is told of it (a trait), at an instant, from texts as a person types.

Law: inputs keep the contract that a feature read checks, and are refused with the same paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from trilane.apps.definitions import Definitions
from trilane.apps.selection import selected_plan
from trilane.contract import Contract
from trilane.errors import ContractError, DefinitionError
from trilane.features.entity import encode_key
from trilane.features.plan import FeaturePlan
from trilane.features.view import Feature, View, entity_of
from trilane.features.window import Window
from trilane.serving.protocol.rows import RowFormat
from trilane.types import Field, arrow_type

__all__ = ["AT", "Question"]

AT = "_asked_at"


@dataclass(frozen=True, slots=True)
class Question:
    """The first column of `plan`: the feature number `column` of `view`, or a trait of that one, which stands second
    in the plan, or (`column` is None) of the view itself; for the checked `row`, at instant `at`.
    """

    plan: FeaturePlan
    view: View
    column: int | None
    row: msgspec.Struct
    at: int

    @staticmethod
    def of(definitions: Definitions, name: str, keys: Sequence[str], inputs: Mapping[str, str], *, at: int) -> Question:
        """Reads `view.feature` or a trait, the values of its entity's keys in order, and the other inputs by name."""
        plan = selected_plan(definitions, name)
        view, column, trait = plan.columns[0]
        if len(plan.columns) != 1:
            remedy = f"Name one, such as {view.output_names[0]}"
            raise DefinitionError("this is more than one feature", where=name, remedy=remedy, file="")
        if trait and column is not None:  # what it tells of, in the same read
            plan = selected_plan(definitions, f"{name},{view.output_names[column]}")
        entities = plan.entities if view.entity is None else (view.entity,)
        names = [*dict.fromkeys(key for entity in entities for key in entity.key_names)]
        if len(keys) > len(names):
            remedy = f"Its keys are {', '.join(names) or 'none'}; give other inputs by --input name=value"
            raise DefinitionError(f"{len(keys)} keys", where=name, remedy=remedy, file="")
        texts = {**dict(zip(names, keys, strict=False)), **inputs}
        fields = {field.name: field for field in plan.inputs}
        for one in texts:
            if one not in fields:
                remedy = f"The inputs are {', '.join(fields)}"
                raise DefinitionError(f"there is no input {one!r}", where=name, remedy=remedy, file="")
        body = msgspec.json.encode({one: _value(fields[one], text) for one, text in texts.items()})
        [row] = RowFormat(Contract(name, plan.inputs)).decode(body)
        return Question(plan, view, column, row, at)

    @property
    def name(self) -> str:
        """`view.feature`, `view.feature.trait` or `view.trait`."""
        return self.plan.columns[0].name

    @property
    def is_trait(self) -> bool:
        """Whether it is no feature, but tells how old or how good one is."""
        return bool(self.plan.columns[0].trait)

    @property
    def feature(self) -> Feature | None:
        """The feature that it is about, if it is about one."""
        return None if self.column is None else self.view.features[self.column]

    @property
    def windows(self) -> Sequence[Window]:
        """The windows of that feature."""
        return () if self.feature is None else self.feature.windows

    @property
    def inputs(self) -> dict[str, object]:
        """The inputs by name."""
        return {field.name: getattr(self.row, field.name) for field in self.plan.inputs}

    @property
    def key(self) -> dict[str, object]:
        """The key of the view's entity, by name."""
        return {name: getattr(self.row, name) for name in entity_of(self.view).key_names}

    @property
    def stored_key(self) -> bytes:
        """The key as the online store knows it; empty if a part of it is null."""
        return encode_key(tuple(self.key.values())) or b""

    def asks(self) -> pa.Table:
        """The question as a table that a training set could be built from."""
        columns = {f.name: pa.array([getattr(self.row, f.name)], arrow_type(f)) for f in self.plan.inputs}
        return pa.table({**columns, AT: pa.array([self.at], pa.timestamp("us", "UTC"))})


def _value(field: Field, text: str) -> object:
    kind = field.annotation | None if field.nullable else field.annotation  # type: ignore[operator]
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).partition(" - at ")[0]
        raise ContractError(reason, where=f"input {field.name!r}", remedy=f"Give a {field.dtype.name}") from None
