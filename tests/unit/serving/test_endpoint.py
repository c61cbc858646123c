"""What an endpoint and its ladder may be declared as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import trilane as tl
from trilane.errors import DefinitionError


@tl.request(inputs={"rows": tl.Float64}, features={"f": tl.Float64})
def clash(request: Any) -> Any:
    return {"f": request["rows"]}


@tl.request(inputs={"x": tl.Float64}, features={"f": tl.Float64})
def plain(request: Any) -> Any:
    return {"f": request["x"]}


def _model(view: tl.View) -> tl.Model:
    spine = tl.TableSource(
        "asks",
        schema={"x": tl.Float64, "rows": tl.Float64, "at": tl.Timestamp, "y": tl.Bool},
        path="x.parquet",
        event_time="at",
    )
    return tl.Model("m", features=[view], spine=spine, label="y", train=lambda rows: rows)


MODEL = _model(plain)


@pytest.mark.parametrize(
    ("declare", "what", "remedy"),
    [
        (lambda: tl.Endpoint("a-b", model=MODEL, deadline="1s"), "'a-b' is not a name", "letters"),
        (lambda: tl.Endpoint("e", model=MODEL, deadline="0s"), "the deadline is not positive", "50ms"),
        (lambda: tl.Endpoint("e", model=MODEL, deadline="soon"), "'soon' is not a duration", "50ms"),
        (
            lambda: tl.Endpoint("e", model=MODEL, deadline="1s", threshold=float("nan")),
            "nan is no threshold",
            "finite",
        ),
        (lambda: tl.Endpoint("e", model=_model(clash), deadline="1s"), "an input is called 'rows'", "Rename"),
        (lambda: tl.constant(float("inf")), "inf is no score", "finite"),
    ],
)
def test_what_cannot_be_declared_is_refused_with_file_cause_and_remedy(
    declare: Callable[[], object], what: str, remedy: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        declare()
    assert what in refused.value.what
    assert remedy in refused.value.remedy
    assert __file__ in str(refused.value.facts["file"])


def test_a_contract_asks_for_what_the_features_need() -> None:
    endpoint = tl.Endpoint("e", model=MODEL, deadline="20ms", fallback=[tl.constant(1)], threshold=0.5)
    assert [field.name for field in endpoint.contract.fields] == ["x"]
    assert endpoint.spec() == {
        "kind": "endpoint",
        "name": "e",
        "model": "m",
        "deadline": 20_000,
        "fallback": [{"step": "constant", "score": 1.0}],
        "threshold": 0.5,
    }


def test_two_objectives_of_the_same_are_refused_and_one_belongs_to_what_is_declared() -> None:
    twice = [tl.objective("fresh", at_least=share) for share in (0.9, 0.99)]
    with pytest.raises(DefinitionError, match="of the same"):
        tl.Endpoint("e", model=MODEL, deadline="1s", objectives=twice)
    found = tl.Endpoint("e", model=MODEL, deadline="1s", objectives=twice[:1])
    assert found.spec()["objectives"] == [{"what": "fresh", "budget": 0.1, "over": 2_592_000_000_000, "within": None}]


def test_an_objective_of_a_rung_that_the_ladder_lacks_is_refused() -> None:
    promised = [tl.objective("constant", at_most=0.1), tl.objective("stale", at_most=0.1)]
    with pytest.raises(DefinitionError, match="of a rung that the ladder lacks"):
        tl.Endpoint("e", model=MODEL, deadline="1s", fallback=[tl.cached(ttl="5m")], objectives=promised)
    assert tl.Endpoint("e", model=MODEL, deadline="1s", fallback=[tl.constant(0.5)], objectives=promised).objectives
