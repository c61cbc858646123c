"""Each branch of the tree says who acts, by code, status and exit code; each error says what, where and the remedy."""

from __future__ import annotations

import dataclasses
import pickle

import msgspec
import pytest

from trilane import errors
from trilane.errors import DefinitionError, TrilaneError

BRANCHES = {name: getattr(errors, name) for name in errors.__all__ if name != "TrilaneError"}


def test_codes_and_exit_codes_are_unique_and_statuses_are_those_of_the_design() -> None:
    assert len({kind.code for kind in BRANCHES.values()}) == len(BRANCHES)
    assert len({kind.exit_code for kind in BRANCHES.values()}) == len(BRANCHES)
    assert all(kind.exit_code > 1 for kind in BRANCHES.values())
    assert {name: kind.http_status for name, kind in BRANCHES.items()} == {
        "DefinitionError": 422,
        "ContractError": 422,
        "SetupError": 500,
        "UnavailableError": 503,
        "ConflictError": 409,
        "ModelError": 500,
        "WorkflowError": 500,
    }
    assert [name for name, kind in BRANCHES.items() if kind.retryable] == ["UnavailableError"]


@pytest.mark.parametrize("kind", BRANCHES.values())
def test_an_error_survives_pickling_with_all_its_facts(kind: type[TrilaneError]) -> None:
    error = kind("it broke", where="$.x", remedy="Mend it", path="p", numbers=[1, 2])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.what, again.where, again.remedy, again.facts) == (error.what, error.where, error.remedy, error.facts)
    assert str(again) == str(error)


@pytest.mark.parametrize("kind", BRANCHES.values())
def test_the_payload_is_json_and_leaves_out_what_is_not(kind: type[TrilaneError]) -> None:
    payload = kind("it broke", where="w", remedy="r", good=1.5, strange=object()).as_payload()
    assert msgspec.json.decode(msgspec.json.encode(payload)) == payload
    assert (payload["code"], payload["what"], payload["where"], payload["remedy"]) == (kind.code, "it broke", "w", "r")
    assert payload["good"] == 1.5
    assert "strange" not in payload


def test_the_text_says_where_what_and_remedy_as_far_as_they_are_known() -> None:
    assert str(TrilaneError("a")) == "a"
    assert str(TrilaneError("a", where="b")) == "b: a"
    assert str(TrilaneError("a", where="b", remedy="c")) == "b: a. c"


def test_a_definition_error_names_the_authors_line() -> None:
    error = DefinitionError("wrong")
    assert str(error.facts["file"]).startswith(f"{__file__}:")
    assert str(error).startswith(f"{__file__}:")
    assert DefinitionError("wrong", file="elsewhere.py:3").facts["file"] == "elsewhere.py:3"


def test_the_authors_line_is_found_through_a_dataclass() -> None:
    @dataclasses.dataclass
    class Strict:
        x: int

        def __post_init__(self) -> None:
            raise DefinitionError("never")

    with pytest.raises(DefinitionError) as refused:
        Strict(1)
    assert str(refused.value.facts["file"]).startswith(__file__)
