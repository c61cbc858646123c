"""Objectives from the definition to the answer of `trilane slo`: counted by several servers, kept over restarts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Running, command, running, trained, until
from tests.shop import DEFINITIONS, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("journeys"), pytest.mark.timeout(300)]

PROMISES = """
tl_big = tl.Endpoint("is_big", model=big, deadline="5s", fallback=[tl.constant(0.25)], objectives=[
    tl.objective("in_time", at_least=0.999), tl.objective("fresh", at_least=0.99),
    tl.objective("constant", at_most=0.01)])
"""


def _asked(up: Running, asked: int) -> list[dict[str, Any]]:
    """The standings, once so many answers were written."""

    def found() -> list[dict[str, Any]]:
        standings: list[dict[str, Any]] = up.get("/v1/slo").json()["endpoints"]["is_big"]
        return standings if all(one["asked"] == asked for one in standings) else []

    return until(found, f"{asked} answers to be counted")


def test_answers_of_all_workers_count_and_a_restart_forgets_none(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    make_project(folder, apply=False).close()
    (folder / "definitions.py").write_text(DEFINITIONS[: DEFINITIONS.index("tl_big =")] + PROMISES)
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
    trained(folder, "big")
    row = {"shop": "a", "basket": 3.0}
    with running(folder, {"serve": ["--workers", "2"]}) as up:
        until(lambda: up.get("/health/ready").status_code == 200, "the endpoint to answer")
        for number in range(1, 7):
            assert up.post("/v1/decide/is_big", {"rows": [row] * number}).status_code == 200
        assert up.post("/v1/decide/is_big", {"shop": 7}).status_code == 422  # the caller's doing counts for nothing
        in_time, fresh, constant = _asked(up, 21)
        assert (in_time["bad"], in_time["budget_left"], in_time["alert"]) == (0, 1.0, None)
        # No lane has run, so that each answer is worse than promised: the model's, but of late features.
        assert (fresh["bad"], fresh["compliance"], fresh["burn"]["5m"]) == (21, 0.0, pytest.approx(100))
        assert (constant["bad"], constant["objective"]) == (0, "constant <= 1 %")
        assert fresh["alert"] == "page"
        text = up.get("/metrics").text
        assert 'trilane_slo_compliance{endpoint="is_big",objective="fresh >= 99 %"} 0.0' in text
        assert 'trilane_rungs_total{endpoint="is_big",rung="stale"} 21.0' in text
        assert up.status()["breakers"]["model:is_big"]["state"] == "closed"
        up.stop("serve")
        up.start("serve")
        until(lambda: up.get("/health/ready").status_code == 200, "the endpoint to answer again")
        up.post("/v1/decide/is_big", row)
        _asked(up, 22)
    told = command(folder, "slo", "--json")
    [facts] = json.loads(told.stdout)["endpoints"].values()
    assert [one["asked"] for one in facts] == [22, 22, 22]
    people = command(folder, "slo").stdout
    assert "Endpoint is_big" in people
    assert "██████████" in people
    assert "PAGE" in people
    unknown = command(folder, "slo", "nosuch", "--json")
    assert (unknown.returncode, json.loads(unknown.stdout)["error"]["where"]) == (2, "nosuch")
