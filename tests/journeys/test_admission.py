"""A real server goes by its policy: refusals come before any work, say when to come again, and are counted."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Running, command, running, trained, until
from tests.shop import event, make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project

ASK = {"shop": "a", "basket": 60.0}
POLICY = """
strict = tl.Endpoint("strict", model=big, deadline="5s", tier="sheddable")
policy = tl.Policy(
    tiers=[tl.Tier("batch", floor=0.1, aging="1s")],
    callers=[
        *(tl.Caller(name, rate=0.001, burst=2) for name in ("poor", "reader", "sender", "signalled")),
        tl.Caller("nightly", up_to="batch"),
    ],
)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shop")
    make_project(folder, replay=True).close()
    with (folder / "definitions.py").open("a") as file:
        file.write(POLICY)
    with Project(load_config(folder, environment={})) as project:
        deploy.apply(project)
    trained(folder, "big")
    with running(folder, {"serve": ["--replay"]}) as found:
        yield found


def _decide(up: Running, body: object = ASK, endpoint: str = "is_big", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return up.client.post(f"/v1/decide/{endpoint}", json=body, headers=named)


def _count(up: Running, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(up.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_who_has_used_up_a_quota_is_refused_before_the_body_is_read_and_nothing_is_computed(up: Running) -> None:
    assert _decide(up, x_trilane_caller="poor").status_code == 200
    assert _decide(up, {"rows": [ASK] * 5}, x_trilane_caller="poor").status_code == 200  # into debt
    made, batches = _count(up, "trilane_decisions_total"), _count(up, "trilane_batch_rows_count")
    for body in (ASK, {"rows": [ASK] * 2_000}, "no row at all"):
        refused = _decide(up, body, x_trilane_caller="poor")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 3_000
        error = refused.json()["error"]
        assert (error["code"], error["reason"], error["where"]) == ("unavailable", "quota", "admission")
    assert _count(up, "trilane_decisions_total") == made
    assert _count(up, "trilane_batch_rows_count") == batches
    assert _count(up, "trilane_refused_total", reason="quota", tier="standard") == 3
    assert _decide(up).status_code == 200


def test_feature_reads_count_against_the_quota_too(up: Running) -> None:
    def read(rows: int) -> httpx.Response:
        return up.client.post(
            "/v1/features/is_big", json={"rows": [ASK] * rows}, headers={"x-trilane-caller": "reader"}
        )

    assert read(3).status_code == 200
    refused = read(1)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 1_000
    assert refused.json()["error"]["reason"] == "quota"
    assert up.client.post("/v1/features/is_big", json={"rows": [ASK]}).status_code == 200


def test_events_count_against_the_quota_too_and_are_refused_before_the_body_is_read(up: Running) -> None:
    def send(content: bytes, caller: str = "sender", **headers: str) -> httpx.Response:
        return up.client.post("/v1/events/orders", content=content, headers={"x-trilane-caller": caller, **headers})

    one = event(1, at=0)  # when the clock of a replay begins
    assert send(b"[" + b",".join([one] * 3) + b"]").status_code == 202
    before = _count(up, "trilane_events_total")
    for content in (one, b"no event at all"):
        refused = send(content)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 1_000
        assert refused.json()["error"]["reason"] == "quota"
    assert _count(up, "trilane_events_total") == before
    assert send(one, "another").status_code == 202
    assert send(one, "another", **{"x-trilane-tier": "urgent"}).status_code == 400


def test_what_is_refused_at_the_door_is_told_to_autoscalers_as_refused_and_not_as_answered(up: Running) -> None:
    def told() -> tuple[float, float]:
        found = up.get("/v1/signals").json()
        return found["rate"] * found["seconds"], found["refused"] * found["seconds"]

    before = told()
    assert [_decide(up, x_trilane_caller="signalled").status_code for _ in range(5)] == [200, 200, 429, 429, 429]
    answered, refused = (now - then for now, then in zip(told(), before, strict=True))
    assert (round(answered), round(refused)) == (2, 3)


def test_the_connection_of_one_who_is_refused_stays(up: Running) -> None:
    with httpx.Client(base_url=str(up.client.base_url)) as client:
        for _ in range(20):
            answer = client.post("/v1/decide/is_big", json={"rows": [ASK] * 500}, headers={"x-trilane-caller": "poor"})
            assert answer.status_code == 429
        assert client.post("/v1/decide/is_big", json=ASK).status_code == 200


def test_a_request_may_lower_its_tier_and_its_caller_may_be_held_to_one(up: Running) -> None:
    for headers, tier in (
        ({}, "standard"),
        ({"x_trilane_tier": "sheddable"}, "sheddable"),
        ({"x_trilane_tier": "critical"}, "standard"),
        ({"x_trilane_caller": "nightly", "x_trilane_tier": "critical"}, "batch"),
    ):
        before = _count(up, "trilane_admitted_total", tier=tier)
        assert _decide(up, **headers).status_code == 200
        assert _count(up, "trilane_admitted_total", tier=tier) == before + 1
    before = _count(up, "trilane_admitted_total", tier="sheddable")
    assert _decide(up, endpoint="strict").status_code == 200
    assert _count(up, "trilane_admitted_total", tier="sheddable") == before + 1


@pytest.mark.parametrize(
    ("header", "text"),
    [("x-trilane-tier", "urgent"), ("grpc-timeout", "soon"), ("x-envoy-expected-rq-timeout-ms", "-1")],
)
def test_a_header_that_cannot_be_read_is_the_callers_fault(up: Running, header: str, text: str) -> None:
    refused = up.client.post("/v1/decide/is_big", json=ASK, headers={header: text})
    assert refused.status_code == 400
    assert refused.json()["error"]["where"] == header


def test_what_cannot_be_in_time_costs_no_work_and_is_answered_by_the_ladder_or_refused(up: Running) -> None:
    asked = {"grpc_timeout": "1n"}
    by_ladder = _decide(up, **asked)
    assert by_ladder.status_code == 200
    assert by_ladder.json()["decisions"][0]["score"] == 0.25
    assert by_ladder.json()["decisions"][0]["why"] == ["deadline passed"]
    refused = _decide(up, "no row at all", endpoint="strict", **asked)
    assert refused.status_code == 429
    assert refused.json()["error"]["reason"] == "deadline"
    assert refused.json()["error"]["tier"] == "sheddable"


def test_the_policy_is_told_as_declared_and_as_it_holds(up: Running) -> None:
    told = json.loads(command(up.folder, "policy", "--json").stdout)
    assert told["is_applied"] is True
    assert told["declared"]["version"] == told["applied"]["version"] == told["server"]["version"]
    assert told["server"]["tiers"]["batch"]["floor"] == 0.1
    assert told["server"]["tiers"]["standard"]["admitted"] >= 1
    text = command(up.folder, "policy").stdout
    assert "nightly" in text
    assert "10%" in text


def test_a_policy_that_is_applied_holds_without_a_restart(up: Running) -> None:
    path = up.folder / "definitions.py"
    before = path.read_text()
    path.write_text(
        before.replace('tl.Caller("nightly"', 'tl.Caller("nosy", rate=0.001, burst=1), tl.Caller("nightly"')
    )
    assert json.loads(command(up.folder, "policy", "--json").stdout)["is_applied"] is False
    assert command(up.folder, "apply").returncode == 0
    until(lambda: _decide(up, x_trilane_caller="nosy").status_code == 429, "the new policy to hold")
    path.write_text(before)
    assert command(up.folder, "apply").returncode == 0
    until(lambda: _decide(up, x_trilane_caller="nosy").status_code == 200, "the policy before to hold again")
