"""The value types that features, keys and payloads may have.

The five names are plain annotations, so that a schema is any annotated class:

>>> class Departure:
...     flight_id: String
...     departed_at: Timestamp
...     dep_delay: Float64 | None

Instants are UTC, in microseconds since 1970 wherever they are integers.
"""

from __future__ import annotations

import datetime as dt
import types as pytypes
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union

import msgspec

from trilane.errors import DefinitionError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Bool",
    "DataType",
    "Field",
    "Float64",
    "Int64",
    "String",
    "Timestamp",
    "arrow_type",
    "as_field",
    "fields_of",
]


@dataclass(frozen=True, slots=True)
class DataType:
    """One of the five value types, by its name in Arrow's words.

    `python` is the class a decoded JSON value has; `numpy` the dtype of a column of them (strings are objects).
    """

    name: str
    python: type
    numpy: str


_RULES = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")

_BOOL = DataType("bool", bool, "bool")
_INT64 = DataType("int64", int, "int64")
_FLOAT64 = DataType("float64", float, "float64")
_STRING = DataType("string", str, "object")
_TIMESTAMP = DataType("timestamp", dt.datetime, "int64")

Bool = Annotated[bool, _BOOL]
Int64 = Annotated[int, _INT64, msgspec.Meta(ge=-(2**63) + 1, le=2**63 - 1)]
Float64 = Annotated[float, _FLOAT64]
String = Annotated[str, _STRING]
Timestamp = Annotated[dt.datetime, _TIMESTAMP, msgspec.Meta(tz=True)]

_ALIASES: dict[object, object] = {bool: Bool, int: Int64, float: Float64, str: String, dt.datetime: Timestamp}


@dataclass(frozen=True, slots=True)
class Field:
    """A named, typed place in a schema. `annotation` is what msgspec decodes and checks."""

    name: str
    dtype: DataType
    nullable: bool
    annotation: object

    def spec(self) -> dict[str, object]:
        """The field as plain data; two fields with equal specs promise the same."""
        metas = [repr(m) for m in getattr(self.annotation, "__metadata__", ()) if isinstance(m, msgspec.Meta)]
        return {"name": self.name, "type": self.dtype.name, "nullable": self.nullable, "rules": sorted(metas)}


def as_field(name: str, annotation: object) -> Field:
    """Reads `annotation` (`tl.Float64`, `float`, `tl.String | None`, `Annotated[tl.Int64, msgspec.Meta(ge=0)]`).

    Raises DefinitionError for any other type.
    """
    bare, nullable = _without_none(annotation)
    bare = next((full for short, full in _ALIASES.items() if short is bare), bare)
    if typing.get_origin(bare) is Annotated and not any(isinstance(m, DataType) for m in _metadata(bare)):
        alias = _ALIASES.get(typing.get_args(bare)[0])
        if alias is not None:
            bare = Annotated[(alias, *_metadata(bare))]
    for meta in _metadata(bare):
        if isinstance(meta, DataType):
            return Field(name, meta, nullable, _with_one_rule(bare))
    raise DefinitionError(
        f"{annotation!r} is not a value type",
        where=name,
        remedy="Use tl.Bool, tl.Int64, tl.Float64, tl.String or tl.Timestamp, with `| None` where null is allowed",
    )


def arrow_type(field: Field) -> pa.DataType:
    """The Arrow type of a field's column."""
    import pyarrow as pa

    if field.dtype.name == "timestamp":
        return pa.timestamp("us", "UTC")
    return pa.type_for_alias(field.dtype.name)


def fields_of(schema: type | Mapping[str, object]) -> tuple[Field, ...]:
    """The fields of an annotated class or of a mapping from names to types, in order of declaration."""
    if isinstance(schema, Mapping):
        return tuple(as_field(name, annotation) for name, annotation in schema.items())
    try:
        hints = typing.get_type_hints(schema, include_extras=True)
    except NameError as error:
        raise DefinitionError(str(error), where=schema.__name__, remedy="Import the name the annotation uses") from None
    if not hints:
        raise DefinitionError(
            "a schema needs at least one annotated field",
            where=schema.__name__,
            remedy="Write `name: tl.String`",
        )
    for name in hints:
        if name.startswith("_"):
            raise DefinitionError(
                f"the field {name!r} begins with _, as Trilane's own columns do",
                where=schema.__name__,
                remedy="Rename it",
            )
    return tuple(as_field(name, hint) for name, hint in hints.items())


def _with_one_rule(annotation: object) -> object:
    """The annotation with its rules in one Meta, for msgspec refuses a bound that is given twice; the inner is ours."""
    metas = [part for part in _metadata(annotation) if isinstance(part, msgspec.Meta)]
    if len(metas) < 2:
        return annotation
    rules: dict[str, Any] = {}
    for meta in metas:
        given = {name: value for name in _RULES if (value := getattr(meta, name)) is not None}
        for one, other in (("gt", "ge"), ("ge", "gt"), ("lt", "le"), ("le", "lt")):
            if one in given:
                rules.pop(other, None)
        rules.update(given)
    others = [part for part in _metadata(annotation) if not isinstance(part, msgspec.Meta)]
    return Annotated[(typing.get_args(annotation)[0], *others, msgspec.Meta(**rules))]


def _metadata(annotation: object) -> tuple[object, ...]:
    return tuple(getattr(annotation, "__metadata__", ()))


def _without_none(annotation: object) -> tuple[object, bool]:
    if typing.get_origin(annotation) in (Union, pytypes.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(rest) == 1 and len(typing.get_args(annotation)) == 2:
            return rest[0], True
    return annotation, False
