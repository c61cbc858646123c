"""Changes from the command's file to an explained value: a database followed by envelopes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.shop import DEFINITIONS, MINUTE, T0, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.event_file import ingest
from trilane.apps.letters import fix, found, replay
from trilane.apps.project import Project
from trilane.apps.provenance.value import explain_value
from trilane.apps.worker import Worker
from trilane.clock import SimulatedClock, format_instant

FOLLOWED = """

@tl.nearline(changed, shop, freshness="60s", features={"sum_1h": tl.sum("amount", window="1h")})
def shop_open(orders):
    return orders
"""
SOURCE = 'changed = tl.EventSource("changed", schema=Order, event_time="at", event_id="order_id", '


def _row(amount: object) -> dict[str, object]:
    return {"order_id": "o1", "shop": "a", "at": format_instant(T0), "amount": amount}


def _envelope(op: str, minutes: int, **sides: object) -> dict[str, object]:
    return {"op": op, "ts_ms": (T0 + minutes * MINUTE) // 1_000, **sides}


def test_a_row_is_corrected_explained_and_a_change_that_was_wrong_is_mended(tmp_path: Path) -> None:
    clock = SimulatedClock(T0 + 3 * MINUTE)
    with make_project(tmp_path, clock=clock, replay=True, apply=False) as project:
        changed = SOURCE + "changes=tl.Changes.debezium())\n"
        (tmp_path / "definitions.py").write_text(DEFINITIONS + changed + FOLLOWED)
        deploy.apply(project)
        worker = Worker(project)

        def take(*envelopes: dict[str, object]) -> tuple[int, int]:
            path = tmp_path / "changes.ndjson"
            path.write_text("".join(json.dumps(one) + "\n" for one in envelopes))
            done = ingest(project, project.definitions.sources["changed"], str(path))
            work()
            return done.accepted, done.rejected

        def work() -> None:
            while worker.step():
                pass

        def explained() -> dict[str, Any]:
            facts: dict[str, Any] = explain_value(project, "shop_open.sum_1h", ["a"], {})
            return facts

        try:
            update = _envelope("u", 1, before=_row(9.0), after=_row("much"))
            assert take(_envelope("c", 0, after=_row(9.0)), update, _envelope("x", 1)) == (1, 2)
            assert _values(explained()) == (9.0, 9.0)
            assert [found(project, number).path for number in (1, 2)] == ["$.after.amount", "$.op"]
            fix(project, 1, ["after.amount=90"], None)
            assert [one.done for one in replay(project, [found(project, 1)])] == [True]
            work()
            assert _values(explained()) == (90.0, 90.0)
            listed = explained()["events"]["listed"]
            assert [(one["event"]["amount"], one["taken_back"]) for one in listed] == [
                (9.0, False),
                (9.0, True),
                (90.0, False),
            ]
            assert listed[1]["changed_at"] == format_instant(T0 + MINUTE)
        finally:
            worker.close()
    (tmp_path / "definitions.py").write_text(DEFINITIONS + SOURCE + ")\n" + FOLLOWED)
    with Project(load_config(tmp_path, environment={}), clock=clock) as project:
        [refused] = deploy.plan(project).refusals
        assert refused.what.startswith("how its events tell changes is declared otherwise")


def _values(facts: dict[str, Any]) -> tuple[float, float]:
    return facts["served"]["value"], facts["store"]["value"]
