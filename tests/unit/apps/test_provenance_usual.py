"""What is usual and what is told of features, explained: as an endpoint knows it, by name, with what they tell of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trilane as tl
from tests.shop import DEFINITIONS, MINUTE, T0, append, event, make_project
from trilane.apps import deploy, training_job
from trilane.apps.cli.commands import app
from trilane.apps.project import Project
from trilane.apps.provenance.value import explain_value
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SharedClock, SimulatedClock
from trilane.models.artifact import load

USUAL = """

@tl.nearline(
    orders,
    shop,
    freshness="60s",
    features={"paid_1h": tl.mean("amount", window="1h"), "hollow": tl.mean("amount", window="1h", filter="never")},
    fallback=[tl.prior("mean"), tl.default()],
)
def shop_usual(orders):
    return orders.mutate(never=orders.amount < 0)


@tl.request(inputs={}, uses=[shop_usual], features={"twice": tl.Float64})
def doubled(request):
    return {"twice": 2 * request["shop_usual.paid_1h"]}


paid = shop_usual["paid_1h"]
told = [shop_usual, tl.age(shop_usual), tl.age(paid), tl.status(paid, "prior"), doubled]
usual = tl.Model("usual", features=told, spine=asks, label="big", train=train)
first_told = tl.Endpoint("a_told", model=usual, deadline="5s")
then_told = tl.Endpoint("b_told", model=usual, deadline="5s")
"""
HOUR = 60 * MINUTE
LATER = T0 + 50 * HOUR


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(T0)


@pytest.fixture
def project(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    with make_project(tmp_path, clock=clock, replay=True, apply=False) as project:
        (tmp_path / "definitions.py").write_text(DEFINITIONS + USUAL)
        deploy.apply(project)
        yield project


def _deployed(project: Project, clock: SimulatedClock) -> dict[str, float]:
    """Two days of orders, a model trained on them and deployed, and a lane that has just caught up; the priors."""
    worker = Worker(project)
    for hour in range(48):
        clock.move_to(max(T0 + hour * HOUR, clock.now()))
        append(project, [event(hour, at=T0 + hour * HOUR - SECOND, amount=float(hour))], arrived_at=clock.now())
        while worker.step():
            pass
    clock.move_to(LATER)
    append(project, [event(100, at=LATER - MINUTE, amount=7.0)], arrived_at=LATER)
    while worker.step():
        pass
    worker.close()
    trained = training_job.train(project, "usual")
    deploy.apply(project)
    return load(trained.artifact.path).manifest.priors


def test_what_is_usual_is_told_by_the_deployed_endpoint_that_is_named(project: Project, clock: SimulatedClock) -> None:
    priors = _deployed(project, clock)
    clock.move_to(LATER + 10 * MINUTE)
    facts = explain_value(project, "shop_usual.paid_1h", ["a"], {})
    assert (facts["served"]["value"], facts["served"]["status"]) == (priors["shop_usual.paid_1h"], "prior")
    steps = [(step["step"], step["outcome"]) for step in facts["steps"]]
    digest = facts["usual"]["digest"]
    assert steps == [
        ("nearline lane", "is too old"),
        (f"prior mean of endpoint a_told, model usual {digest}", "answers"),
        ("default", "not needed"),
    ]
    assert facts["usual"]["other_endpoints"] == ["b_told"]
    assert facts["usual"]["priors"] == priors
    assert facts["recomputed"]["as_served"] == priors["shop_usual.paid_1h"]
    assert facts["recomputed"]["causes"] == ["fallback: the value is prior, as `steps` show"]
    other = explain_value(project, "shop_usual.paid_1h", ["a"], {}, endpoint="b_told")
    assert (other["usual"]["endpoint"], other["served"]["value"]) == ("b_told", facts["served"]["value"])


def test_what_no_row_had_is_not_usual_and_a_later_step_is_asked(project: Project, clock: SimulatedClock) -> None:
    _deployed(project, clock)
    clock.move_to(LATER + 10 * MINUTE)
    facts = explain_value(project, "shop_usual.hollow", ["a"], {})
    assert [step["outcome"] for step in facts["steps"]] == ["is too old", "has nothing", "has nothing"]
    assert facts["served"]["status"] == "missing"


def test_before_an_endpoint_was_deployed_nothing_was_usual(project: Project, clock: SimulatedClock) -> None:
    before = explain_value(project, "shop_usual.paid_1h", ["a"], {})
    assert before["steps"][1]["outcome"] == "no endpoint that knows it was deployed"
    assert "usual" not in before
    _deployed(project, clock)
    past = explain_value(project, "shop_usual.paid_1h", ["a"], {}, at=LATER - HOUR)
    assert "usual" not in past


def test_a_request_feature_of_what_is_usual_is_computed_from_it(project: Project, clock: SimulatedClock) -> None:
    priors = _deployed(project, clock)
    clock.move_to(LATER + 10 * MINUTE)
    facts = explain_value(project, "doubled.twice", ["a"], {})
    assert facts["served"]["value"] == 2 * priors["shop_usual.paid_1h"]
    used = {one["feature"]: (one["value"], one["status"]) for one in facts["uses"]}
    assert used["shop_usual.paid_1h"] == (priors["shop_usual.paid_1h"], "prior")


@pytest.mark.parametrize("late", [10, 600])
def test_a_trait_is_told_with_the_value_that_it_tells_of(project: Project, clock: SimulatedClock, late: int) -> None:
    priors = _deployed(project, clock)
    clock.move_to(LATER + late * SECOND)
    stale = late > 60
    values = (priors["shop_usual.paid_1h"], "prior") if stale else (7.0, "fresh")
    for at in (None, clock.now()):
        for name, told in {
            "shop_usual.age_s": float(late),
            "shop_usual.paid_1h.age_s": None if stale else float(late),
            "shop_usual.paid_1h.is_prior": float(stale),
            "shop_usual.paid_1h.is_fresh": float(not stale),
        }.items():
            facts: dict[str, Any] = explain_value(project, name, ["a"], {}, at=at)
            assert facts["feature"] == name
            assert facts["served"]["value"] == told, (name, facts)
            assert facts["recomputed"]["identical"], (name, facts)
            if name != "shop_usual.age_s":
                assert (facts["of"]["value"], facts["of"]["status"]) == values
                assert facts["steps"][0]["outcome"] == ("is too old" if stale else "answers")
            else:
                assert [step["age_s"] for step in facts["steps"]] == [float(late)]
                assert facts["tiles"] == facts["windows"] == []


def test_an_age_that_the_record_does_not_give_says_so(project: Project, clock: SimulatedClock) -> None:
    facts = explain_value(project, "shop_usual.age_s", ["a"], {})
    assert facts["served"]["value"] is None
    assert facts["recomputed"]["causes"] == [
        "visibility: the record of how far the lane had come has nothing of that instant"
    ]


@pytest.mark.parametrize(
    ("name", "endpoint", "what"),
    [
        ("shop_usual.paid_1h.is_odd", None, "'is_odd'|'odd' is no status"),
        ("shop_usual.nope.age_s", None, "no feature 'nope'"),
        ("doubled.age_s", None, "neither age nor status"),
        ("shop_usual.paid_1h.worth", None, "no feature 'paid_1h.worth'"),
        ("shop_usual.paid_1h", "is_big", "nothing is usual for endpoint 'is_big'"),
        ("shop_now.n_10m", "a_told", "nothing is usual for endpoint 'a_told'"),
    ],
)
def test_a_trait_or_endpoint_that_there_is_not_is_refused(
    project: Project, name: str, endpoint: str | None, what: str
) -> None:
    with pytest.raises(tl.DefinitionError, match=what):
        explain_value(project, name, ["a"], {}, endpoint=endpoint)


def test_the_command_tells_who_says_what_is_usual(
    project: Project, clock: SimulatedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    _deployed(project, clock)
    folder = str(project.config.root)
    SharedClock(project.config.state / "clock").move_to(LATER)
    project.close()  # LMDB opens once in a process
    app(["explain", "shop_usual.paid_1h.is_prior", "nobody", "--project", folder], standalone_mode=False)
    told = capsys.readouterr().out
    assert "what is usual is as endpoint a_told knows it; by --endpoint b_told it may be otherwise" in told
    assert "of shop_usual.paid_1h:" in told
