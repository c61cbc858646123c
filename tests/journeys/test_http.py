"""The HTTP API of a real server, worker and control: what a caller is promised, seen from outside."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Running, command, running, trained, until
from tests.shop import MINUTE, T0, event, make_project
from trilane.apps.config import load_config
from trilane.apps.project import Project
from trilane.clock import format_instant
from trilane.feedback.record import Records

ASK = {"shop": "a", "basket": 60.0}
REPLAY = {"worker": ["--replay"], "control": ["--replay"], "serve": ["--replay"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("shop")
    make_project(folder, replay=True).close()
    trained(folder, "big")
    with running(folder, REPLAY) as found:
        found.move_clock("2026-03-02T00:00:00Z")
        yield found


def _dead_letters(folder: Path, source: str = "orders") -> dict[str, str]:
    """The path of the newest letter of each code."""
    with Project(load_config(folder, environment={})) as project:
        return {letter.code: letter.path for letter in reversed(project.dead_letters.read(source))}


def _decide(up: Running, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    answer = up.post("/v1/decide/is_big", {"rows": rows} if len(rows) > 1 else rows[0])
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["decisions"]
    return found


def _metric(up: Running, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    families = text_string_to_metric_families(up.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _explained(up: Running, id: str) -> dict[str, Any]:
    def ask() -> dict[str, Any] | None:
        answer = up.get(f"/v1/explain/{id}")
        return dict(answer.json()) if answer.status_code == 200 else None

    found = until(ask, f"the record of {id}")
    assert found is not None
    return found


def test_decisions_are_asked_and_answered_in_messagepack_as_in_json(up: Running) -> None:
    packed = {"content-type": "application/msgpack"}
    rows = {"rows": [ASK, {**ASK, "basket": 5.0}]}
    answer = up.client.post("/v1/decide/is_big", content=msgspec.msgpack.encode(rows), headers=packed)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/msgpack")
    found = msgspec.msgpack.decode(answer.content)["decisions"]
    assert [one["score"] for one in found] == [one["score"] for one in _decide(up, *rows["rows"])]
    answer = up.client.post(
        "/v1/decide/is_big", content=msgspec.json.encode(ASK), headers={"accept": packed["content-type"]}
    )
    assert msgspec.msgpack.decode(answer.content)["decisions"][0]["score"] == found[0]["score"]
    wrong = msgspec.msgpack.encode({"rows": [ASK, {**ASK, "basket": float("nan")}]})
    answer = up.client.post("/v1/decide/is_big", content=wrong, headers=packed)
    assert (answer.status_code, answer.json()["error"]["where"]) == (422, "$.rows[1].basket")
    tables = {"content-type": "application/vnd.apache.arrow.stream"}
    assert up.client.post("/v1/decide/is_big", content=b"", headers=tables).status_code == 415


def test_events_become_features_and_features_decisions(up: Running) -> None:
    now = T0 + MINUTE
    up.move_clock(format_instant(now))
    one = up.post("/v1/events/orders", event(1, at=T0, amount=2.0))
    assert (one.status_code, one.json()["accepted"], one.json()["rejected"]) == (202, 1, [])
    array = b"[" + b",".join(event(n, at=T0 + n, amount=4.0) for n in (2, 3)) + b"]"
    assert up.post("/v1/events/orders", array).json()["accepted"] == 2
    lines = b"\n".join(event(n, at=T0 + n, amount=6.0) for n in (4, 5))
    answer = up.client.post("/v1/events/orders", content=lines, headers={"content-type": "application/x-ndjson"})
    assert answer.json()["offsets"] == {"0": 5}
    moved = up.move_clock(format_instant(now + 1))
    assert (moved["caught_up"], moved["waiting_for"]) == (True, [])

    found = up.post("/v1/features/is_big", {"rows": [ASK, {**ASK, "shop": "z"}]}).json()
    first, second = (dict(zip(found["names"], row["values"], strict=True)) for row in found["rows"])
    assert (first["shop_now.n_10m"], first["shop_now.sum_1h"], first["shop_now.last_1h"]) == (5, 22, 6)
    assert (second["shop_now.n_10m"], second["shop_now.sum_1h"]) == (0, None)
    assert first["basket.over_mean"] == 60 - 22 / 5
    assert found["rows"][0]["statuses"].keys() <= {"missing"}
    assert found["ages_s"].keys() == {"shop_now", "shop_daily", "basket"}

    [decision] = _decide(up, ASK)
    assert 0 <= decision["score"] <= 1
    assert decision["positive"] is (decision["score"] >= 0.5)
    assert (decision["degraded"], decision["why"]) == (False, [])
    several = _decide(up, ASK, {**ASK, "basket": 1.0}, {**ASK, "shop": "nobody"})
    assert [one["id"][-2:] for one in several] == ["-0", "-1", "-2"]
    assert several[0]["score"] == decision["score"]


def test_features_are_the_same_in_every_format_and_of_views_by_name(up: Running) -> None:
    shops = ["a", "z", "a"]
    rows = up.post("/v1/features/is_big", {"rows": [{"shop": shop, "basket": 60.0} for shop in shops]}).json()
    expected = [row["values"] for row in rows["rows"]]
    body = {"columns": {"shop": shops, "basket": [60.0] * 3}}
    columns = up.post("/v1/features/is_big", body).json()
    assert [list(row) for row in zip(*columns["columns"].values(), strict=True)] == expected
    assert list(columns["columns"]) == rows["names"]

    def ask(name: str, content: bytes, **headers: str) -> httpx.Response:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return up.client.post(f"/v1/features/{name}", content=content, headers=sent)

    packed = ask("is_big", msgspec.msgpack.encode(body), content_type="application/msgpack")
    assert packed.headers["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(packed.content)["columns"] == columns["columns"]

    sink = pa.BufferOutputStream()
    table = pa.table(body["columns"])
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    answer = ask("is_big", bytes(sink.getvalue()), content_type="application/vnd.apache.arrow.stream")
    assert answer.status_code == 200, answer.text
    found = pa.ipc.open_stream(answer.content).read_all()
    assert [found.column(name).to_pylist() for name in rows["names"]] == [*columns["columns"].values()]
    assert found.schema.metadata[b"bundle"].decode() == up.status()["endpoints"]["is_big"]["bundle"]
    said = ask("is_big", bytes(sink.getvalue()), content_type="application/vnd.apache.arrow.stream", accept="text/json")
    assert said.json()["columns"] == columns["columns"]

    by_name = up.post("/v1/features/shop_now.n_10m,shop_daily", {"columns": {"shop": shops}}).json()
    assert by_name["columns"] == {
        name: columns["columns"][name] for name in ("shop_now.n_10m", "shop_daily.mean_7d", "shop_daily.n_7d")
    }
    many = up.post("/v1/features/shop_now", {"columns": {"shop": ["a", "b"] * 1_500}}).json()
    assert many["columns"]["shop_now.n_10m"] == [*columns["columns"]["shop_now.n_10m"][:1], 0] * 1_500

    for content_type, accept, status, where in (
        ("application/xml", "*/*", 415, "content-type"),
        ("application/json", "text/html", 406, "accept"),
    ):
        refused = ask("is_big", b"{}", content_type=content_type, accept=accept)
        assert (refused.status_code, refused.json()["error"]["where"]) == (status, where)


def test_a_decision_is_explained_and_rebuilt_bit_for_bit(up: Running) -> None:
    for decision, row in zip(_decide(up, ASK, {**ASK, "basket": 7.25}), (60.0, 7.25), strict=True):
        found = _explained(up, decision["id"])
        assert found["score"] == found["rebuilt"] == decision["score"]
        assert found["identical"] is True
        assert found["inputs"] == {"shop": "a", "basket": row}
        assert found["features"]["basket.basket"] == row
        assert found["why"] == decision["why"]


def test_a_degraded_decision_says_which_row_and_why(up: Running) -> None:
    good, bad = _decide(up, ASK, {**ASK, "basket": -1.0})
    assert (good["degraded"], bad["degraded"]) == (False, True)
    assert "a basket of minus one" in bad["why"][0]
    assert set(bad["statuses"]["missing"]) >= {"basket.basket", "basket.over_mean"}
    assert _explained(up, bad["id"])["identical"] is True


@pytest.mark.parametrize(("id", "status"), [("0-0", 404), ("nonsense", 422), ("0-x", 422), ("0-" + "9" * 5_000, 422)])
def test_an_id_that_is_unknown_or_none_is_told_apart(up: Running, id: str, status: int) -> None:
    answer = up.get(f"/v1/explain/{id}")
    assert answer.status_code == status
    assert answer.json()["error"]["remedy"]


def test_of_a_batch_the_good_are_accepted_and_the_bad_told_and_buried(up: Running) -> None:
    at = T0 + MINUTE
    texts = [event(101, at=at), b'{"order_id": "x", "shop": 7}', event(102, at=at + 10 * MINUTE), event(103, at=at)]
    answer = up.post("/v1/events/orders", b"[" + b",".join(texts) + b"]")
    assert answer.status_code == 202
    found = answer.json()
    assert found["accepted"] == 2
    assert [(r["index"], r["code"], r["path"]) for r in found["rejected"]] == [
        (1, "type", "$.shop"),
        (2, "future", "$.at"),
    ]
    assert all(r["reason"] for r in found["rejected"])
    assert _dead_letters(up.folder) == {"type": "$.shop", "future": "$.at"}
    refused = up.post("/v1/events/orders", b'{"order_id": 1}\n{"order_id": 2}\n')
    assert refused.status_code == 422
    assert (refused.json()["accepted"], len(refused.json()["rejected"])) == (0, 2)


def test_status_says_what_runs_and_how_far_it_is(up: Running) -> None:
    found = up.status()
    assert found["replay"] is True
    assert set(found["endpoints"]["is_big"]["views"]) == {"shop_now", "shop_daily", "basket"}
    lane = found["lanes"]["orders"]
    assert lane["end"]["0"] >= lane["applied"]["0"]
    assert found["batch"]["shop_daily"]["boundary"] == found["batch"]["shop_daily"]["due"]
    ready = up.get("/health/ready").json()
    assert ready.pop("lanes").keys() == {"orders"}
    assert isinstance(ready.pop("waiting_for"), list)
    assert ready == {"ready": True, "reason": None, "endpoints": ["is_big"], "errors": {}, "breakers": []}


def test_readiness_says_how_far_the_lanes_are_and_depends_on_none(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    trained(tmp_path, "big")

    def lanes(up: Running) -> tuple[int, float | None, str]:
        answer = up.get("/health/ready")
        found = answer.json()
        return answer.status_code, found["lanes"]["orders"]["age_s"], " ".join(found["waiting_for"])

    with running(tmp_path, {"serve": []}) as up:
        status, age, waiting = lanes(up)
        assert (status, age, "nearline orders/0: not caught up" in waiting) == (200, None, True)
        up.start("worker")
        until(lambda: "nearline" not in lanes(up)[2], "the worker to catch up")
        status, age, waiting = lanes(up)
        assert status == 200
        assert age is not None
        assert age < 60
        assert "batch shop_daily" in waiting, "nobody lands its versions"


def test_metrics_are_what_prometheus_reads_and_count_what_happened(up: Running) -> None:
    metric = functools.partial(_metric, up)
    before = metric("trilane_decisions_total", endpoint="is_big")
    asked = metric("trilane_requests_total", route="/v1/decide", status="200")
    _decide(up, ASK, ASK)
    assert metric("trilane_decisions_total", endpoint="is_big") == before + 2
    assert metric("trilane_requests_total", route="/v1/decide", status="200") == asked + 1
    unknown = metric("trilane_requests_total", route="unknown", status="404")
    up.get("/nowhere")
    assert metric("trilane_requests_total", route="unknown", status="404") == unknown + 1
    assert metric("trilane_feature_values_total", status="fresh") > 0
    rejected, accepted = (metric("trilane_events_total", fate=fate) for fate in ("rejected", "accepted"))
    up.post("/v1/events/orders", b'[{"order_id": "x", "shop": 7}, ' + event(800, at=T0) + b"]")
    assert metric("trilane_events_total", source="orders", fate="rejected") == rejected + 1
    assert metric("trilane_events_total", source="orders", fate="accepted") == accepted + 1
    until(lambda: metric("trilane_records_total", fate="written") >= before + 2, "the records to be counted")
    assert metric("trilane_lane_age_seconds", source="orders") >= 0


def test_a_clock_moves_forward_only_and_says_whom_it_waits_for(up: Running) -> None:
    back = up.post("/v1/clock", {"now": "2020-01-01T00:00:00Z"})
    assert (back.status_code, "cannot go back" in back.json()["error"]["what"]) == (422, True)
    for body, status in (
        ({"now": "tomorrow"}, 422),
        ({"now": "2030-01-01T00:00:00"}, 422),
        ({"now": 5}, 422),
        ({"now": "2030-01-01T00:00:00Z", "wait_ms": -1}, 422),
        ({"now": "2030-01-01T00:00:00Z", "zone": "UTC"}, 422),
        (b"{", 400),
    ):
        answer = up.post("/v1/clock", body)
        assert (answer.status_code, bool(answer.json()["error"]["remedy"])) == (status, True)
    here = up.status()["now"]
    assert up.post("/v1/clock", {"now": here}).json() == {"now": here, "caught_up": False, "waiting_for": []}


def test_a_new_bundle_takes_over_while_requests_go_on_and_both_are_explained(up: Running) -> None:
    stop, failures, bundles = threading.Event(), list[str](), set[str]()

    def ask() -> None:
        with httpx.Client(base_url=up.client.base_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/v1/decide/is_big", json=ASK)
                if answer.status_code != 200 or answer.json()["decisions"][0]["degraded"]:
                    failures.append(answer.text)
                else:
                    bundles.add(answer.json()["bundle"])

    before = up.status()["endpoints"]["is_big"]["bundle"]
    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    try:
        path = up.folder / "definitions.py"
        path.write_text(path.read_text().replace("threshold=0.5", "threshold=0.0"))
        applied = command(up.folder, "apply")
        assert applied.returncode == 0, applied.stderr
        after = until(lambda: bundles - {before}, "the new bundle to answer")
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert up.status()["endpoints"]["is_big"]["bundle"] in after
    assert _decide(up, {**ASK, "basket": 0.0})[0]["positive"] is True
    records = Records(up.folder / ".trilane" / "records.db")
    rows = [row for batch in records.read("is_big") for row in batch.select(["bundle", "id"]).to_pylist()]
    by_bundle = {row["bundle"][:16]: row["id"] for row in rows}
    records.close()
    assert {before, *after} <= set(by_bundle)
    for id in by_bundle.values():  # also by the bundle that no longer answers
        assert _explained(up, id)["identical"] is True


def test_the_truth_about_readiness_and_several_workers_that_answer_as_one(tmp_path: Path) -> None:
    make_project(tmp_path, apply=False).close()
    with running(tmp_path, {"serve": ["--workers", "2"]}) as up:
        assert up.get("/health/live").status_code == 200
        early = up.get("/health/ready")
        assert (early.status_code, early.json()["ready"]) == (503, False)
        assert "trilane apply" in early.json()["reason"]
        refused = up.post("/v1/decide/is_big", ASK)
        assert (refused.status_code, bool(refused.json()["error"]["remedy"])) == (404, True)
        assert up.post("/v1/events/orders", event(1, at=T0)).status_code == 404
        clock = up.post("/v1/clock", {"now": "2030-01-01T00:00:00Z"})
        assert (clock.status_code, clock.json()["error"]["code"]) == (409, "conflict")

        assert command(tmp_path, "apply").returncode == 0
        until(lambda: "train" in (up.get("/health/ready").json()["reason"] or ""), "the applied definitions")
        until(
            lambda: up.post("/v1/decide/is_big", ASK).status_code == 503, "the endpoint to be known, and not deployed"
        )
        trained(tmp_path, "big")
        until(lambda: up.get("/health/ready").status_code == 200, "the deployed bundle")

        ids: list[str] = []

        def ask() -> None:
            # A connection of its own each time, so that the kernel deals them out to the workers.
            for _ in range(25):
                answer = httpx.post(f"{up.client.base_url}/v1/decide/is_big", json=ASK, timeout=60)
                if answer.status_code == 200:
                    ids.append(answer.json()["decisions"][0]["id"])

        until(lambda: httpx.post(f"{up.client.base_url}/v1/decide/is_big", json=ASK).status_code == 200, "an answer")
        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert len(set(ids)) == len(ids)
        assert len({id[13:19] for id in ids}) == 2, "both workers answer"
        found = Records(tmp_path / ".trilane" / "records.db")
        until(lambda: all(found.find(id) for id in ids), "all decisions to be recorded")
        found.close()
        # A worker tells of its own a few times a second.
        until(lambda: _metric(up, "trilane_decisions_total", endpoint="is_big") >= len(ids), "those of all workers")
        assert up.stop("serve") == 0


def test_the_head_of_what_can_be_got_can_be_got_alone(up: Running) -> None:
    whole, head = up.get("/health/live"), up.client.head("/health/live")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
