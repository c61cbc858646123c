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

from trilane.constraint import Check
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
    """A named, typed place in a schema.

    `annotation` is what msgspec decodes and checks; `rules` the constraints by name, and `instants` those of them, in
    microseconds, that msgspec cannot check.
    """

    name: str
    dtype: DataType
    nullable: bool
    annotation: object
    rules: tuple[tuple[str, Any], ...] = ()
    instants: tuple[tuple[str, int], ...] = ()

    def spec(self) -> dict[str, object]:
        """The field as plain data; two fields with equal specs promise the same."""
        rules = {name: list(value) if isinstance(value, tuple) else value for name, value in self.rules}
        return {"name": self.name, "type": self.dtype.name, "nullable": self.nullable, "rules": rules}


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
            return _field(name, meta, nullable, bare)
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


def _field(name: str, dtype: DataType, nullable: bool, annotation: object) -> Field:
    """The field of an annotation, its constraints in one Meta, for msgspec refuses a bound that is given twice."""
    own = {id(part) for alias in _ALIASES.values() for part in _metadata(alias)}
    parts = _metadata(annotation)
    checks = [part for part in parts if isinstance(part, Check)]
    for one in checks:
        one.fit(dtype.name, where=name)
    metas = [_meta_rules(m) for p in parts if (m := p.meta() if isinstance(p, Check) else p) and _is_meta(m)]
    declared = [dict(p.rules) if isinstance(p, Check) else _meta_rules(p) for p in parts if id(p) not in own]
    rules, whole = _merged(declared), _merged(metas)
    base = typing.get_args(annotation)[0]
    choices = next((one.choices for one in reversed(checks) if one.choices is not None), None)
    if choices is not None:
        base, whole = choices, {}
    meta = (msgspec.Meta(**whole),) if whole else ()
    instants = tuple(dict(bound for one in checks for bound in one.instants).items())
    full = Annotated[(base, dtype, *meta)]  # type: ignore[valid-type]
    return Field(name, dtype, nullable, full, tuple(sorted(rules.items())), instants)


def _is_meta(part: object) -> bool:
    return isinstance(part, msgspec.Meta)


def _meta_rules(part: object) -> dict[str, Any]:
    return {name: value for name in _RULES if (value := getattr(part, name, None)) is not None}


def _merged(given: list[dict[str, Any]]) -> dict[str, Any]:
    """All constraints; of two on one side, the later."""
    rules: dict[str, Any] = {}
    for one in given:
        for name, other in (("gt", "ge"), ("ge", "gt"), ("lt", "le"), ("le", "lt")):
            if name in one:
                rules.pop(other, None)
        rules.update(one)
    return rules


def _metadata(annotation: object) -> tuple[object, ...]:
    return tuple(getattr(annotation, "__metadata__", ()))


def _without_none(annotation: object) -> tuple[object, bool]:
    if typing.get_origin(annotation) in (Union, pytypes.UnionType):
        rest = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(rest) == 1 and len(typing.get_args(annotation)) == 2:
            return rest[0], True
    return annotation, False
