"""Policies: what may be declared, what is refused, and that the version tells any change."""

from __future__ import annotations

import math

import pytest

import trilane as tl
from trilane.serving.policy import TIERS

POLICY = tl.Policy(
    tiers=[tl.Tier("batch", floor=0.05, aging="1s"), tl.Tier("critical", floor=0.5)],
    callers=[tl.Caller("nightly", up_to="batch"), tl.Caller("checkout", up_to="critical", rate=500, burst=1_000)],
    others=tl.Caller(up_to="standard", rate=50),
)


def test_floors_and_agings_are_told_for_every_tier_in_order() -> None:
    assert POLICY.floors() == (0.5, 0.0, 0.0, 0.05)
    assert POLICY.agings() == (math.inf, math.inf, math.inf, 1.0)


def test_the_version_depends_on_what_is_declared_and_not_on_its_order() -> None:
    again = tl.Policy(tiers=POLICY.tiers[::-1], callers=POLICY.callers[::-1], others=POLICY.others)
    assert again == POLICY
    assert again.version == POLICY.version
    assert tl.Policy(tiers=POLICY.tiers).version != POLICY.version
    assert tl.Policy(limit=100).version != tl.Policy().version


def test_a_burst_is_a_second_of_the_rate_unless_declared() -> None:
    assert tl.Caller("one", rate=50).burst == 50
    assert tl.Caller("one", rate=0.1).burst == 1


@pytest.mark.parametrize("name", ["urgent", "", "CRITICAL"])
def test_a_tier_that_is_none_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(tl.DefinitionError, match=", ".join(TIERS)):
        tl.Tier(name)
    with pytest.raises(tl.DefinitionError, match="is no tier"):
        tl.Caller("one", up_to=name)


@pytest.mark.parametrize("floor", [-0.1, 1.0, math.nan, math.inf])
def test_a_floor_that_is_no_share_is_refused(floor: float) -> None:
    with pytest.raises(tl.DefinitionError, match="no share"):
        tl.Tier("critical", floor=floor)


@pytest.mark.parametrize(("rate", "burst"), [(0, None), (-1, None), (math.nan, None), (math.inf, None), (10, 0)])
def test_a_rate_or_burst_that_is_not_positive_is_refused(rate: float, burst: float | None) -> None:
    with pytest.raises(tl.DefinitionError, match="not positive"):
        tl.Caller("one", rate=rate, burst=burst)


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(tl.DefinitionError, match="more than there is"):
        tl.Policy(tiers=[tl.Tier("critical", floor=0.7), tl.Tier("standard", floor=0.4)])
    with pytest.raises(tl.DefinitionError, match="declared twice"):
        tl.Policy(tiers=[tl.Tier("critical"), tl.Tier("critical")])
    with pytest.raises(tl.DefinitionError, match="declared twice"):
        tl.Policy(callers=[tl.Caller("one"), tl.Caller("one")])
    with pytest.raises(tl.DefinitionError, match="has no name"):
        tl.Policy(callers=[tl.Caller(rate=1)])
    with pytest.raises(tl.DefinitionError, match="names one caller"):
        tl.Policy(others=tl.Caller("one"))
    with pytest.raises(tl.DefinitionError, match="without a rate"):
        tl.Caller("one", burst=3)
    with pytest.raises(tl.DefinitionError, match="not positive"):
        tl.Tier("batch", aging=0)


@pytest.mark.parametrize("limit", [0, -1, "guess", True, 1.5])
def test_a_limit_that_is_none_is_refused(limit: object) -> None:
    with pytest.raises(tl.DefinitionError, match="is no limit"):
        tl.Policy(limit=limit)  # type: ignore[arg-type]
