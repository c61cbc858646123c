"""A server is watched from outside: its signals, traces in a real collector, exemplars, and its log."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.graphs import graph
from tests.servers import Running, running, trained, until
from tests.shop import make_project
from trilane.apps import deploy
from trilane.apps.config import load_config
from trilane.apps.project import Project

pytestmark = [pytest.mark.journey, pytest.mark.xdist_group("journeys")]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
ASK = {"shop": "a", "basket": 10.0}


class Collector:
    """Takes spans over HTTP as OpenTelemetry's collectors do, and keeps them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.service = ""


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    found = Collector()

    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                found.service = next(a.value.string_value for a in part.resource.attributes if a.key == "service.name")
                for scope in part.scope_spans:
                    found.spans.extend(scope.spans)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serving(folder: Path, *options: str, **keys: object) -> Iterator[Running]:
    make_project(folder).close()
    trained(folder, "big")
    with (folder / "trilane.toml").open("a") as file:
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in keys.items())
    with running(folder, {"serve": options}) as up:
        until(lambda: up.client.get("/health/ready").status_code == httpx.codes.OK, "readiness")
        yield up


def test_a_request_whose_caller_traces_it_is_told_from_its_body_to_its_batch(tmp_path: Path) -> None:
    with collecting() as (collector, url), serving(tmp_path, traces=url, trace_share=0.0) as up:
        header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = up.client.post("/v1/decide/is_big", json=ASK, headers=header)
        up.client.post("/v1/decide/is_big", json=ASK)
        up.client.post("/v1/decide/is_big", json=ASK, headers={"traceparent": "nonsense"})
        spans = until(lambda: [*collector.spans], "spans")
        metrics = up.client.get("/metrics", headers={"accept": "application/openmetrics-text"}).text
    roots = {span.name: span for span in spans}
    root = roots["decide is_big"]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert root.parent_span_id.hex() == PARENT
    facts = {one.key: one.value for one in root.attributes}
    assert facts["trilane.decision"].string_value == answer.json()["decisions"][0]["id"]
    assert facts["trilane.rows"].int_value == 1
    assert [span.name for span in spans if span.parent_span_id == root.span_id] == [
        "decode",
        "queue",
        "batch",
        "answer",
    ]
    inside = [span.name for span in spans if span.parent_span_id == roots["batch"].span_id]
    assert inside == ["features", "model"]
    for span in spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
    assert collector.service == tmp_path.name
    assert re.search(rf'trilane_decide_seconds_bucket.* # {{trace_id="{TRACE}"}}', metrics)


def test_a_request_that_is_refused_is_told_to_a_caller_who_traces_it(tmp_path: Path) -> None:
    make_project(tmp_path).close()
    with (tmp_path / "definitions.py").open("a") as file:
        file.write('\npolicy = tl.Policy(callers=[tl.Caller("poor", rate=0.001, burst=1)])\n')
    with Project(load_config(tmp_path, environment={})) as project:
        deploy.apply(project)
    trained(tmp_path, "big")
    with collecting() as (collector, url):
        with (tmp_path / "trilane.toml").open("a") as file:
            file.write(f'traces = "{url}"\ntrace_share = 0.0\n')
        with running(tmp_path, {"serve": []}) as up:
            for number, (row, caller, status) in enumerate(((0, "", 422), (ASK, "poor", 200), (ASK, "poor", 429))):
                traced = {"traceparent": f"00-{TRACE[:-1]}{number}-{PARENT}-01", "x-trilane-caller": caller}
                assert up.client.post("/v1/decide/is_big", json=row, headers=traced).status_code == status
                up.client.post("/v1/decide/is_big", json=row, headers={"x-trilane-caller": caller})
            roots = until(lambda: _roots(collector, 3), "spans")
    told = {root.trace_id.hex()[-1]: root.attributes[0].value.int_value for root in roots}
    assert told == {"0": 422, "1": 200, "2": 429}


def _roots(collector: Collector, number: int) -> list[Span]:
    found = [span for span in [*collector.spans] if span.parent_span_id.hex() == PARENT]
    return found if len(found) == number else []


def test_a_collector_that_is_gone_costs_no_answer(tmp_path: Path) -> None:
    with serving(tmp_path, traces="http://127.0.0.1:9", trace_share=1.0) as up:
        codes = {up.client.post("/v1/decide/is_big", json=ASK).status_code for _ in range(50)}
    assert codes == {200}


def test_a_slow_request_is_logged_with_its_whole_story_as_one_object(tmp_path: Path) -> None:
    with serving(tmp_path, slow="1us", log_format="json") as up:
        answer = up.client.post("/v1/decide/is_big", json=ASK).json()
        line = until(lambda: _slow(up), "the line")
    assert line["logger"] == "trilane.slow"
    assert (line["route"], line["name"], line["status"]) == ("decide", "is_big", 200)
    assert line["decision"] == answer["decisions"][0]["id"]
    assert list(line["stages"]) == ["decode", "queue", "batch", "batch.features", "batch.model", "answer"]
    assert sum(line["stages"][name] for name in ("decode", "queue", "batch", "answer")) == pytest.approx(
        line["ms"], rel=0.05, abs=0.05
    )
    assert "no values yet" in line["why"]


def test_a_slow_question_of_the_inference_protocol_is_logged_with_its_whole_story(tmp_path: Path) -> None:
    (tmp_path / "models" / "negate").mkdir(parents=True)
    (tmp_path / "models" / "negate" / "model.onnx").write_bytes(graph("Neg", "FP32", (-1, 4)))
    shop = {"name": "shop", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    asked = {
        "is_big": [shop, {"name": "basket", "datatype": "FP64", "shape": [1], "data": [10.0]}],
        "negate": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}],
    }
    with serving(tmp_path, slow="1us", log_format="json") as up:
        found = {name: up.post(f"/v2/models/{name}/infer", {"inputs": inputs}) for name, inputs in asked.items()}
        until(lambda: all(_slow(up, name) for name in asked), "the lines")
        lines = {name: _slow(up, name) for name in asked}
    assert {answer.status_code for answer in found.values()} == {200}
    ids = [one["data"] for one in found["is_big"].json()["outputs"] if one["name"] == "id"]
    assert ids == [[lines["is_big"]["decision"]]]
    assert [(lines[name]["route"], lines[name]["asked_rows"]) for name in asked] == [("infer", 1), ("infer", 2)]
    assert list(lines["is_big"]["stages"]) == ["decode", "queue", "batch", "batch.features", "batch.model", "answer"]
    assert list(lines["negate"]["stages"]) == ["decode", "queue", "batch", "answer"]
    assert lines["negate"]["version"] == "1"
    assert lines["negate"]["actual_ms"] > 0


def _slow(up: Running, name: str = "") -> dict[str, Any]:
    for text in up.said("serve").splitlines():
        if '"trilane.slow"' in text:
            found: dict[str, Any] = json.loads(text)
            if name in ("", found["name"]):
                return found
    return {}


def test_a_storm_of_slow_requests_writes_few_lines_that_say_how_many_they_stand_for(tmp_path: Path) -> None:
    with serving(tmp_path, slow="1us", log_format="json") as up:
        asked = 0
        while "not_told" not in up.said("serve"):
            up.client.post("/v1/decide/is_big", json=ASK)
            asked += 1
            assert asked < 100_000
        lines = [json.loads(text) for text in up.said("serve").splitlines() if '"trilane.slow"' in text]
    told = len(lines) + sum(int(line.get("not_told", 0)) for line in lines)
    assert len(lines) < asked
    assert asked - 10 <= told <= asked


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_signals_are_those_of_all_workers(tmp_path: Path, workers: str) -> None:
    with serving(tmp_path, "--workers", workers, workers=int(workers)) as up:
        for _ in range(40):
            with httpx.Client(base_url=up.client.base_url) as client:  # a connection each, so that all workers get some
                assert client.post("/v1/decide/is_big", json=ASK).status_code == httpx.codes.OK
        found = until(lambda: _counted(up, int(workers), 40), "all workers to tell")
        assert found["p50"] <= found["p95"] <= found["p99"] < 60
        assert 0 < found["utilisation"] < 1
        assert found["capacity"] > found["rate"] > 0
        assert found["in_flight"] == found["queued"] == 0
        text = until(lambda: _gauges(up), "the gauges")
    assert "trilane_utilisation" in text


def _counted(up: Running, workers: int, requests: int) -> dict[str, float]:
    found: dict[str, float] = up.client.get("/v1/signals").json()
    return found if found["replicas"] == workers and round(found["rate"] * found["seconds"]) >= requests else {}


def _gauges(up: Running) -> str:
    text = up.client.get("/metrics").text
    return text if "trilane_cpu_utilisation" in text else ""
