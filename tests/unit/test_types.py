"""The five value types, as they may be written."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Optional

import msgspec
import pyarrow as pa
import pytest

import trilane as tl
from trilane.errors import DefinitionError
from trilane.types import arrow_type, as_field, fields_of


@pytest.mark.parametrize(
    ("annotation", "name", "nullable"),
    [
        (tl.Bool, "bool", False),
        (bool, "bool", False),
        (tl.Int64, "int64", False),
        (int, "int64", False),
        (tl.Float64, "float64", False),
        (float, "float64", False),
        (tl.String, "string", False),
        (str | None, "string", True),
        (tl.Timestamp, "timestamp", False),
        (dt.datetime, "timestamp", False),
        (Optional[tl.Int64], "int64", True),  # noqa: UP045 - authors write it so
        (tl.Timestamp | None, "timestamp", True),
        (None | tl.Float64, "float64", True),
        (Annotated[tl.Int64, msgspec.Meta(ge=0)], "int64", False),
        (Annotated[int, msgspec.Meta(ge=0)], "int64", False),
    ],
)
def test_a_type_is_one_of_five_however_it_is_written(annotation: object, name: str, nullable: bool) -> None:
    field = as_field("x", annotation)
    assert (field.dtype.name, field.nullable) == (name, nullable)
    assert arrow_type(field) == (pa.timestamp("us", "UTC") if name == "timestamp" else pa.type_for_alias(name))


@pytest.mark.parametrize(
    "annotation", [bytes, list[int], dict, "float", 3, None, int | str, int | str | None, object(), [], {"x": 1}]
)
def test_any_other_type_is_refused_with_the_five(annotation: object) -> None:
    with pytest.raises(DefinitionError, match="is not a value type") as refused:
        as_field("x", annotation)
    assert refused.value.where == "x"
    assert "tl.Timestamp" in refused.value.remedy
    assert __file__ in str(refused.value.facts["file"])


def test_rules_are_part_of_what_a_field_promises() -> None:
    plain, ruled = as_field("x", tl.Int64), as_field("x", Annotated[tl.Int64, msgspec.Meta(ge=0)])
    assert plain.spec() != ruled.spec()
    assert as_field("x", int).spec() == plain.spec()
    assert as_field("x", tl.Int64 | None).spec() == {**plain.spec(), "nullable": True}


def test_integers_are_those_that_64_bits_hold() -> None:
    field = as_field("x", tl.Int64)
    assert msgspec.convert(2**63 - 1, field.annotation) == 2**63 - 1
    for number in (2**63, -(2**63)):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(number, field.annotation)


class Departure:
    flight: tl.String
    at: tl.Timestamp
    delay: tl.Float64 | None


class Lost:
    x: Nowhere  # type: ignore[name-defined]  # noqa: F821 - the author's mistake


class Empty:
    pass


def test_a_schema_is_a_class_or_a_mapping_in_order_of_declaration() -> None:
    from_class = fields_of(Departure)
    assert [field.name for field in from_class] == ["flight", "at", "delay"]
    same = fields_of({"flight": tl.String, "at": tl.Timestamp, "delay": tl.Float64 | None})
    assert [field.spec() for field in same] == [field.spec() for field in from_class]


@pytest.mark.parametrize(("schema", "said"), [(Lost, "'Nowhere' is not defined"), (Empty, "at least one annotated")])
def test_a_schema_that_cannot_be_read_is_refused(schema: type, said: str) -> None:
    with pytest.raises(DefinitionError, match=said) as refused:
        fields_of(schema)
    assert refused.value.where == schema.__name__
    assert refused.value.remedy
