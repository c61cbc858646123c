"""A feature value explained: its tiles are those that made it, and the events give it again, or it is said why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trilane as tl
from tests.shop import DEFINITIONS, MINUTE, T0, append, event, make_project
from trilane.apps import deploy
from trilane.apps.batch_job import land_version
from trilane.apps.cli.commands import app
from trilane.apps.project import Project
from trilane.apps.provenance.value import explain_value
from trilane.apps.worker import Worker
from trilane.clock import SECOND, SharedClock, SimulatedClock, format_instant

LONG = """

@tl.nearline(
    orders,
    shop,
    freshness="60s",
    schedule="1d",
    tail="3d",
    features={
        "n_30d": tl.count(window="30d"),
        "sum_ever": tl.sum("amount", window="lifetime"),
        "shops_30d": tl.distinct("order_id", window="30d"),
        "rate_1h": tl.rate(tl.count(window="1h"), per="1m"),
    },
)
def shop_long(orders):
    return orders
"""
DAY = 24 * 60 * MINUTE
NOW = T0 + 2 * DAY + 37 * MINUTE


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(T0)


@pytest.fixture
def project(tmp_path: Path, clock: SimulatedClock) -> Iterator[Project]:
    with make_project(tmp_path, clock=clock, replay=True, apply=False) as project:
        (tmp_path / "definitions.py").write_text(DEFINITIONS + LONG)
        deploy.apply(project)
        yield project


@pytest.fixture
def worker(project: Project) -> Iterator[Worker]:
    found = Worker(project)
    yield found
    found.close()


def _work(worker: Worker) -> None:
    while worker.step():
        pass


def _filled(project: Project, clock: SimulatedClock, worker: Worker) -> None:
    """Two days of orders as they come, versions landed, and the lane in step."""
    random = np.random.default_rng(7)
    times = np.sort(random.integers(T0 - 27 * DAY, NOW - 1, 300))
    times[-40:] = NOW - random.integers(1, 90 * MINUTE, 40)
    times.sort()
    number = 0
    views = project.definitions.views
    _work(worker)
    for until in (T0 + 4 * 60 * MINUTE, T0 + DAY + 4 * 60 * MINUTE, T0 + 2 * DAY, NOW - 20 * MINUTE, NOW):
        before = clock.now()
        chosen = times[(times < until) & (times >= (before if before > T0 else 0))]
        clock.move_to(until)
        orders = [
            event(
                number + n, shop="ab"[n % 2], at=int(at), amount=float(random.normal() * 10.0 ** random.integers(-3, 9))
            )
            for n, at in enumerate(chosen)
        ]
        number += len(orders)
        append(project, [*orders, *orders[:3]], arrived_at=until)
        _work(worker)
        boundary = until // DAY * DAY
        for name in ("shop_daily", "shop_long"):
            land_version(project, views[name], boundary)
    clock.move_to(NOW + 1)
    _work(worker)


def _features(project: Project) -> list[str]:
    views = project.definitions.views
    return [name for view in ("shop_now", "shop_daily", "shop_long") for name in views[view].output_names]


def test_every_value_is_computed_again_from_its_events_bit_for_bit(
    project: Project, clock: SimulatedClock, worker: Worker
) -> None:
    _filled(project, clock, worker)
    for name in [*_features(project), "basket.over_mean"]:
        for shop in ("a", "nobody"):
            inputs = {"basket": "7.5"} if name.startswith("basket") else {}
            facts = explain_value(project, name, [shop], inputs)
            again = facts["recomputed"]
            assert again["identical"], (name, shop, facts)
            assert again["causes"] == []
            assert facts["served"]["recorded"]
            assert json.loads(json.dumps(facts, default=str))
            if "events" in facts and shop == "a":
                assert facts["tiles"], name
                assert facts["store"]["whole"]
                assert facts["events"]["total"] == len(facts["events"]["listed"])
                assert facts["events"]["unread"] == 0


def test_the_tiles_of_a_sum_and_a_count_are_those_that_make_it(
    project: Project, clock: SimulatedClock, worker: Worker
) -> None:
    _filled(project, clock, worker)
    facts: dict[str, Any] = {}
    for name in ("shop_now.n_10m", "shop_daily.n_7d", "shop_long.n_30d"):
        facts = explain_value(project, name, ["a"], {})
        assert sum(tile["value"] for tile in facts["tiles"]) == facts["served"]["value"] == facts["events"]["total"]
        assert all(tile["bytes"] > 0 for tile in facts["tiles"])
    kinds = {tile["kind"] for tile in facts["tiles"]}
    assert kinds == {"tile", "history tile", "history state"}
    assert facts["landed"]["boundary"] == format_instant(T0 + DAY)  # the next one is not final yet
    [lane] = facts["lanes"]
    assert lane["applied"] == lane["end"]
    assert lane["duplicates"] > 0


def test_a_value_of_the_past_is_what_was_served_then(project: Project, clock: SimulatedClock, worker: Worker) -> None:
    _filled(project, clock, worker)
    at = clock.now()
    served = {name: explain_value(project, name, ["a"], {})["served"] for name in _features(project)}
    clock.move_to(at + DAY)
    append(project, [event(9_000, shop="a", at=at + DAY - SECOND)], arrived_at=at + DAY)
    _work(worker)
    for name, before in served.items():
        facts = explain_value(project, name, ["a"], {}, at=at)
        assert facts["served"]["value"] == before["value"], name
        assert facts["served"]["status"] == before["status"]
        assert facts["recomputed"]["identical"]
        if name.startswith("shop_now"):  # its tiles are gone: the archive alone tells
            assert (facts["store"]["whole"], facts["store"]["value"]) == (False, None)


def test_events_that_were_not_applied_are_the_cause_of_a_difference(
    project: Project, clock: SimulatedClock, worker: Worker
) -> None:
    clock.move_to(T0 + 5 * SECOND)
    append(project, [event(1, at=T0, amount=3.0)], arrived_at=clock.now())
    _work(worker)
    clock.move_to(T0 + 20 * SECOND)
    append(project, [event(2, at=T0 + 10 * SECOND, amount=4.0)], arrived_at=clock.now())
    facts = explain_value(project, "shop_now.n_10m", ["a"], {})
    again = facts["recomputed"]
    assert (facts["served"]["value"], again["value"], again["identical"], again["difference"]) == (1, 2, False, -1)
    assert again["as_served"] == 1
    assert again["causes"] == ["visibility: 1 events that count could not be read yet"]
    assert [one["event"]["order_id"] for one in facts["events"]["listed"]] == ["o1", "o2"]
    at = clock.now()
    clock.move_to(T0 + 60 * SECOND)
    _work(worker)
    later = explain_value(project, "shop_now.n_10m", ["a"], {}, at=at)
    assert (later["served"]["value"], later["recomputed"]["value"]) == (1, 2)
    assert later["recomputed"]["causes"] == again["causes"]
    assert later["store"]["value"] == 2  # the tiles know by now what they did not know then


def test_late_and_refused_events_of_the_key_are_named(project: Project, clock: SimulatedClock, worker: Worker) -> None:
    clock.move_to(T0 + 60 * MINUTE)
    late = event(2, shop="a", at=T0 + 30 * MINUTE)
    wrong = json.loads(event(3, shop="a", at=T0 + 55 * MINUTE)) | {"amount": "much"}
    newest = [
        event(1, shop="a", at=T0 + 58 * MINUTE),
        late,
        json.dumps(wrong).encode(),
        b"{",
        event(4, shop="b", at=T0),
    ]
    append(project, newest, arrived_at=clock.now())
    _work(worker)
    facts = explain_value(project, "shop_now.sum_1h", ["a"], {})
    assert [(one["code"], one["offset"]) for one in reversed(facts["letters"])] == [("type", 2), ("late", 1)]
    assert (facts["events"]["total"], facts["events"]["late"]) == (2, 1)
    assert facts["served"]["value"] == facts["recomputed"]["value"] == 1
    assert facts["lanes"][0]["watermark"] == format_instant(T0 + 48 * MINUTE)


def test_the_steps_of_the_cascade_say_which_answered_and_why_not_the_others(
    project: Project, clock: SimulatedClock, worker: Worker
) -> None:
    append(project, [event(1, at=T0 - MINUTE, amount=3.0)], arrived_at=T0)
    _work(worker)
    clock.move_to(T0 + 3 * 60 * MINUTE)
    land_version(project, project.definitions.views["shop_daily"], T0)
    clock.move_to(T0 + 20 * 60 * MINUTE)
    facts = explain_value(project, "shop_now.mean_1h", ["a"], {})
    assert [(step["step"], step["outcome"]) for step in facts["steps"]] == [
        ("nearline lane", "is too old"),
        ("stale", "is too old"),
        ("batch shop_daily.mean_7d", "answers"),
        ("default", "not needed"),
    ]
    assert (facts["served"]["value"], facts["served"]["status"]) == (3.0, "batch")
    assert "s behind" in facts["served"]["why"][0]
    assert not facts["recomputed"]["identical"]
    assert facts["recomputed"]["as_served"] == 3.0
    assert facts["recomputed"]["causes"][0].startswith("fallback")
    other = explain_value(project, "shop_now.sum_1h", ["a"], {})
    assert [step["outcome"] for step in other["steps"]][2:] == ["has no such feature", "has nothing"]


def test_before_anything_ran_the_steps_say_so(project: Project) -> None:
    facts = explain_value(project, "shop_now.sum_1h", ["a"], {})
    assert (facts["served"]["value"], facts["served"]["status"]) == (None, "missing")
    assert facts["steps"][0]["outcome"] == "has nothing"
    assert facts["recomputed"]["identical"]
    assert facts["tiles"] == facts["events"]["listed"] == facts["letters"] == []


def test_a_request_view_is_explained_by_what_it_uses(project: Project, clock: SimulatedClock, worker: Worker) -> None:
    _filled(project, clock, worker)
    facts = explain_value(project, "basket.over_mean", ["a"], {"basket": "60"})
    used = {one["feature"]: one["value"] for one in facts["uses"]}
    assert facts["served"]["value"] == 60.0 - used["shop_now.mean_1h"]
    assert facts["inputs"] == {"basket": 60.0, "shop": "a"} or facts["inputs"] == {"shop": "a", "basket": 60.0}


@pytest.mark.parametrize(
    ("name", "keys", "inputs", "what"),
    [
        ("nosuch.n", ["a"], {}, "no view 'nosuch'"),
        ("shop_now.nosuch", ["a"], {}, "no feature 'nosuch'"),
        ("shop_now", ["a"], {}, "more than one feature"),
        ("shop_now.n_10m", ["a", "b"], {}, "2 keys"),
        ("shop_now.n_10m", ["a"], {"basket": "1"}, "no input 'basket'"),
        ("shop_now.n_10m", [], {}, "missing required field `shop`"),
        ("basket.basket", ["a"], {"basket": "much"}, "Expected `float`"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    project: Project, name: str, keys: list[str], inputs: dict[str, str], what: str
) -> None:
    with pytest.raises(tl.TrilaneError, match=what):
        explain_value(project, name, keys, inputs)


def test_the_future_is_not_explained(project: Project, clock: SimulatedClock) -> None:
    with pytest.raises(tl.ContractError, match="future"):
        explain_value(project, "shop_now.n_10m", ["a"], {}, at=clock.now() + 1)


def test_the_command_tells_a_person_and_a_machine(
    project: Project, clock: SimulatedClock, worker: Worker, capsys: pytest.CaptureFixture[str]
) -> None:
    _filled(project, clock, worker)

    def say(*words: str) -> str:
        project.close()  # LMDB opens once in a process
        with pytest.raises(SystemExit) as ended:
            app(["explain", *words, "--project", str(project.config.root)])
        assert ended.value.code == 0
        return capsys.readouterr().out

    worker.close()
    SharedClock(project.config.state / "clock").move_to(NOW + 1)
    at = ("--at", format_instant(NOW))
    facts: dict[str, Any] = json.loads(say("shop_now.sum_1h", "a", *at, "--json"))
    assert facts["recomputed"]["identical"] is True
    text = say("shop_now.sum_1h", "a", *at)
    assert "identical: yes" in text
    assert "Tiles" in text
    assert "identical: yes" in say("basket.over_mean", "a", "--input", "basket=3", *at)
    assert "identical: yes" in say("shop_daily.n_7d", "a", *at)
