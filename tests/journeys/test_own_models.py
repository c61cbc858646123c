"""Endpoints whose models are the author's Python, in processes of their own: what these break, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import X_TO_Y, Running, running, trained, until
from tests.shop import write_asks
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project

RULES = """
import os
import sys
import time
import numpy as np

class Rules:
    "Business rules around a line."
    least = 0.0

    def __init__(self, line):
        self.line = line

    def predict(self, matrix):
        basket = int(matrix[0, 0])
        if basket == -1:
            raise ValueError("a basket of minus one")
        if basket == -2:
            print("farewell", file=sys.stderr, flush=True)
            os._exit(9)
        if basket == -3:
            time.sleep(600)
        if basket == -4:
            return matrix[0]
        if basket == -5:
            return [np.nan]
        return np.maximum(1 / (1 + np.exp(-matrix @ self.line + 1)), self.least)
"""
DEFINITIONS = """
import numpy as np
import trilane as tl
import rules


class Ask:
    shop: tl.String
    asked_at: tl.Timestamp
    basket: tl.Float64
    big: tl.Bool | None


asks = tl.TableSource("asks", schema=Ask, path="asks.parquet", event_time="asked_at")


@tl.request(inputs={"basket": tl.Float64}, features={"basket": tl.Float64, "squared": tl.Float64})
def basket(request):
    return {"basket": request["basket"], "squared": request["basket"] ** 2}


def train(rows):
    return rules.Rules(np.linalg.lstsq(rows.matrix, 4.0 * rows.label, rcond=None)[0])


def train_trees(rows):
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(rows.matrix, rows.label)


own = tl.Model("own", features=[basket], spine=asks, label="big", train=train, runtime=tl.python(timeout="1s"))
trees = tl.Model("trees", features=[basket], spine=asks, label="big", train=train_trees, runtime="lightgbm")
careful = tl.Endpoint("careful", model=own, deadline="900ms", fallback=[tl.constant(0.25)])
bare = tl.Endpoint("bare", model=own, deadline="900ms")
steady = tl.Endpoint("steady", model=trees, deadline="5s")
"""
MOODY = """
import time
def predict(inputs):
    if inputs["x"][0] == -3:
        time.sleep(600)
    return {"y": inputs["x"] + 1}
"""
OPTIONS = f'timeout = "300ms"\n{X_TO_Y}'
RAISES, DIES, HANGS, UNFIT, NAN = -1.0, -2.0, -3.0, -4.0, -5.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "trilane.toml").write_text("workers = 1\n")
    (folder / "definitions.py").write_text(DEFINITIONS)
    (folder / "rules.py").write_text(RULES)
    write_asks(folder / "asks.parquet")
    (folder / "models" / "moody").mkdir(parents=True)
    (folder / "models" / "moody" / "model.py").write_text(MOODY)
    (folder / "models" / "moody" / "model.toml").write_text(OPTIONS)
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
    for model in ("own", "trees"):
        trained(folder, model)
    with running(folder, {"serve": []}) as found:
        until(lambda: found.get("/health/ready").status_code == httpx.codes.OK, "the server")
        yield found


def _ask(up: Running, basket: float, endpoint: str = "careful") -> dict[str, Any]:
    answer = up.post(f"/v1/decide/{endpoint}", {"basket": basket})
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()["decisions"][0]
    return found


def _is_well(up: Running) -> bool:
    return not _ask(up, 60.0).get("degraded")


def _metric(up: Running, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(up.get("/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


def _breaker(up: Running, name: str = "model:careful") -> dict[str, Any]:
    found: dict[str, Any] = up.status()["breakers"][name]
    return found


def _heard_and_made(up: Running) -> tuple[float, float]:
    """The answers that were sent, where each has a row, and the decisions that were counted."""
    heard = _metric(up, "trilane_requests_total", route="/v1/decide", status="200")
    return heard, _metric(up, "trilane_decisions_total")


def _explained(up: Running, id: str) -> dict[str, Any]:
    answer = until(lambda: (found := up.get(f"/v1/explain/{id}")).status_code == 200 and found, f"the record of {id}")
    assert answer
    return dict(answer.json())


def test_decisions_of_python_and_of_a_librarys_own_format_are_rebuilt_to_the_bit(up: Running) -> None:
    until(lambda: _is_well(up), "the model")
    for endpoint in ("careful", "steady"):
        low, high = (_ask(up, basket, endpoint) for basket in (5.0, 95.0))
        assert low["score"] < 0.5 < high["score"]
        found = _explained(up, high["id"])
        assert (found["identical"], found["rebuilt"]) == (True, high["score"])
    many = up.post("/v1/decide/careful", {"rows": [{"basket": float(n)} for n in range(100)]}).json()["decisions"]
    assert many[5]["score"] == _ask(up, 5.0)["score"]


def test_the_model_itself_is_asked_by_the_inference_protocol_as_well(up: Running) -> None:
    until(lambda: _is_well(up), "the model")
    tensor = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [60.0, 3600.0]}
    answer = up.post("/v2/models/own/infer", {"inputs": [tensor]}).json()
    assert answer["outputs"][0]["data"] == [_ask(up, 60.0)["score"]]
    assert up.get("/v2/models/own").json()["platform"] == "python"
    assert up.get("/v2/models/trees").json()["platform"] == "lightgbm_txt"


@pytest.mark.parametrize(
    ("basket", "reason"),
    [
        (RAISES, "ValueError: a basket of minus one"),
        (UNFIT, "shape [2] for 1 row"),
        (NAN, "not a finite number"),
        (DIES, "its process died: it ended with status 9"),
    ],
)
def test_what_the_code_does_wrong_costs_its_own_answer_labelled_and_no_other(
    up: Running, basket: float, reason: str
) -> None:
    until(lambda: _is_well(up), "the model")
    found = _ask(up, basket)
    assert (found["score"], found["rung"]) == (0.25, "constant")
    assert reason in str(found["why"])
    assert not _ask(up, 60.0, "steady").get("degraded")
    until(lambda: _is_well(up), "the model to be well again")


def test_a_bad_row_costs_none_of_those_it_came_with(up: Running) -> None:
    until(lambda: _is_well(up), "the model")
    rows = [{"basket": basket} for basket in (60.0, RAISES, 61.0)]
    found = up.post("/v1/decide/careful", {"rows": rows}).json()["decisions"]
    assert [bool(one.get("degraded")) for one in found] == [False, True, False]


def test_a_model_that_hangs_is_ended_its_breaker_opens_and_closes_again(up: Running) -> None:
    until(lambda: _is_well(up), "the model")
    opened = _metric(up, "trilane_breaker_opened_total", dependency="model:careful")
    before = _heard_and_made(up)
    found = _ask(up, HANGS)
    assert (found["score"], found["rung"]) == (0.25, "constant")
    assert not _ask(up, 60.0, "steady").get("degraded")
    until(lambda: _breaker(up)["opened"] > opened, "the breaker to open")
    until(lambda: _metric(up, "trilane_breaker_opened_total", dependency="model:careful") > opened, "the count")
    until(lambda: _is_well(up), "a probe that goes well")
    assert _breaker(up)["state"] == "closed"
    heard, made = (after - then for after, then in zip(_heard_and_made(up), before, strict=True))
    assert heard == made  # what came of the batch in the end was nobody's answer, and is no decision
    until(lambda: not up.get("/health/ready").json()["breakers"], "readiness to tell so")


def test_without_a_ladder_whoever_asks_hears_what_is_wrong_and_may_ask_again(up: Running) -> None:
    until(lambda: up.post("/v1/decide/bare", {"basket": 60.0}).status_code == httpx.codes.OK, "the model")
    answer = up.post("/v1/decide/bare", {"basket": DIES})
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert "its process died" in answer.text
    until(lambda: up.post("/v1/decide/bare", {"basket": 60.0}).status_code == httpx.codes.OK, "the next process")
    assert "model own: farewell" in up.said("serve")


def test_a_model_from_a_file_that_hangs_is_left_alone_and_asked_again_later(up: Running) -> None:
    def ask(x: float) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP64", "shape": [1], "data": [x]}
        return up.post("/v2/models/moody/infer", {"inputs": [tensor]})

    assert ask(1.0).json()["outputs"][0]["data"] == [2.0]
    assert "did not answer" in ask(HANGS).text
    refused = ask(1.0)
    assert (refused.status_code, refused.headers["retry-after"]) == (httpx.codes.SERVICE_UNAVAILABLE, "1")
    assert "its breaker is open" in refused.text
    assert _breaker(up, "file:moody/1")["state"] == "open"
    assert any(one.startswith("file:moody/1: a call failed") for one in up.get("/health/ready").json()["breakers"])
    assert up.get("/v2/models/moody/ready").status_code != httpx.codes.OK
    assert not _ask(up, 60.0, "steady").get("degraded")
    until(lambda: ask(1.0).status_code == httpx.codes.OK, "a question that finds it well")
    until(lambda: _metric(up, "trilane_model_breaker_opened_total", model="moody") == 1, "the count")
    until(lambda: _metric(up, "trilane_model_breaker_open", model="moody") == 0, "the gauge")
    assert up.get("/v2/models/moody/ready").status_code == httpx.codes.OK
    assert up.post("/v2/repository/models/moody/unload", {}).status_code == httpx.codes.OK


def test_a_new_model_takes_over_and_the_process_of_the_one_before_ends(up: Running) -> None:
    until(lambda: _is_well(up), "the model")
    before = _children(up)
    (up.folder / "rules.py").write_text(RULES.replace("least = 0.0", "least = 0.375"))
    with Project(load_config(up.folder, environment={})) as project:
        deploy.apply(project)
    trained(up.folder, "own")
    until(lambda: _ask(up, 0.0)["score"] == 0.375, "the new model")
    until(lambda: not before & _children(up), "the end of the processes before")
    until(lambda: len(_children(up)) == len(before), "the end of those between them")


def _children(up: Running) -> set[int]:
    """The processes of models of the server."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"trilane.models.runtime.child" in words and _is_of(parent, up.processes["serve"].pid):
            found.add(int(folder.name))
    return found


def _is_of(pid: int, server: int) -> bool:
    """Whether a process is the server's, or was started by one that is."""
    while pid > 1:
        if pid == server:
            return True
        try:
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False
