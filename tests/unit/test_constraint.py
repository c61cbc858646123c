"""A constraint lets in what it names and nothing else, and says where a value breaks it."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trilane as tl
from trilane.clock import format_instant, instant
from trilane.constraint import narrowed
from trilane.contract import Contract
from trilane.errors import ContractError, DefinitionError
from trilane.serving.protocol.rows import RowFormat
from trilane.types import as_field, fields_of


def _passes(annotation: object, value: object) -> bool:
    contract = Contract("fact", (as_field("x", annotation),))
    try:
        contract.decode(json.dumps({"x": value}).encode())
    except ContractError as error:
        return error.where != "$.x"
    return True


BOUNDS = {"ge": lambda v, b: v >= b, "gt": lambda v, b: v > b, "le": lambda v, b: v <= b, "lt": lambda v, b: v < b}
sides = st.tuples(st.sampled_from(["ge", "gt", None]), st.sampled_from(["le", "lt", None])).filter(any)


@given(sides=sides, low=st.integers(-9, 9), width=st.integers(0, 9), value=st.integers(-12, 24), kind=st.integers(0, 2))
def test_ranges_are_what_their_comparisons_say(
    sides: tuple[str | None, str | None], low: int, width: int, value: int, kind: int
) -> None:
    numbers: dict[str, Any] = {name: bound for name, bound in zip(sides, (low, low + width), strict=True) if name}
    wanted = all(BOUNDS[name](value, bound) for name, bound in numbers.items())
    texts: dict[str, Any] = {name: format_instant(bound * 10**6) for name, bound in numbers.items()}
    annotation: object
    annotation, shown = [
        (Annotated[tl.Int64, tl.check(**numbers)], value),
        (Annotated[tl.Float64, tl.check(**numbers)], float(value)),
        (Annotated[tl.Timestamp, tl.check(**texts)], format_instant(value * 10**6)),
    ][kind]
    assert _passes(annotation, shown) == wanted


@given(st.text("abc-é1", max_size=6), st.integers(0, 3), st.integers(3, 6), st.sampled_from(["^a", "b+c", "1$", "é"]))
def test_lengths_patterns_and_choices_are_what_they_say(text: str, low: int, high: int, pattern: str) -> None:
    ruled = Annotated[tl.String, tl.check(min_length=low, max_length=high, pattern=pattern)]
    assert _passes(ruled, text) == (low <= len(text) <= high and re.search(pattern, text) is not None)
    assert _passes(Annotated[tl.String, tl.check(one_of=("a", "é", ""))], text) == (text in ("a", "é", ""))
    assert _passes(Annotated[tl.Int64, tl.check(one_of=(1, 3))], len(text)) == (len(text) in (1, 3))


def test_null_is_the_business_of_nullability() -> None:
    for annotation in (
        Annotated[tl.Float64, tl.check(ge=0)],
        Annotated[tl.String, tl.check(one_of=("a",))],
        Annotated[tl.Timestamp, tl.check(ge="2020-01-01T00:00:00Z")],
    ):
        assert _passes(annotation | None, None)
        assert not _passes(annotation, None)


def test_the_rows_of_a_request_keep_the_constraints_too_and_the_path_says_which() -> None:
    fields = fields_of(
        {"n": Annotated[int, tl.check(ge=0)], "at": Annotated[tl.Timestamp, tl.check(lt="2027-01-01T00:00:00Z")]}
    )
    rows = RowFormat(Contract("request", fields))
    good = {"n": 1, "at": "2026-01-01T00:00:00Z"}
    assert len(rows.decode(json.dumps({"rows": [good, good]}).encode())) == 2
    for wrong, path in (({"n": -1}, "$.rows[1].n"), ({"at": "2027-01-01T00:00:00Z"}, "$.rows[1].at")):
        with pytest.raises(ContractError, match="Expected") as refused:
            rows.decode(json.dumps({"rows": [good, {**good, **wrong}]}).encode())
        assert refused.value.where == path


def test_constraints_that_are_given_twice_are_merged_and_the_outer_decides() -> None:
    amount = Annotated[tl.Float64, tl.check(ge=0, le=10)]
    assert as_field("x", Annotated[amount, tl.check(gt=5)]).spec()["rules"] == {"gt": 5, "le": 10}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (tl.check, "needs a constraint"),
        (lambda: tl.check(ge=0, gt=0), "bounded twice"),
        (lambda: tl.check(pattern="("), "pattern"),
        (lambda: as_field("x", Annotated[tl.Float64, tl.check(pattern="a")]), "does not fit a float64"),
        (lambda: as_field("x", Annotated[tl.Bool, tl.check(ge=0)]), "does not fit a bool"),
        (lambda: as_field("x", Annotated[tl.String, tl.check(one_of=(1,))]), "are no values of a string"),
        (lambda: as_field("x", Annotated[tl.Int64, tl.check(one_of=())]), "are no values of a int64"),
        (lambda: as_field("x", Annotated[tl.Int64, tl.check(ge=2, le=1)]), "no value lies in"),
        (lambda: as_field("x", Annotated[tl.String, tl.check(min_length=2, max_length=1)]), "no value has the length"),
        (lambda: as_field("x", Annotated[tl.Timestamp, tl.check(ge="2026-01-01")]), "has no time zone"),
        (lambda: as_field("x", Annotated[tl.Timestamp, tl.check(ge=5)]), "RFC 3339"),
        (lambda: as_field("x", Annotated[tl.Int64, tl.check(ge="5")]), "is a text"),
    ],
)
def test_a_constraint_that_cannot_hold_is_refused_where_it_is_written(make: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


RULES = st.fixed_dictionaries(
    {},
    optional={
        "ge": st.integers(-3, 3),
        "le": st.integers(-3, 3),
        "one_of": st.lists(st.integers(-3, 3), min_size=1, max_size=4),
        "multiple_of": st.sampled_from([1, 2, 3]),
    },
)


@given(RULES, RULES)
def test_what_narrows_no_constraint_refuses_nothing_that_was_let_in(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    def allowed(rules: dict[str, Any]) -> set[int]:
        return {
            v
            for v in range(-6, 7)
            if v >= rules.get("ge", v)
            and v <= rules.get("le", v)
            and v in rules.get("one_of", [v])
            and v % rules.get("multiple_of", 1) == 0
        }

    if not narrowed(before, after):
        assert allowed(before) <= allowed(after)


def test_an_instant_is_told_as_it_was_written() -> None:
    field = as_field("at", Annotated[tl.Timestamp, tl.check(ge="2026-01-01T00:00:00Z")])
    assert field.instants == (("ge", instant("2026-01-01T00:00:00Z")),)
